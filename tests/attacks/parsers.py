"""Every parser of what a stranger, a server, another node or a file says, by name, as a function of bytes.

Used by `test_parsers` with random examples, and by `python -m tests.attacks.fuzz` with atheris, which follows the code.
The one rule: a parser takes what it is given or refuses it with the failure that its callers expect; whatever else
comes out of these functions is a fault.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from agent.app.first_bytes import is_whole_head, with_host
from agent.audit.chain import read_line
from agent.authority.grant import Grant
from agent.authority.oauth import ClaimRule, OAuthRules
from agent.client.dial_guard import check_url, refuse_address
from agent.client.http.cookies import CookieJar
from agent.client.http.sse import EventTooLarge, SseParser
from agent.client.negotiation import judge_discovery, judge_initialize
from agent.client.oauth.challenge import read_challenge
from agent.client.proxies import ProxyFault, proxies_of
from agent.config import endpoint, values
from agent.config.env_file import parse_env_file
from agent.config.oauth_rules import check_oauth_rules
from agent.config.servers_file import check_servers
from agent.config.tokens_file import check_tokens, parse_moment
from agent.config.views_file import check_views
from agent.control.selection import select
from agent.errors import ConfigRefused, DialRefused, IdentityRefused, MCPError, ProtocolBroken
from agent.identity.association import Association, Proven
from agent.identity.handshake import reply_to
from agent.identity.keeper import AssociationKeeper
from agent.identity.node_key import NodeKey
from agent.lossless_json.exact import read_json
from agent.lossless_json.raw import answered_id, read_response, write_definition
from agent.lossless_json.rewriter import JsonRewriter, Place, RewriteBroken
from agent.mcp_headers import decode_header_value, param_header_map, without_invalid_annotations
from agent.model import ORIGIN_META_KEY, NodeIdentity, Offer
from agent.pins.look import look
from agent.rest.hosts import host_allowed, origin_allowed
from agent.rest.introspection import TokenRefused
from agent.rest.issuer import claimed_issuer
from agent.routing.about import read_about
from agent.routing.origins import Refused, received_origin
from agent.routing.table import RouteTable
from agent.server.fast_path.heads import Heads
from agent.server.pages import read_cursor
from agent.server.sessions.resumption import named_call
from agent.server.sessions.sealed_id import SessionSeal
from agent.server.task_seal import TaskSeal
from agent.state import catalog_cache, identity, known_names, logins, overrides, pins
from agent.tasks.ids import TaskIdRefused, task_route
from discovery.consul.rows import parse_row, split_rows
from discovery.embedded.definition import Refused as RefusedDefinition
from discovery.embedded.definition import parse_definition
from discovery.file.groups import instances_of
from discovery.model import Catalog, CatalogUnavailable
from tests.callers import served

Parser = Callable[[bytes], object]

_FILE: Final = Path("/nonexistent/file.json")
_KEYS: Final = (b"k" * 32,)
_NODE: Final = NodeKey.new()
_MODERN: Final = "2026-07-28"
_NOW_S: Final = 1_800_000_000.0
_CLAIM_RULES: Final = (ClaimRule("scope", "mesh", Grant("rule")), ClaimRule("", "", Grant("rule")))


def _text(data: bytes) -> str:
    # As header values reach us: what is no UTF-8 comes as surrogates.
    return data.decode("utf-8", "surrogateescape")


def _of_file(check: Callable[[str], object]) -> Parser:
    def parse(data: bytes) -> None:
        with suppress(ConfigRefused):
            check(data.decode("utf-8", "replace"))

    return parse


def _json(data: bytes) -> Any:
    """What the endpoints make of a body; None where they refuse it."""
    try:
        return read_json(data)
    except ValueError:
        return None


def _settings(data: bytes) -> None:
    for parse in (
        *(values.parse_name, values.parse_service_name, values.parse_host, values.parse_hosts, values.parse_port),
        *(values.parse_count, values.parse_weight, values.parse_name_len, values.parse_networks, values.parse_seconds),
        *(values.parse_flag, values.parse_path, endpoint.parse_token, values.parse_origins, values.parse_patterns),
        *(values.parse_peers, parse_moment),
    ):
        with suppress(ValueError):
            parse(_text(data))


def _url(data: bytes) -> None:
    text = _text(data)
    refuse_address(text)
    endpoint.url_fault(text)
    with suppress(ValueError, DialRefused):
        check_url(text)
    with suppress(ProxyFault):
        proxies_of({"HTTP_PROXY": text, "NO_PROXY": text}).of("http://host.example/")


def _handshake(data: bytes) -> None:
    message = _json(data)
    if isinstance(message, dict):
        with suppress(IdentityRefused):
            reply_to(message, _NODE, _KEYS)


def _cards(data: bytes) -> None:
    """What a server or node says of itself when it is linked, and of the origin of what it lists."""
    card = _json(data)
    if isinstance(card, dict):
        judge_discovery({"supportedVersions": [_MODERN], **card}, _MODERN)
        for version in ({"protocolVersion": "2025-11-25"}, {}):
            with suppress(ProtocolBroken):
                judge_initialize({**version, **card})
    read_about(card)
    with suppress(Refused):
        received_origin({"_meta": {ORIGIN_META_KEY: card}}, "tool", NodeIdentity("0a" * 16, "node"))


def _proofs(data: bytes) -> None:
    text = _text(data)
    keeper = AssociationKeeper(_NODE, _KEYS, lambda: _NOW_S)
    keeper._members.keep(Association("known", Proven("0a" * 16, member=True), b"r" * 32, b"a" * 32, _KEYS[0]))
    keeper.of(text)
    keeper.of(f"known.{text}")


def _seals(data: bytes) -> None:
    text = _text(data)
    with served(Grant("fuzz")):
        SessionSeal("/mcp", lambda: _KEYS).open(text, _NOW_S, "fuzz/")
        with suppress(MCPError):
            TaskSeal(lambda: _KEYS).opened(text)
    with suppress(TaskIdRefused):
        task_route("tasks/get", text, RouteTable(), "0a" * 16)
    with suppress(ValueError):
        read_cursor(text)
    named_call(text)


def _headers(data: bytes) -> None:
    text = _text(data)
    decode_header_value(text)
    host_allowed([text], {"node.example"})
    origin_allowed([text], {"https://app.example"})
    jar = CookieJar()
    jar.take([text], "host.example", "/mcp", _NOW_S, secure=False)
    jar.header("/mcp", _NOW_S, "a=b")


def _heads(data: bytes) -> None:
    with_host(data)
    is_whole_head(data)
    begun = b"POST /mcp HTTP/1.1\r\nContent-Length: 2\r\n"

    async def read() -> None:  # aiohttp's parser wants a loop.
        for whole in (data, begun + data + b"\r\n\r\n{}"):
            found = Heads("/mcp").read(whole)
            if found is not None and found.head.same is not None:  # What is known again is what was searched for.
                assert found.head.same.again(whole, found.head) == found

    asyncio.run(read())


def _stream(data: bytes) -> None:
    parser = SseParser(1 << 16)
    middle = len(data) // 2
    with suppress(EventTooLarge):
        parser.feed(data[:middle])
        parser.begun_data()
        parser.feed(data[middle:])


def _responses(data: bytes) -> None:
    answered_id(data)
    with suppress(ValueError):
        found, guessed = read_response(data), read_response(data, 1)
        assert (found is None) == (guessed is None)
        if found is not None and guessed is not None:  # Values that stay JSON are equal to nothing.
            assert (guessed["id"], guessed["result"].raw) == (found["id"], found["result"].raw)
    rewriter = JsonRewriter(Place({"jsonrpc": Place(note="jsonrpc"), "result": Place(items=Place(text=str.upper))}))
    middle = len(data) // 2
    with suppress(RewriteBroken):
        rewriter.feed(data[:middle])
        if rewriter.rest is None:
            rewriter.feed(data[middle:])


def _definitions(data: bytes) -> None:
    definition = _json(data)
    look({}, {}, "server", Offer(tools=(definition,), prompts=(definition,)))
    if isinstance(definition, dict):
        write_definition(definition)
        param_header_map(definition)
        without_invalid_annotations(definition)


def _audit(data: bytes) -> None:
    with suppress(ValueError):
        read_line(data)


def _claims(data: bytes) -> None:
    """What a token or its issuer says of its holder, once that is proven, and what a server says of a token."""
    try:
        claims = json.loads(data)  # As joserfc reads them.
    except (ValueError, RecursionError):
        claims = None
    if isinstance(claims, dict):
        for name in ("sub", "email"):
            OAuthRules("https://id.example", "https://mesh.example", _CLAIM_RULES, name).grant_of(claims)
    read_challenge(_text(data))
    with suppress(TokenRefused):
        claimed_issuer(_text(data))
    with suppress(TokenRefused):
        encoded = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        claimed_issuer(f"eyJhbGciOiJSUzI1NiJ9.{encoded}.AAAA")


def _saved(data: bytes) -> None:
    """Files of the state folder, which a crash or a hand may have damaged."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        for one in (identity, pins, overrides, known_names, catalog_cache, logins):
            (folder / one.FILE_NAME).write_bytes(data)
        for strict in (True, False):
            with suppress(ConfigRefused):
                pins.load_pins(folder, strict=strict)
        with suppress(ConfigRefused):
            overrides.OverrideStore.open(folder)
        with suppress(ConfigRefused):
            identity._read(folder / identity.FILE_NAME)
        known_names.KnownNames(folder).load(_NOW_S)
        logins.LoginStore(folder)
        catalog_cache._read(folder / catalog_cache.FILE_NAME, "http://127.0.0.1:8500", "mcp-node")


def _catalogs(data: bytes) -> None:
    """Rows of Consul, definitions for the embedded catalog, and lists of peers in files."""
    rows: list[bytes] = []
    with suppress(CatalogUnavailable):
        rows = split_rows(data)
    for row in (*rows, data):
        with suppress(ValueError):
            parsed = orjson.loads(row)
            if (instance := parse_row(parsed)) is not None:
                select(Catalog((instance,)), NodeIdentity("0a" * 16, "node"))
    with suppress(ValueError):
        body = orjson.loads(data)
        with suppress(RefusedDefinition):
            parse_definition(body)
        instances_of("file", body)


PARSERS: Final[dict[str, Parser]] = {
    "claims and challenges": _claims,
    "files of the state": _saved,
    "catalogs": _catalogs,
    "tokens file": _of_file(lambda text: check_tokens(text, _FILE)),
    "rules for OAuth": _of_file(lambda text: check_oauth_rules(text, _FILE)),
    "servers file": _of_file(lambda text: check_servers(text, _FILE, {"HOME": "/nonexistent"})),
    "views": _of_file(lambda text: check_views(text, _FILE, required=True)),
    "file of variables": _of_file(parse_env_file),
    "settings": _settings,
    "URLs and addresses": _url,
    "handshakes": _handshake,
    "proofs": _proofs,
    "cards and origins": _cards,
    "IDs, cursors and seals": _seals,
    "headers and cookies": _headers,
    "heads of requests": _heads,
    "streams of events": _stream,
    "responses": _responses,
    "definitions": _definitions,
    "records of the audit": _audit,
}
