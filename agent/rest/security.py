"""Host, Origin and token checks in front of every route, and the headers of every answer.

The wiring puts `security_middleware` right behind the envelope, and `security_headers` on `app.on_response_prepare`,
where streams are reached too. No check depends on a route's handler: a new route is closed until it is opened here. The
one rule: decisions are pure functions of the request's headers and raw path; an ambiguous request is refused.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from agent import clock
from agent.authority.caller import Caller, serve_for
from agent.authority.routes import METRICS_PATH, wanted_scopes
from agent.harmless_text import one_line
from agent.identity.association import FORGOTTEN, PROOF_HEADER
from agent.identity.keeper import AssociationKeeper
from agent.mcp_headers import is_param_header
from agent.model import AUTH_REALM, HANDSHAKE_PATH, PEER_PATH
from agent.rest.envelope import refused
from agent.rest.failure_brake import FAILURE_DELAY_S, FailureBrake
from agent.rest.handshake import FOR_CLIENTS
from agent.rest.hosts import host_allowed, normal_host_names, normal_origins, origin_allowed
from agent.rest.introspection import TokenRefused
from agent.rest.logins import Logins
from agent.rest.oauth import METADATA_PATH, OAuthVerifier
from agent.rest.tokens import TokenTable
from agent.server.fast_path.connection import FastRequest
from agent.server.fast_path.heads import Head, Judged

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
# The files of the node's page hold nothing of this node; what they show they fetch.
_PAGE_FILE = re.compile(r"/(?:ui(?:/[\w.-]*)?)?")
# What `MESH_REGISTRY_PUBLIC` opens for reading: the registry, the node's card, the text for agents (agent/registry).
_REGISTRY_PATH = re.compile(
    r"/v0\.1/servers(?:/.*)?|/\.well-known/(?:mcp/server-card|ai-catalog)\.json|/mcp/server-card|/llms\.txt"
)
# Where clients look for OAuth after a 401. There is none here, which only a 404 says: anything else is taken for a
# broken authorization server, and shown in place of what the node said (RFC 8414, RFC 9728, RFC 7591).
_OAUTH_PATH = re.compile(
    r"(?:/[\w/.~%-]*)?/\.well-known/(?:oauth-[a-z-]+|openid-configuration)(?:/[\w/.~%-]*)?|/(?:register|authorize|token)"
)
_PEER_PATHS = frozenset({PEER_PATH, f"{PEER_PATH}/"})
MCP_PATHS = frozenset({"/mcp", "/mcp/", *_PEER_PATHS})
_IDENTITY = "identity"
_OF_ONE_REQUEST = frozenset({"content-encoding", "cookie", "origin"})
_PROOF = web.RequestKey("mesh_proof", str)  # Of the answer, while its request is handled.

CORS_METHODS = "GET, POST, DELETE, OPTIONS"
CORS_REQUEST_HEADERS = (
    "Accept, Authorization, Content-Type, Last-Event-ID, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Mcp-Session-Id, "
    "Mesh-Tools"  # agent.server.search: the mode of the list of tools.
)
CORS_ANSWER_HEADERS = "MCP-Protocol-Version, Mcp-Session-Id, Retry-After, WWW-Authenticate"
CORS_MAX_AGE_S = 600

_POLICY = "Content-Security-Policy"
_ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    _POLICY: "default-src 'none'; frame-ancestors 'none'",
    "Server": "mcp-mesh-agent",  # aiohttp's default names its version and Python's.
}
_CACHING = {"Cache-Control": "no-store"}  # Unless the handler says otherwise.
_USUAL_LINES = "".join(f"{name}: {value}\r\n" for name, value in (_ANSWER_HEADERS | _CACHING).items())


@dataclass(frozen=True)
class EdgePolicy:
    """Which requests may pass.

    `host_names`: names of ours beside IP literals and localhost. `origins`: browser origins beside loopback pages.
    `tokens` may change while it is used. `associations`: with other nodes, known by their proofs. `metrics_public`:
    /metrics needs no token; `registry_public`: nor do the registry and the card, for any page. `node_mark`: what tells
    a node that it has dialled itself when it is refused (`agent.node_mark`). `on_auth_failure` counts refused
    tokens. `oauth`: tokens of issuers. `logins`: of our page. `failure_delay_s` 0 answers them at once, for tests.
    """

    host_names: frozenset[str]
    origins: frozenset[str]
    tokens: TokenTable
    metrics_public: bool
    registry_public: bool = False
    associations: AssociationKeeper | None = None
    node_mark: str = ""
    on_auth_failure: Callable[[], None] | None = None
    oauth: OAuthVerifier | None = None
    logins: Logins | None = None
    failure_delay_s: float = FAILURE_DELAY_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_names", normal_host_names(self.host_names))
        object.__setattr__(self, "origins", normal_origins(self.origins))


class Verdict(Enum):
    """The outcome of authentication."""

    ALLOWED = auto()
    NO_TOKEN = auto()
    BAD_TOKEN = auto()
    EXPIRED = auto()
    OUT_OF_SCOPE = auto()  # A valid token, which the route is not for.
    WRONG_ROUTE = auto()  # A node's proof, where clients alone are let in.
    FORGOTTEN = auto()  # A node's proof that is not known, any more or at all.
    REPLAYED = auto()  # A node's proof that was taken before: what came with it may have been executed.
    NO_OAUTH = auto()


def security_middleware(policy: EdgePolicy) -> Middleware:
    """Return the checks in their order: Host, then Origin (which answers preflights), then the token.

    One for all three: each more would cost every call a coroutine. What a head says for all is judged once.
    """
    brake = FailureBrake(policy.failure_delay_s)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if type(request) is not FastRequest:
            return await _checked(request, handler, policy, brake)
        head, tokens = request.head, policy.tokens
        if head.passed is None or head.passed[0] is not tokens.generation:
            head.serve = head.start = None
            head.unproven = _of_head(request, policy)
            passes = head.unproven is not None and request.proof is None
            head.passed = tokens.generation, head.unproven[1] if head.unproven is not None and passes else None
        caller = head.passed[1]
        if (judged := request.judged or (None if caller else judged_by_proof(request.proof, head, policy))) is not None:
            note_proof(request, judged)
            caller = judged.caller if judged.verdict is Verdict.ALLOWED else None
        if caller is None:
            return await _checked(request, handler, policy, brake, judged)
        serve_for(caller)
        return await handler(request)

    return check


async def _checked(
    request: web.Request,
    handler: Handler,
    policy: EdgePolicy,
    brake: FailureBrake,
    judged: Judged | None = None,
) -> web.StreamResponse:
    """Answer a request that has to be judged by itself. `judged`: the verdict, where its proof was taken already."""
    if (refusal := _host_refusal(request, policy)) is not None:
        return refusal
    if (answer := _origin_answer(request, policy)) is not None:
        return answer
    if request.headers.get("Content-Encoding", _IDENTITY) != _IDENTITY:
        refusal = refused(request, 415, "compressed_body", "Request bodies are taken uncompressed")
        refusal.force_close()  # What is left of the body is not worth reading.
        return refusal
    logins = policy.logins
    shown = request.headers.getall("Authorization", ()) if logins is None else logins.authorization(request)
    verdict, caller = _judged(request, policy, shown) if judged is None else judged[:2]
    why = ""
    if verdict is Verdict.BAD_TOKEN and policy.oauth is not None:
        verdict, caller, why = await _judged_by_issuer(request, policy.oauth, shown, caller)
    serve_for(caller)
    if request.rel_url.raw_path == HANDSHAKE_PATH:
        request[FOR_CLIENTS] = verdict is Verdict.ALLOWED
        return await handler(request)
    if verdict is Verdict.ALLOWED:
        return await handler(request)
    if verdict is Verdict.NO_OAUTH:
        return await handler(request) if _is_metadata(request, policy) else _no_oauth(policy.tokens)
    if verdict is Verdict.OUT_OF_SCOPE:
        return _scope_refusal(request, caller)
    return await _token_refusal(request, verdict, policy, brake, why)


def security_headers(policy: EdgePolicy) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return what `app.on_response_prepare` needs so that every answer, streams included, carries our headers."""

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        own = response.headers.get(_POLICY)
        response.headers.update(_ANSWER_HEADERS)
        if own is not None:  # The page may load its own files.
            response.headers[_POLICY] = own
        if (proof := request.get(_PROOF)) is not None:
            response.headers[PROOF_HEADER] = proof
        for name, value in _CACHING.items():
            response.headers.setdefault(name, value)
        origins = request.headers.getall("Origin", ())
        if _is_open_reading(request, policy):
            # Without credentials, so a browser adds no login of its user: what it gets, any stranger gets.
            response.headers["Access-Control-Allow-Origin"] = "*"
            return
        if not origins:
            return
        response.headers.add("Vary", "Origin")
        if origin_allowed(origins, policy.origins):
            response.headers["Access-Control-Allow-Origin"] = origins[0]
            response.headers["Access-Control-Expose-Headers"] = CORS_ANSWER_HEADERS

    return add_headers


def usual_header_lines(request: web.Request | None) -> str | None:
    """What `security_headers` adds to the answer to a request, as lines of its head; None for a page of a browser.

    `request`: None for one that passed by its head.
    """
    if request is None:
        return _USUAL_LINES
    if type(request) is FastRequest and request.head.passed is not None and request.head.passed[1] is not None:
        return _USUAL_LINES  # It has neither an origin nor a proof.
    if "Origin" in request.headers:
        return None
    proof = request.get(_PROOF)
    return _USUAL_LINES if proof is None else f"{_USUAL_LINES}{PROOF_HEADER}: {proof}\r\n"


def _of_head(request: FastRequest, policy: EdgePolicy) -> tuple[Verdict, Caller] | None:
    """The verdict over each request with this head but for its proof, until tokens change; None where there is none.

    A login and the token of an issuer end by themselves, and so do some of ours.
    """
    by_name = request.head.by_name
    if PROOF_HEADER.lower() in by_name and request.proof is None:
        return None
    if not by_name.keys().isdisjoint(_OF_ONE_REQUEST) or request.rel_url.raw_path == HANDSHAKE_PATH:
        return None
    if _host_refusal(request, policy) is not None:
        return None
    verdict, caller = _unproven(request, policy, request.headers.getall("Authorization", ()))
    is_lasting = verdict is Verdict.ALLOWED or (verdict is Verdict.NO_TOKEN and request.proof is not None)
    return (verdict, caller) if is_lasting and caller.grant.until_s is None else None


def _judged(request: web.Request, policy: EdgePolicy, authorization: Sequence[str]) -> tuple[Verdict, Caller]:
    """Whether a request may pass, and in whose name."""
    unproven = _unproven(request, policy, authorization)
    of_this_one = request.proof if isinstance(request, FastRequest) else None
    if (proof := of_this_one or request.headers.get(PROOF_HEADER)) is None or _is_for_anyone(request, policy):
        return unproven
    note_proof(request, judged := _with_proof(proof, request.rel_url.raw_path, *unproven, policy))
    return judged[:2]


def _is_for_anyone(request: web.Request, policy: EdgePolicy) -> bool:
    """Whether it reads a file of the page, or what the registry shows to all."""
    is_page = request.method in ("GET", "HEAD") and _PAGE_FILE.fullmatch(request.rel_url.raw_path) is not None
    return is_page or _is_open_reading(request, policy)


def _unproven(request: web.Request, policy: EdgePolicy, authorization: Sequence[str]) -> tuple[Verdict, Caller]:
    """The same, whatever proof of a node it shows."""
    tokens, path = policy.tokens, request.rel_url.raw_path
    if _is_for_anyone(request, policy):
        return Verdict.ALLOWED, tokens.anyone
    verdict, caller = judge(path, authorization, tokens, metrics_public=policy.metrics_public)
    if verdict is Verdict.ALLOWED and not _has_scope(request, caller):
        verdict = Verdict.OUT_OF_SCOPE
    return verdict, caller


async def _judged_by_issuer(
    request: web.Request, oauth: OAuthVerifier, authorization: Sequence[str], stranger: Caller
) -> tuple[Verdict, Caller, str]:
    """The verdict over a bearer token that is none of ours, its caller, and why it is refused."""
    token = authorization[0].partition(" ")[2].strip()
    if len(authorization) > 1 or not oauth.is_for_us(token):
        return Verdict.BAD_TOKEN, stranger, ""
    try:
        caller = await oauth.caller_of(token)
    except TokenRefused as refused:
        return Verdict.BAD_TOKEN, stranger, str(refused)
    return (Verdict.ALLOWED if _has_scope(request, caller) else Verdict.OUT_OF_SCOPE), caller, ""


def _is_metadata(request: web.Request, policy: EdgePolicy) -> bool:
    """Whether the metadata of a protected resource is asked for, and there is any."""
    path = request.rel_url.raw_path
    is_there = policy.oauth is not None and policy.oauth.is_on
    return is_there and (path == METADATA_PATH or path.startswith(f"{METADATA_PATH}/"))


def judge(
    raw_path: str, authorization: Sequence[str], tokens: TokenTable, *, metrics_public: bool
) -> tuple[Verdict, Caller]:
    """Decide whose request it is, by its undecoded path and all of its Authorization header values."""
    anyone = tokens.anyone
    if raw_path not in MCP_PATHS and _OAUTH_PATH.fullmatch(raw_path):
        return Verdict.NO_OAUTH, anyone
    if tokens.anonymous or raw_path in OPEN_PATHS or (metrics_public and raw_path == METRICS_PATH):
        return Verdict.ALLOWED, anyone
    if not authorization:
        return Verdict.NO_TOKEN, anyone
    scheme, _, presented = authorization[0].partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer":
        return Verdict.BAD_TOKEN, anyone
    caller = tokens.find(presented.strip())
    if caller is None:
        return Verdict.BAD_TOKEN, anyone
    grant = caller.grant
    if grant.until_s is not None and grant.has_ended(time.time()):
        return Verdict.EXPIRED, caller
    return Verdict.ALLOWED, caller


def _has_scope(request: web.Request, caller: Caller) -> bool:
    """Whether a caller's token is for this route, as the router reads its path: `/mcp/%6cocal` is `/mcp/local`."""
    grant = caller.grant
    return not grant.named or grant.has_any(wanted_scopes(request.method, request.rel_url.path_safe))


def note_proof(request: web.Request, judged: Judged) -> None:
    """Have the answer to a request show our proof, if there is one."""
    if judged.proof is not None:
        request[_PROOF] = judged.proof


def judged_by_proof(proof: str | None, head: Head, policy: EdgePolicy) -> Judged | None:
    """What is found of a request whose head leaves that to its proof; None for any other. To be asked once."""
    if proof is None or head.unproven is None:
        return None
    return _with_proof(proof, head.message.url.raw_path, *head.unproven, policy)


def _with_proof(proof: str, raw_path: str, verdict: Verdict, caller: Caller, policy: EdgePolicy) -> Judged:
    """The verdict over a request that shows a node's proof, and its caller; its answer will carry our proof."""
    found = policy.associations.of(proof) if policy.associations is not None else None
    if found is None:
        return Judged(Verdict.FORGOTTEN, caller, None)
    association, number, is_new = found
    ours = association.answer_proof(number)
    if not is_new:
        return Judged(Verdict.REPLAYED, caller, ours)
    if not association.peer.member or (verdict is Verdict.ALLOWED and caller.grant.named):
        return Judged(verdict, caller, ours)
    node = policy.tokens.node(association.peer.node_id)
    if verdict is not Verdict.ALLOWED:
        verdict = Verdict.ALLOWED if raw_path in _PEER_PATHS else Verdict.WRONG_ROUTE
    return tuple.__new__(Judged, (verdict, node, ours))  # As the class makes it, without a call in between.


def _host_refusal(request: web.Request, policy: EdgePolicy) -> web.Response | None:
    if request.rel_url.raw_path in OPEN_PATHS:
        return None  # Probes of load balancers send none, or one of their own; there is nothing to protect.
    hosts: Sequence[str] = request.headers.getall("Host", ())
    if request.raw_path.lower().startswith(("http://", "https://")):
        # The target's own host counts, and not the header (RFC 9112, section 3.2.2).
        hosts = [urlsplit(request.raw_path).netloc]
    elif not request.raw_path.startswith("/") and request.raw_path != "*":
        hosts = ()
    if host_allowed(hosts, policy.host_names):
        return None
    message = (
        "The Host header names no host of this node. Use its IP address or localhost, "
        "or add the name to MESH_ALLOWED_HOSTS"
    )
    return refused(request, 421, "misdirected_request", message)


def _no_oauth(tokens: TokenTable) -> web.Response:
    """404 in the form of an OAuth error, whose description clients show (RFC 6749, section 5.2)."""
    wants = "no token" if tokens.anonymous else "a token of its own: Authorization: Bearer <MESH_TOKEN>"
    error = {"error": "invalid_request", "error_description": f"This node has no OAuth. It wants {wants}"}
    return web.json_response(error, status=404)


def _is_open_reading(request: web.Request, policy: EdgePolicy) -> bool:
    """Whether it reads what anyone may, or asks as a browser whether it may."""
    if not policy.registry_public or request.method not in ("GET", "HEAD", "OPTIONS"):
        return False
    return _REGISTRY_PATH.fullmatch(request.rel_url.raw_path) is not None


def _origin_answer(request: web.Request, policy: EdgePolicy) -> web.Response | None:
    origins = request.headers.getall("Origin", ())
    if _is_open_reading(request, policy):
        return _preflight_answer(request) if origins and request.method == "OPTIONS" else None
    if not origin_allowed(origins, policy.origins):
        message = "Pages of this origin may not use this node. Add the origin to MESH_CORS_ORIGINS"
        return refused(request, 403, "origin_refused", message)
    if origins and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return _preflight_answer(request)
    return None


def _preflight_answer(request: web.Request) -> web.Response:
    asked = request.headers.get("Access-Control-Request-Headers", "").split(",")
    params = [name.strip() for name in asked if is_param_header(name.strip())]
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": CORS_METHODS,
            "Access-Control-Allow-Headers": ", ".join([CORS_REQUEST_HEADERS, *params]),
            "Access-Control-Max-Age": str(CORS_MAX_AGE_S),
        },
    )


def _scope_refusal(request: web.Request, caller: Caller) -> web.Response:
    """403 to a valid token that is not for this route (RFC 6750, section 3.1)."""
    grant, path = caller.grant, request.rel_url.path_safe
    wanted = sorted(wanted_scopes(request.method, path))
    held = ", ".join(sorted(grant.scopes)) or "none"
    message = f"Token {grant.name!r} has the scopes {held}; this wants {' or '.join(wanted)}"
    caller.recorder.refusal(grant.name, f"{request.method} {one_line(path, 80)}", f"scope {' or '.join(wanted)}")
    challenge = f'Bearer realm="{AUTH_REALM}", error="insufficient_scope", scope="{" ".join(wanted)}"'
    return refused(request, 403, "insufficient_scope", message, headers={"WWW-Authenticate": challenge})


async def _token_refusal(
    request: web.Request, verdict: Verdict, policy: EdgePolicy, brake: "FailureBrake", why: str
) -> web.Response:
    client = request.remote or "unknown"
    if verdict is Verdict.FORGOTTEN:
        # Without delay: after a restart, each node that is linked to us comes with one of before.
        request[_PROOF] = FORGOTTEN
        return refused(request, 401, "unknown_proof", "The proof is of no handshake that this node knows of")
    if verdict is Verdict.REPLAYED:
        # A proxy has sent a request twice, and the answer to the first is lost: to the other node, an unknown outcome.
        return refused(request, 503, "replayed", "A request with this proof has come before")
    if policy.on_auth_failure is not None:
        policy.on_auth_failure()
    is_news, reason = brake.is_news(client, clock.now_s()), verdict.name.lower()
    level = logging.WARNING if is_news else logging.DEBUG
    if is_news:  # A stranger must not fill the record.
        policy.tokens.anyone.recorder.refusal(client, f"{request.method} {one_line(request.path, 80)}", reason)
    log.log(level, "MCP access refused", extra={"client": client, "path": one_line(request.path, 80), "why": reason})
    if verdict is Verdict.WRONG_ROUTE:
        return refused(request, 403, "forbidden", f"Another node may use {PEER_PATH} alone")
    if not await brake.hold(client):
        message = "Too many requests with wrong tokens; wait a second"
        return refused(request, 429, "too_many_failures", message, headers={"Retry-After": "1"})
    challenge = f'Bearer realm="{AUTH_REALM}"'
    if policy.node_mark:
        challenge += f', node="{policy.node_mark}"'
    if policy.oauth is not None and policy.oauth.is_on:
        challenge += f', resource_metadata="{policy.oauth.metadata_url()}"'
    message = "This node wants a token: Authorization: Bearer <MESH_TOKEN>"
    if verdict is Verdict.BAD_TOKEN or verdict is Verdict.EXPIRED:
        message = f"The bearer token {'has expired' if verdict is Verdict.EXPIRED else 'is not valid'}"
        message += f": {why}" if why else ""
        challenge += ', error="invalid_token"'
    return refused(request, 401, "unauthorized", message, headers={"WWW-Authenticate": challenge})
