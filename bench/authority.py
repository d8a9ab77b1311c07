"""What a call costs more where its caller has to show who it is: a token among 1,000, an issuer's JWT, or by TLS.

Three nodes in front of one server are called in turn: one that wants no token, one that wants either, and one that
serves https on a connection that is open already. The goal is for the tokens; TLS encrypts, which is work.
"""

import asyncio
import hashlib
import ssl
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

from bench.figures import Figure, ratio
from bench.loads import Upstream, in_turn, latency_s, rate
from bench.processes import canned_server, cpu_s, node_process
from bench.raw_client import RawClient
from tests.ports import free_port

TOKENS = 1_000
BATCHES = 15
CALLS = 200
CALLS_AT_ONCE = 800
TEXT = "sixteen bytes ok"
GOAL = 1.15
AUDIENCE = "https://mesh.example/mcp"


async def measure() -> list[Figure]:
    """Compare the ways: times, and the node's processor time for each call."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        folder = Path(name)
        certificate = self_signed(folder)
        trust = ssl.create_default_context(cafile=str(certificate))
        async with issuer() as (url, access_token), canned_server() as server:
            tokens = write_tokens(folder / "tokens.json", url)
            settings = {"MESH_DISCOVERY": "off", "servers": {"echo": {"url": server}}}
            async with (
                node_process("plain", **settings) as (plain, plain_id),
                node_process("guarded", **settings, MESH_TOKENS_FILE=str(tokens)) as (guarded, guarded_id),
                node_process("tls", **settings, MESH_LISTEN_CERT=str(certificate)) as (tls, tls_id),
                RawClient(f"{plain}/mcp") as without,
                RawClient(f"{guarded}/mcp", token=token(TOKENS // 2)) as named,
                RawClient(f"{guarded}/mcp", token=access_token) as by_issuer,
                RawClient(f"{tls}/mcp", trust=trust) as encrypted,
            ):
                clients = (without, named, by_issuer, encrypted)
                for client in clients:
                    while "echo__echo" not in await client.tool_names():
                        await asyncio.sleep(0.05)
                ways = [partial(client.call, "echo__echo", {"text": TEXT}) for client in clients]
                return await compared(ways, [plain_id, guarded_id, guarded_id, tls_id])


async def compared(ways: list[Upstream], process_ids: list[int]) -> list[Figure]:
    """The figures of these ways; the others are compared with the first."""
    for way in ways:
        await latency_s(way, CALLS)
    times = await in_turn(ways, partial(latency_s, calls=CALLS), BATCHES)
    nodes = dict(zip(map(id, ways), process_ids, strict=True))

    async def used_s(way: Upstream) -> float:
        before_s = cpu_s(nodes[id(way)])
        await rate(way, CALLS_AT_ONCE)
        return cpu_s(nodes[id(way)]) - before_s

    used = await in_turn(ways, used_s, BATCHES)
    figures = [Figure("a call without a token, p50 at 1 caller", statistics.median(times[0]) * 1000, "ms")]
    names = (f"one of {TOKENS:,} tokens", "a JWT that was checked before", "TLS, on an open connection")
    for place, (name, goal) in enumerate(zip(names, (GOAL, GOAL, None), strict=True), start=1):
        figures += [
            ratio(f"{name} over none, p50 at 1 caller", times[place], times[0], goal),
            ratio(f"{name} over none, the node's processor time", used[place], used[0], goal),
        ]
    return figures


def token(number: int) -> str:
    """One of the named tokens."""
    return hashlib.sha256(f"token {number}".encode()).hexdigest()


def write_tokens(path: Path, issuer_url: str) -> Path:
    """A tokens file with all of them, and an issuer."""
    named = {
        f"token-{number}": {"sha256": hashlib.sha256(token(number).encode()).hexdigest(), "scopes": ["mcp"]}
        for number in range(TOKENS)
    }
    oauth = {"issuer": issuer_url, "audience": AUDIENCE, "rules": [{"scopes": ["mcp"]}]}
    path.write_bytes(orjson.dumps({"tokens": named, "oauth": oauth}))
    path.chmod(0o600)
    return path


@asynccontextmanager
async def issuer() -> AsyncGenerator[tuple[str, str]]:
    """An issuer in this process, which is asked for its keys once: its URL, and a token of it."""
    key, port = ECKey.generate_key("P-256", {"kid": "bench", "alg": "ES256", "use": "sig"}), free_port()
    url = f"http://127.0.0.1:{port}"
    claims = {"iss": url, "aud": AUDIENCE, "sub": "bench", "exp": int(time.time()) + 3_600}
    signed = jwt.encode({"alg": "ES256", "kid": "bench", "typ": "JWT"}, claims, key, algorithms=["ES256"])

    async def metadata(_request: web.Request) -> web.Response:
        return web.json_response({"issuer": url, "jwks_uri": f"{url}/keys"})

    async def keys(_request: web.Request) -> web.Response:
        return web.json_response({"keys": [key.as_dict(private=False)]})

    app = web.Application()
    app.add_routes([web.get("/.well-known/oauth-authorization-server", metadata), web.get("/keys", keys)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield url, signed
    finally:
        await runner.cleanup()


def self_signed(folder: Path) -> Path:
    """A file with a key and its own certificate for this machine."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
    path.chmod(0o600)
    return path
