"""What operators read of links: the seed's fields, ours beside them, never a secret, numbers that mean something."""

from dataclasses import replace

from agent.config.servers_file import LeftOut
from agent.control.membership import MembershipView
from agent.lossless_json.exact import as_plain, read_json
from agent.model import (
    ORIGIN_META_KEY,
    Era,
    HttpTarget,
    LinkState,
    LinkView,
    ListFault,
    NodeIdentity,
    Offer,
    PeerSource,
    PeerSpec,
    ServerScope,
    ServerSpec,
    Sessions,
    StdioTarget,
)
from agent.rest.descriptions import (
    TEXTS_BYTES_MAX,
    describe_conflicts,
    describe_disabled,
    describe_functions,
    describe_left_out,
    describe_peer,
    describe_server,
    describe_unused_entry,
    own_findings,
    public_names,
    servers_behind,
    split_views,
)
from agent.routing.build import build_routes
from agent.routing.table import Contribution, ContributionKind, LeftOutEntry
from discovery.model import RegistrarStatus, SourceStatus

OWN = NodeIdentity("id-own", "own")
SECRET = "s3cret-token"
PEER = PeerSpec("two", HttpTarget("http://two:8000/mcp", (("X-Key", SECRET),), SECRET), PeerSource.OVERRIDE)
OFFER = Offer(tools=({"name": "add", "description": "Adds.", "inputSchema": {"type": "object"}},), digest="d")
READY = LinkView(
    PEER,
    LinkState.READY,
    OFFER,
    NodeIdentity("id-two", "two"),
    Era.MODERN,
    latency_s=0.0123456,
    ready_at_s=5.0,
)


def test_a_peer_has_the_seeds_fields_and_no_secret() -> None:
    shown = describe_peer(READY, 10.0)
    assert shown["name"] == "two"
    assert shown["url"] == "http://two:8000/mcp"
    assert shown["description"] == "Peer node at http://two:8000/mcp"
    assert shown["connected"] is True
    assert shown["function_count"] == 1
    assert shown["latency_ms"] == 12.346
    assert SECRET not in str(shown)
    assert SECRET not in str(describe_server(READY, {}, 10.0))


def test_a_peer_that_is_down_shows_no_functions_and_when_it_is_tried_again() -> None:
    down = LinkView(PEER, LinkState.BACKOFF, OFFER, last_error="refused", attempts=3, next_attempt_at_s=12.5)
    shown = describe_peer(down, 10.0)
    assert (shown["connected"], shown["function_count"], shown["next_attempt_s"]) == (False, 0, 2.5)
    assert describe_peer(down, 99.0)["next_attempt_s"] == 0.0
    server = describe_server(down, {}, 10.0)
    assert (server["status"], server["functions"]) == ("backoff", [])


def test_a_suspect_still_counts_as_connected() -> None:
    assert describe_server(LinkView(PEER, LinkState.SUSPECT), {}, 0.0)["status"] == "connected"


def test_functions_have_the_name_of_their_server_and_that_of_the_mesh() -> None:
    server = LinkView(ServerSpec("kit", StdioTarget("kit"), ServerScope.NODE), LinkState.READY, OFFER)
    table = build_routes([Contribution(server.key, ContributionKind.SERVER, "kit", OWN, ServerScope.NODE, OFFER)], OWN)
    names = public_names(table)
    assert describe_functions(server, names) == [{"name": "add", "mesh_name": "own__kit__add", "description": "Adds."}]
    assert describe_functions(server, {})[0]["mesh_name"] is None


def test_an_imported_function_is_called_as_its_own_server_calls_it() -> None:
    tool = {"name": "two__kit__add", "_meta": {ORIGIN_META_KEY: {"tool": "add"}}}
    odd = [{"name": "x", "_meta": "nonsense"}, {"name": "y", "_meta": {ORIGIN_META_KEY: 7}}]
    view = LinkView(PEER, LinkState.READY, Offer(tools=(tool, *odd)))
    assert [function["name"] for function in describe_functions(view, {})] == ["add", "x", "y"]


def test_a_description_that_is_no_text_is_shown_as_none() -> None:
    said = read_json(b"[1" + b"0" * 400 + b', ["a"], 7, null, "\\ud83da"]')
    view = replace(READY, offer=Offer(tools=tuple({"name": "t", "description": one} for one in said)))
    shown = [function["description"] for function in describe_functions(view, {})]
    assert shown[:-1] == [""] * 4
    assert as_plain(shown[-1]) == "\ufffda"


def test_a_server_says_whether_it_is_sticky() -> None:
    spec = ServerSpec("kit", StdioTarget("kit"), ServerScope.SERVICE, sticky=True)
    assert describe_server(LinkView(spec), {}, 0.0)["sticky"] is True
    assert describe_disabled(spec)["sticky"] is True


def test_a_server_says_whether_clients_share_its_session() -> None:
    for sessions in Sessions:
        spec = ServerSpec("kit", StdioTarget("kit"), ServerScope.SERVICE, sessions=sessions)
        assert describe_server(LinkView(spec), {}, 0.0)["sessions"] == sessions.value
        assert describe_disabled(spec)["sessions"] == sessions.value


def test_a_disabled_server_is_shown_without_a_link() -> None:
    shown = describe_disabled(
        ServerSpec("off", HttpTarget("http://x", token=SECRET), ServerScope.SERVICE, enabled=False)
    )
    assert (shown["status"], shown["enabled"], shown["transport"]) == ("disabled", False, "http")
    assert SECRET not in str(shown)


def test_a_server_with_a_safe_name_shows_what_the_servers_file_calls_it() -> None:
    spec = ServerSpec("My-Kit", StdioTarget("kit"), ServerScope.NODE, configured_name="My Kit")
    assert describe_server(LinkView(spec), {}, 0.0)["configured_name"] == "My Kit"
    assert describe_disabled(spec)["configured_name"] == "My Kit"
    plain = ServerSpec("kit", StdioTarget("kit"), ServerScope.NODE)
    assert "configured_name" not in describe_server(LinkView(plain), {}, 0.0)


def test_an_entry_that_is_left_out_shows_every_reason_and_whether_the_server_runs_on() -> None:
    shown = describe_unused_entry(LeftOut("My-Kit", "My Kit", ("s.json:1: a", "s.json:2: b"), keeps_running=True))
    assert shown == {
        "name": "My-Kit",
        "configured_name": "My Kit",
        "reasons": ["s.json:1: a", "s.json:2: b"],
        "enabled": True,
        "keeps_running": True,
    }


def test_every_conflict_is_shown_once_though_two_tables_know_it() -> None:
    twins = [
        Contribution(
            f"peer:{n}", ContributionKind.MESH_PEER, "twin", NodeIdentity(f"id-{n}", "twin"), None, imported(f"id-{n}")
        )
        for n in (1, 2)
    ]
    table = build_routes(twins, OWN)
    shown = describe_conflicts([table, table])
    assert shown == describe_conflicts([table])
    assert [(entry["name"], entry["reason"]) for entry in shown] == [("twin", "node_name")]


def test_what_two_servers_list_wrongly_under_one_name_is_shown_of_each_and_is_no_conflict() -> None:
    malformed = Offer(tools=({"name": "bad", "inputSchema": 1},), digest="1")
    servers = [
        Contribution(f"server:{n}", ContributionKind.SERVER, n, None, ServerScope.NODE, malformed) for n in ("a", "b")
    ]
    table = build_routes(servers, OWN)
    assert describe_conflicts([table]) == []
    shown = describe_left_out(table)
    assert [(entry["backend"], entry["kind"], entry["name"]) for entry in shown] == [
        ("server:a", "tool", "bad"),
        ("server:b", "tool", "bad"),
    ]
    assert {entry["why"] for entry in shown} == {"inputSchema is no schema, but 1"}


def test_a_server_shows_its_own_failed_lists_and_what_of_it_is_left_out() -> None:
    offer = Offer((7, {"name": "add", "description": None}), faults=(ListFault("prompts/list", "error -32603: x"),))  # type: ignore[arg-type]  # as a hostile server lists
    spec = ServerSpec("kit", StdioTarget("kit"), ServerScope.SERVICE)
    left_out = [LeftOutEntry("server:kit", "tool", "number 1", "no object"), LeftOutEntry("server:b", "tool", "x", "y")]
    shown = describe_server(LinkView(spec, LinkState.READY, offer), {}, 0.0, left_out)
    assert shown["failed_lists"] == [{"list": "prompts/list", "reason": "error -32603: x"}]
    assert shown["left_out"] == [{"kind": "tool", "name": "number 1", "why": "no object"}]
    assert shown["functions"] == [{"name": "add", "mesh_name": None, "description": ""}]
    down = describe_server(LinkView(spec, LinkState.BACKOFF, offer), {}, 0.0)
    assert down["failed_lists"] == [], "nothing is known of its lists"


def test_a_server_whose_sessions_may_differ_while_all_share_one_says_what_to_set() -> None:
    def hints(sessions: Sessions, *, lists_may_differ: bool = True, state: LinkState = LinkState.READY) -> list[str]:
        spec = ServerSpec("kit", HttpTarget("http://kit/mcp"), ServerScope.SERVICE, sessions=sessions)
        shown: list[str] = describe_server(LinkView(spec, state, lists_may_differ=lists_may_differ), {}, 0.0)["hints"]
        return shown

    (hint,) = hints(Sessions.SHARED)
    assert '"listChanged"' in hint
    assert '"mesh": {"sessions": "auto"}' in hint
    assert hints(Sessions.AUTO) == hints(Sessions.OWN) == []
    assert hints(Sessions.SHARED, lists_may_differ=False) == []
    assert hints(Sessions.SHARED, state=LinkState.BACKOFF) == [], "nothing is known of it"


def imported(node_id: str) -> Offer:
    origin = {"node": "twin", "node_id": node_id, "server": "kit", "tool": "add", "scope": "node", "via": []}
    return Offer(
        tools=({"name": "twin__kit__add", "inputSchema": {"type": "object"}, "_meta": {ORIGIN_META_KEY: origin}},),
        digest=node_id,
    )


def test_servers_come_before_peers_each_by_name() -> None:
    views = [READY, LinkView(ServerSpec("b", StdioTarget("b"), ServerScope.NODE))]
    views.append(LinkView(ServerSpec("a", StdioTarget("a"), ServerScope.NODE, enabled=True)))
    servers, peers = split_views(views)
    assert [view.spec.name for view in servers] == ["a", "b"]
    assert peers == [READY]


def test_addresses_of_peers_are_shown_to_operators_alone() -> None:
    assert describe_server(READY, {}, 0.0)["url"] == PEER.target.url
    assert PEER.target.url not in str(describe_server(READY, {}, 0.0, with_url=False))


def test_a_list_for_models_has_the_texts_of_servers_of_other_nodes_as_far_as_there_is_room() -> None:
    texts = {"a": "long " * 2_500, "b": "long " * 2_500, "c": "long " * 2_500, "d": "short"}
    parts = [
        Contribution(
            f"peer:{name}",
            ContributionKind.PLAIN_PEER,
            name,
            None,
            None,
            OFFER,
            about={"title": name.upper(), "instructions": text},
        )
        for name, text in texts.items()
    ]
    table = build_routes(parts, OWN, for_clients=True)
    found = servers_behind(table, texts_bytes_max=TEXTS_BYTES_MAX)
    shown = {name: found[f"peer:{name}"][0]["about"] for name in texts}
    assert [shown[name]["title"] for name in texts] == ["A", "B", "C", "D"]
    assert [name for name, about in shown.items() if "instructions" not in about] == ["c"]
    assert servers_behind(table)["peer:c"][0]["about"]["instructions"] == texts["c"]


def test_a_right_that_is_missing_and_maintenance_that_is_not_kept_are_findings_about_our_own_entry() -> None:
    well = MembershipView(source=SourceStatus(lists_us=True), registrar=RegistrarStatus(registered=True))
    assert own_findings("home-1", well) == []
    assert own_findings("home-1", replace(well, source=SourceStatus(lists_us=None))) == []
    for source in (SourceStatus(lists_us=False), SourceStatus(lists_us=True, filtered=True)):
        (found,) = own_findings("home-1", replace(well, source=source))
        assert (found.name, found.kind.value) == ("home-1", "right_missing")
        assert "node:read" in found.detail
    unkept = RegistrarStatus(registered=True, unkept="the disk is full", resumed="new disks")
    resumed, found = own_findings("home-1", replace(well, registrar=unkept))
    assert (found.kind.value, found.detail) == ("maintenance_not_kept", "the disk is full")
    assert resumed.kind.value == "maintenance_resumed"
