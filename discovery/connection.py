"""The connection pool to one Consul agent: TCP or unix socket, plain or TLS.

Opened by `consul_client.open_client`. The one rule: a file that cannot be used is refused at once, by name.
"""

import ssl

import aiohttp

from discovery.environment import ConsulSettings
from discovery.errors import AgentUnreachable, SettingsRefused


def open_pool(settings: ConsulSettings) -> aiohttp.ClientSession:
    """Make the session that all calls share; the caller enters and leaves it. Needs a running loop.

    Raises:
        SettingsRefused: a TLS file is missing or is no PEM file.
    """
    # limit=0: a waiting query holds its connection, and a heartbeat must never queue behind one.
    connector: aiohttp.BaseConnector
    if settings.socket_path:
        connector = aiohttp.UnixConnector(settings.socket_path, limit=0)
    else:
        connector = aiohttp.TCPConnector(limit=0, ssl=tls_context(settings))
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), middlewares=(no_silent_repeat,)
    )


async def no_silent_repeat(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Let a broken waiting query fail instead of being repeated.

    aiohttp quietly sends a GET again when a pooled connection breaks. A waiting query would then carry its old index
    to a restarted agent, whose lower index hides every change for the whole wait; the watch has to know.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        if "index" in request.url.query:
            raise AgentUnreachable(f"the connection broke while waiting ({type(exc).__name__})") from exc
        raise


def tls_context(settings: ConsulSettings) -> ssl.SSLContext | bool:
    """The context for an https agent; True, aiohttp's word for its default, where none is needed."""
    if not settings.url.startswith("https:"):
        return True
    try:
        context = ssl.create_default_context(cafile=settings.ca_cert)
        if not settings.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if settings.client_cert:
            context.load_cert_chain(settings.client_cert, settings.client_key)
    except (OSError, ssl.SSLError) as exc:
        names = "CONSUL_CACERT, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY"
        raise SettingsRefused(f"{names}: a file cannot be used ({exc}): name readable PEM files") from exc
    return context
