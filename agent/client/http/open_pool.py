"""The pool of connections to one target, with what its URL, its TLS files and this node's surroundings say about it.

Called where a client or a handshake over HTTP is begun. The one rule: what cannot be used is refused here, before
anything is dialled.
"""

from functools import partial
from urllib.parse import urlsplit

from agent.client.dial_guard import check_url
from agent.client.http.dial import Dialler, tls_context
from agent.client.http.fields import headers_of
from agent.client.http.origin import port_of
from agent.client.http.pool import HttpPool
from agent.client.http.silence import noted
from agent.client.outbound import DIRECT, Outbound
from agent.client.proxies import ProxyFault
from agent.config.tls_files import TlsFault
from agent.descriptors import said_shortage
from agent.errors import ProtocolBroken, Unreachable
from agent.model import HttpTarget


def open_pool(target: HttpTarget, *, connect_timeout_s: float, outbound: Outbound = DIRECT) -> HttpPool:
    """The pool of one target, to be closed or left as a context manager; nothing is dialled yet.

    Raises `DialRefused`, `ProtocolBroken` for a bad URL or a TLS file that cannot be used, and `Unreachable` where this
    node has no descriptor to read it.
    """
    try:
        url = check_url(target.url)
    except ValueError as exc:
        raise ProtocolBroken(str(exc)) from exc
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    assert parts.hostname is not None, "the URL was checked"
    try:
        files = outbound.files_for(target)
        context = partial(tls_context, files, outbound.tls) if tls else None
        dialler = Dialler(
            parts.hostname,
            port_of(parts),
            tls=tls,
            timeout_s=connect_timeout_s,
            context=context,
            proxy=outbound.proxies.of(url),
            judges_name=outbound.judges_names,
            binding=outbound.binding,
            server_name="" if files is None else files.server_name,
        )
        return HttpPool(url, headers_of(target), dialler, outbound)
    except ValueError as exc:
        what = ""
        if isinstance(exc, TlsFault):
            what = f"has a TLS file that cannot be used: {exc.field}: "
            if isinstance(exc.__cause__, OSError) and (lack := said_shortage(exc.__cause__)):
                raise noted(
                    Unreachable(f"{url.partition('?')[0]} cannot be reached, as {lack}"), exc.__cause__
                ) from exc
        elif isinstance(exc, ProxyFault):
            what = "would be reached through a proxy, but "
        raise ProtocolBroken(f"{url.partition('?')[0]} {what}{exc}") from exc
