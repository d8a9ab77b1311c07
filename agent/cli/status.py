"""`mesh-agent status`, `peers` and `servers ls`: what a node's REST API says, as tables or as JSON.

Called by `agent.cli.parser`. The one rule: a field that an older or newer node does not send is a dash, not a
traceback.
"""

from argparse import Namespace
from typing import Any
from urllib.parse import quote

from agent.cli.client import ask, node_of, token_from
from agent.cli.output import CliFailed, Exit, as_duration, print_json, rows_in, with_nearest
from agent.cli.table import print_list, print_table
from agent.harmless_text import one_line

PEERS_PATH = "/api/v1/mcp/peers"
NAMES_CHARS_MAX = 1000
CELL_CHARS_MAX = 60
_ABOUT_HEADS = ("NAME", "TITLE", "VERSION", "WEBSITE", "ICONS", "INSTRUCTIONS")
_WAITING = ("backoff", "parked")
SERVERS_PATH = "/api/v1/mcp/servers"
STATUS_PATH = "/api/v1/mcp/status"


def list_peers(args: Namespace) -> int:
    """Print the peers."""
    data, _ = ask(node_of(args), "GET", PEERS_PATH)
    peers, suppressed = rows_in(data, "peers"), suppressed_names(data)
    if args.json:
        print_json(peers=peers, suppressed=suppressed)
        return Exit.OK
    heads = ["NAME", "CONNECTED", "STATE", "SOURCE", "TOOLS", "URL", "ALSO KNOWN AS", "LAST ERROR"]
    rows = [_listed_peer(peer) for peer in peers]
    if args.output == "wide":
        heads = [*heads, "LATENCY", "NEXT TRY", "SCOPE", "KIND", "WEIGHT", "MAINTENANCE", "DATACENTRE", "NODE ID"]
        rows = [[*row, *_more_of(peer)] for row, peer in zip(rows, peers, strict=True)]
    print_list(args.output, heads, rows, empty="no peers")
    if args.output != "name":
        print_suppressed(suppressed)
    return Exit.OK


def _listed_peer(peer: dict[str, Any]) -> list[Any]:
    fields = ("name", "connected", "state", "source", "function_count", "url")
    aliases = peer.get("aliases")
    also = ", ".join(map(str, aliases)) if isinstance(aliases, list) else ""
    return [*(peer.get(field) for field in fields), also or None, peer.get("last_error")]


def _more_of(peer: dict[str, Any]) -> list[Any]:
    """What a wide list has beside the columns of any."""
    fields = [peer.get(field) for field in ("scope", "kind", "weight", "maintenance", "datacenter", "node_id")]
    return [_latency(peer), _next_try(peer), *fields]


def suppressed_names(data: Any) -> list[str]:
    """Read the names of removed peers that discovery may not bring back, each once, from the answer about peers."""
    names = data.get("suppressed") if isinstance(data, dict) else None
    return list(dict.fromkeys(str(name) for name in names)) if isinstance(names, list) else []


def print_suppressed(names: list[str]) -> None:
    """Say which peers are kept away by an operator's override, and how that ends; nothing when there are none."""
    if names:
        print(
            f"\nRemoved, and kept away although discovery may find them: {one_line(', '.join(names), NAMES_CHARS_MAX)}"
        )
        print("To lift that: mesh-agent peers reset NAME")


def add_peer(args: Namespace) -> int:
    """Add a peer, and say whether it could be reached."""
    body = {"peer_name": args.name, "peer_url": args.peer_url}
    if args.auth_token_file:
        body["auth_token"] = token_from(args.auth_token_file)
    elif args.auth_token:
        body["auth_token"] = token_from("-")
    if args.scope:
        body["scope"] = args.scope
    if args.kind:
        body["kind"] = args.kind
    data, message = ask(node_of(args), "POST", PEERS_PATH, body)
    _say(args, data, message)
    _say_note(args, data)
    return Exit.OK


def remove_peer(args: Namespace) -> int:
    """Remove a peer."""
    return _delete_peer(args, "")


def reset_peer(args: Namespace) -> int:
    """Undo what operators ordered about a peer."""
    return _delete_peer(args, "?forget=1")


def _delete_peer(args: Namespace, query: str) -> int:
    node = node_of(args)
    try:
        data, message = ask(node, "DELETE", f"{PEERS_PATH}/{quote(args.name, safe='')}{query}")
    except CliFailed as exc:
        if exc.error != "unknown_peer":
            raise
        listed, _ = ask(node, "GET", PEERS_PATH)
        rows = rows_in(listed, "peers")
        known = [peer.get("name") for peer in rows if not query or peer.get("source") == "override"]
        known += suppressed_names(listed) if query else []
        raise with_nearest(exc, args.name, known) from exc
    _say(args, data, message)
    _say_note(args, data)
    return Exit.OK


def list_servers(args: Namespace) -> int:
    """Print the servers of the node, its peers among them."""
    data, _ = ask(node_of(args), "GET", SERVERS_PATH)
    servers = rows_in(data, "servers")
    if args.json:
        print_json(servers=servers)
        return Exit.OK
    if args.output == "wide":
        said = [_about(name, about) for row in servers for name, about in _said(row)]
        print_list(args.output, _ABOUT_HEADS, said, empty="no servers")
        return Exit.OK
    heads = ["NAME", "CONFIGURED AS", "STATUS", "FUNCTIONS", "NEXT TRY", "LAST ERROR"]
    rows = [
        (row.get("name"), _configured_name(row), _state(row), _count(row), _next_try(row), row.get("last_error"))
        for row in servers
    ]
    print_list(args.output, heads, rows, empty="no servers")
    return Exit.OK


def _said(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The names of a server and its word of itself; of a peer those of each server behind it."""
    behind = [(str(one.get("name")), one.get("about")) for one in rows_in(row, "servers")]
    found = behind or [(str(row.get("name")), row.get("about"))]
    return [(name, about if isinstance(about, dict) else {}) for name, about in found]


def _about(name: str, about: dict[str, Any]) -> tuple[Any, ...]:
    icons = about.get("icons")
    sources = [str(icon.get("src")) for icon in icons if isinstance(icon, dict)] if isinstance(icons, list) else []
    cells = [_beginning(", ".join(sources)) or None, _beginning(about.get("instructions"))]
    return (name, *(about.get(member) for member in ("title", "version", "websiteUrl")), *cells)


def _beginning(text: Any) -> str | None:
    """A text in a cell; the whole one is in `--json`."""
    if not isinstance(text, str):
        return None
    return text if len(text) <= CELL_CHARS_MAX else f"{text[:CELL_CHARS_MAX]}…"


def _say(args: Namespace, data: Any, message: str) -> None:
    if args.json:
        print_json(data=data, message=message)
    else:
        inner = data.get("message") if isinstance(data, dict) else None
        print(one_line(str(inner or message or "done")))


def _say_note(args: Namespace, data: Any) -> None:
    """What the node adds to its answer, for people; with `--json` it is in the data."""
    if (note := _table(data).get("note")) and not args.json:
        print(one_line(str(note)))


def _state(server: dict[str, Any]) -> Any:
    return server.get("status") or server.get("state") or server.get("connected")


def _count(server: dict[str, Any]) -> Any:
    functions = server.get("functions")
    return len(functions) if isinstance(functions, list) else server.get("function_count")


def show_status(args: Namespace) -> int:
    """Ask the node for its status and print it."""
    node = node_of(args)
    data, _ = ask(node, "GET", STATUS_PATH)
    status = _table(data)
    if args.json:
        print_json(**status)
        return Exit.OK
    listed, _ = ask(node, "GET", PEERS_PATH)  # The status does not list suppressed peers.
    itself = _table(status.get("self"))
    peers = [_table(peer) for peer in status.get("peers") or ()]
    _print_self(itself)
    print_table(
        ["NAME", "STATE", "SOURCE", "TOOLS", "LATENCY", "NEXT TRY", "URL", "LAST ERROR"],
        [_self_row(itself), *(_peer_row(peer) for peer in peers)],
    )
    conflicts = [_table(conflict) for conflict in status.get("conflicts") or ()]
    if conflicts:
        print("\nNames that more than one claims:")
        print_table(
            ["NAME", "HOLDER", "OTHERS", "REASON"],
            [(row.get("name"), row.get("holder"), _words(row.get("others")), row.get("reason")) for row in conflicts],
        )
    _print_left_out(status, [*(_table(server) for server in itself.get("servers") or ()), *peers])
    if departed := rows_in(status, "departed"):
        print("\nPeers that went in the last hour:")
        rows = [
            [one.get("name"), one.get("state"), as_duration(one.get("since_s")), one.get("url"), one.get("last_error")]
            for one in departed
        ]
        print_table(["NAME", "STATE", "SINCE", "URL", "LAST ERROR"], rows)
    findings = [_table(finding) for finding in status.get("findings") or ()]
    if findings:
        print("\nWhat discovery and overrides could not agree on:")
        print_table(
            ["NAME", "KIND", "DETAIL"], [[row.get(key) for key in ("name", "kind", "detail")] for row in findings]
        )
    print_suppressed(suppressed_names(listed))
    return Exit.OK


def _print_left_out(status: dict[str, Any], backends: list[dict[str, Any]]) -> None:
    if fault := _table(status.get("self")).get("servers_file_fault"):
        print("\nThe servers file is refused as it is now, and its servers run on as they were:")
        print(f"  {one_line(str(fault), NAMES_CHARS_MAX)}")
    if fault := _table(_table(status.get("self")).get("tokens")).get("fault"):
        print("\nThe tokens file is not used as it is now, and its tokens stay as they were:")
        print(f"  {one_line(str(fault), NAMES_CHARS_MAX)}")
    faults = [(row.get("name"), fault) for row in backends for fault in rows_in(row, "failed_lists")]
    if faults:
        print("\nLists that could not be read; the last known entries are kept:")
        rows = [(name, fault.get("list"), fault.get("reason")) for name, fault in faults]
        print_table(["NAME", "LIST", "REASON"], rows)
    if left_out := rows_in(status, "left_out"):
        print("\nLeft out, because clients could not read a list with it:")
        fields = ["backend", "kind", "name", "why"]
        print_table(["BACKEND", "KIND", "NAME", "WHY"], [[row.get(field) for field in fields] for row in left_out])


def _print_self(itself: dict[str, Any]) -> None:
    head = [f"{_text(itself.get('name'))} is {_text(itself.get('state'))}"]
    if up := as_duration(itself.get("uptime_s")):
        head.append(f"up {up}")
    head += [f"version {_text(itself.get('version'))}", f"node ID {_text(itself.get('node_id'))}"]
    print(", ".join(head))
    _print_discovery(_table(itself.get("discovery")))
    print(f"tools of servers, on all nodes: {_text(itself.get('tools'))}")
    servers = [_table(server) for server in itself.get("servers") or ()]
    if servers:
        names = [f"{_server_name(row)} ({_server_state(row)})" for row in servers]
        print(f"servers: {', '.join(names)}")
        for row in servers:
            if row.get("last_error") and not row.get("connected"):
                print(f"  {_text(row.get('name'))}: {_text(row['last_error'])}")
            hints = row.get("hints")
            for hint in hints if isinstance(hints, list) else ():
                print(f"  {_text(row.get('name'))}: {one_line(str(hint), NAMES_CHARS_MAX)}")
    left_out = [_table(entry) for entry in itself.get("servers_left_out") or ()]
    if left_out:
        print("entries of the servers file that are left out:")
        for entry in left_out:
            reasons = entry.get("reasons")
            for reason in reasons if isinstance(reasons, list) else ():
                print(f"  {one_line(str(reason), NAMES_CHARS_MAX)}")
            if entry.get("keeps_running"):
                print(f"  {_text(entry.get('name'))} runs on as it was before")
    print()


def _print_discovery(discovery: dict[str, Any]) -> None:
    print(f"discovery: {discovery_line(discovery)}")
    for source in map(_table, discovery.get("sources") or ()):
        fault = f", last error: {_text(source['last_error'])}" if source.get("last_error") else ""
        up = "up" if source.get("up") else "down"
        hidden = ", the token lacks node:read or service:read" if source.get("filtered_by_acls") and not fault else ""
        print(f"  {_text(source.get('name'))}: {up}, {_text(source.get('instances'))} instances{fault}{hidden}")


def discovery_line(discovery: dict[str, Any]) -> str:
    """Say in one line where peers come from and how far that can be trusted."""
    mode = _text(discovery.get("mode"))
    parts = [f"{mode} ({_text(discovery['reason'])})" if discovery.get("reason") else mode]
    if mode == "off":
        return parts[0]
    parts.append("up" if discovery.get("up") else "down")
    parts.append("registered" if discovery.get("registered") else "not registered")
    if isinstance(instances := discovery.get("instances"), int):
        parts.append(f"{instances} instances")
    if age := as_duration(discovery.get("catalog_age_s")):
        parts.append(f"catalog {age} old" + _confirmed(discovery))
    if discovery.get("last_error"):
        parts.append(f"last error: {_text(discovery['last_error'])}")
    return ", ".join(parts)


def _confirmed(discovery: dict[str, Any]) -> str:
    """By what that answer was given, and when the servers themselves last said so."""
    backend, ago = discovery.get("backend"), as_duration(discovery.get("confirmed_s"))
    by = f" by {'the cache of its agent' if backend == 'streaming' else _text(backend)}" if backend else ""
    if ago:
        return f"{by}, confirmed {ago} ago"
    return f"{by}, not confirmed yet" if "confirmed_s" in discovery else by


def _self_row(itself: dict[str, Any]) -> list[Any]:
    """TOOLS is what the node in the row serves itself, its management tools included; so it is for peers."""
    name = f"{_text(itself.get('name'))} (this node)"
    return [name, itself.get("state"), "self", itself.get("function_count"), None, None, itself.get("url"), None]


def _peer_row(peer: dict[str, Any]) -> list[Any]:
    return [
        peer.get("name"),
        peer.get("state"),
        peer.get("source"),
        peer.get("function_count"),
        _latency(peer),
        _next_try(peer),
        peer.get("url"),
        peer.get("last_error"),
    ]


def _latency(peer: dict[str, Any]) -> str | None:
    latency_ms = peer.get("latency_ms")
    return f"{latency_ms:.1f} ms" if isinstance(latency_ms, int | float) else None


def _configured_name(server: dict[str, Any]) -> Any:
    """What the servers file calls it, where that is another name."""
    configured = server.get("configured_name")
    return configured if configured != server.get("name") else None


def _server_name(server: dict[str, Any]) -> str:
    configured = _configured_name(server)
    return (
        f"{_text(server.get('name'))}, configured as {_text(configured)}" if configured else _text(server.get("name"))
    )


def _server_state(server: dict[str, Any]) -> str:
    """Its state in words, and of one that waits when it is tried again."""
    next_try = _next_try(server)
    return _text(_state(server)) + (f", next try {next_try}" if next_try else "")


def _next_try(link: dict[str, Any]) -> str | None:
    """When a link that waits is dialled again; None for one that is up, or is being dialled now."""
    wait = as_duration(link.get("next_attempt_s"))
    return f"in {wait}" if wait and link.get("state") in _WAITING else None


def _words(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value or "")


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "-" if value in (None, "") else one_line(str(value), 300)
