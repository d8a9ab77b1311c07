"""`mesh-agent doctor`: looks at the settings here, at the node and at what it needs, and says what to do.

Called by `agent.cli.parser`; what is seen is judged by `agent.cli.checks`. The settings are those of this environment,
so it says most where the node runs. The one rule: it changes nothing, and no check that fails keeps another from being
made.
"""

import json
import os
import socket
import ssl
import time
from argparse import Namespace
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.cli import checks
from agent.cli.checks import Answer, Finding, Status
from agent.cli.client import Node, NodeUnreachable, exchange, node_of
from agent.cli.mcp import Talk, talk_with
from agent.cli.output import CliFailed, Exit, print_json, rows_in
from agent.cli.run import servers_of, unstartable
from agent.cli.status import STATUS_PATH
from agent.cli.table import print_table
from agent.config.load import Settings, load_settings
from agent.config.tls_files import TlsFault, tls_fault
from agent.errors import ConfigRefused, RpcError
from agent.model import TlsFiles
from discovery.consul.environment import ConsulSettings, TokenSource

WAIT_S = 5.0
PEERS_ASKED_MAX = 3
_DAY_S = 86_400.0


def diagnose(args: Namespace) -> int:
    """Make every check and print its finding; 1 when one of them is a fault. Raises `CliFailed`."""
    settings, refused = _settings()
    found = [checks.settings(refused, () if settings is None else settings.warnings)]
    if settings is not None and not args.url and "MESH_URL" not in os.environ and settings.port_explicit:
        args.url = f"{settings.scheme}://127.0.0.1:{settings.port}"
    node = node_of(args)
    answer, status = _asked(node)
    found += _of_the_node(node, answer, status)
    found += _of_this_machine(node, settings)
    is_bad = any(one.status is Status.FAULT for one in found)
    if args.json:
        rows = [{"check": one.check, "status": one.status, "cause": one.cause, "fix": one.fix or None} for one in found]
        print_json(ok=not is_bad, url=node.url, findings=rows)
    else:
        print_table(
            ["CHECK", "STATUS", "WHAT WAS SEEN"], [(one.check, one.status, one.cause) for one in found], is_wide=True
        )
        fixes = [f"  {one.check}: {one.fix}" for one in found if one.fix]
        print("\n".join(["", "What to do:", *fixes] if fixes else ["", "Nothing is wrong."]))
    return Exit.USAGE if is_bad else Exit.OK


def _settings() -> tuple[Settings | None, str]:
    try:
        return load_settings({}, os.environ), ""
    except ConfigRefused as exc:
        return None, str(exc)


def _asked(node: Node) -> tuple[Answer, dict[str, Any]]:
    """How the node answers for its status, and the status."""
    try:
        status, raw, _, headers = exchange(node, ("GET", STATUS_PATH, None), {}, timeout_s=WAIT_S)
    except NodeUnreachable as exc:
        return Answer(unreachable=exc.reason), {}
    except TimeoutError:
        return Answer(unreachable=f"it did not answer within {WAIT_S:g} s"), {}
    date = headers.get("date")
    clock_s = None if date is None else parsedate_to_datetime(date).timestamp() - time.time()
    try:
        data = json.loads(raw).get("data")
    except (ValueError, AttributeError):
        return Answer(status, f"what answers is no node of a mesh (HTTP {status})"), {}
    return Answer(status, clock_s=clock_s), data if isinstance(data, dict) else {}


def _of_the_node(node: Node, answer: Answer, status: dict[str, Any]) -> Iterator[Finding]:
    host = urlsplit(node.url).hostname or ""
    yield checks.port(node.url, answer, port_is_free=_port_is_free(node.url))
    if answer.unreachable:
        return
    yield checks.host(host, answer)
    yield checks.token(answer, given=node.token is not None)
    yield checks.clock(answer)
    if not status:
        return
    itself = status.get("self") or {}
    catalog = itself.get("discovery") or {}
    yield checks.discovery(catalog)
    yield checks.name(str(itself.get("name")), rows_in(status, "findings"))
    yield checks.links([*rows_in(itself, "servers"), *rows_in(status, "peers")])
    if catalog.get("mode") == "off":
        yield checks.skipped("advertised", "without a catalog, the node tells its address to none")
        return
    peers = [str(peer.get("name")) for peer in rows_in(status, "peers") if peer.get("connected")]
    silent: dict[str, str] = {}
    seen = _seen_by(node, str(itself.get("name")), peers[:PEERS_ASKED_MAX], silent)
    yield checks.advertised(str(itself.get("url")), seen, silent)


def _port_is_free(url: str) -> bool | None:
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=WAIT_S):
            return False
    except OSError:
        return True


def _seen_by(node: Node, own_name: str, peers: list[str], silent: dict[str, str]) -> dict[str, str]:
    """Of each peer why it has no link to this node, empty where it has one; those that do not say go to `silent`."""

    async def ask(client: Talk) -> dict[str, str]:
        seen = {}
        for peer in peers:
            params = {"name": "list_mcp_servers", "arguments": {"node": peer}}
            try:
                result = await client.request("tools/call", params, 4 * WAIT_S)  # It may have to be imported there.
            except (RpcError, CliFailed) as exc:
                silent[peer] = str(exc)
                continue
            rows = rows_in(result.get("structuredContent"), "servers")
            us = next((row for row in rows if row.get("name") == own_name), None)
            if us is None:
                seen[peer] = "it does not know this node"
            else:
                seen[peer] = "" if us.get("connected") else str(us.get("last_error") or us.get("status"))
        return seen

    try:
        return talk_with(node, ask)
    except CliFailed:
        return {}


def _of_this_machine(node: Node, settings: Settings | None) -> Iterator[Finding]:
    if settings is None:
        return
    yield checks.dns({host: _resolution_fault(host) for host in _hosts(node, settings)})
    yield checks.tls(_certificates(settings))
    yield _servers(settings)
    if settings.discovery in ("off", "embedded") or not (settings.discovery == "consul" or settings.consul.explicit):
        yield checks.skipped("consul", f"it is not set here (MESH_DISCOVERY={settings.discovery})")
    else:
        yield _consul(settings.consul, settings.service_name)


def _hosts(node: Node, settings: Settings) -> list[str]:
    """Everything that is named by a host name."""
    urls = [node.url, *(peer.url for peer in settings.peers)]
    if settings.consul.explicit and settings.consul.socket_path is None:
        urls.append(settings.consul.url)
    hosts = dict.fromkeys(urlsplit(url).hostname or "" for url in urls)
    return [host for host in hosts if host and not host.replace(".", "").isdecimal() and ":" not in host]


def _resolution_fault(host: str) -> str:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return "cannot be resolved"
    return ""


def _certificates(settings: Settings) -> Iterator[tuple[str, str, float | None]]:
    sets = [
        ("MESH_TLS_*", settings.tls_ca, settings.tls_cert, settings.tls_key),
        ("MESH_LISTEN_*", settings.listen_ca, settings.listen_cert, settings.listen_key),
    ]
    for what, *paths in sets:
        ca, cert, key = (None if path is None else str(path) for path in paths)
        if ca is None and cert is None:
            continue
        fault: TlsFault | None = tls_fault(TlsFiles(ca, cert, key))
        yield what, "" if fault is None else str(fault), None if fault or cert is None else _days_left(Path(cert))


def _days_left(path: Path) -> float | None:
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - few nodes have a certificate

    try:
        first = load_pem_x509_certificates(path.read_bytes())[0]
    except (OSError, ValueError, IndexError):
        return None
    return (first.not_valid_after_utc.timestamp() - time.time()) / _DAY_S


def _servers(settings: Settings) -> Finding:
    if settings.servers_file is None:
        return checks.skipped("servers", "no servers file is set here (MESH_SERVERS_FILE)")
    try:
        file = servers_of(settings)
    except ConfigRefused as exc:
        return checks.commands([str(exc)], 0)
    faults = [reason for entry in file.left_out if entry.enabled for reason in entry.reasons]
    faults += [f"server {name}: {fault}" for name, fault in unstartable(file.servers)]
    return checks.commands(faults, sum(one.enabled for one in file.servers))


def _consul(consul: ConsulSettings, service: str) -> Finding:
    """Ask for the leader, and for the rights of the token, which changes nothing."""
    if consul.socket_path is not None:
        return checks.skipped("consul", "it is reached by a unix socket; the check of discovery says how it is")
    tls = TlsFiles(consul.ca_cert, consul.client_cert, consul.client_key, is_checked=consul.verify)
    node, token = Node(consul.url, None, tls), TokenSource(consul).current()
    headers = {"X-Consul-Token": token} if token else {}
    wanted = [("service", "write", service), ("service", "read", service), ("node", "read", "any")]
    body = [{"Resource": kind, "Access": access, "Segment": segment} for kind, access, segment in wanted]
    try:
        _, leader, _, _ = exchange(node, ("GET", "/v1/status/leader", None), headers, timeout_s=WAIT_S)
        request = ("POST", "/v1/internal/acl/authorize", json.dumps(body).encode())
        status, raw, _, _ = exchange(node, request, headers, timeout_s=WAIT_S)
    except NodeUnreachable as exc:
        return checks.consul(consul.url, exc.reason, False, {})
    except (TimeoutError, ssl.SSLError):
        return checks.consul(consul.url, f"it did not answer within {WAIT_S:g} s", False, {})
    rights: dict[str, bool] | str = {}
    if status == 200:  # noqa: PLR2004 - HTTP's
        rows = json.loads(raw)
        rights = {f"{row['Resource']}:{row['Access']}": row.get("Allow") is True for row in rows}
    elif b"disabled" not in raw:  # Without ACLs, everything is allowed.
        rights = raw.decode("utf-8", "replace")[:200]
    return checks.consul(consul.url, "", leader.strip() not in (b"", b'""'), rights)
