"""Servers behind nginx that were away when their node started are found as soon as those that were linked before.

The real proxy answers what is no request of MCP itself, as many are set up, or any request of a session that it does
not know, as gateways do; a request that it has passed on to a server that hangs it holds for ever. The one rule: the
node has not linked any of them since it started.
"""

import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.client.http.request import KNOCK
from tests.chaos.holding_proxy import holding_proxy
from tests.chaos.test_hanging_servers import ANSWERED, PATHS, listens, server, servers_that_are_well, waits
from tests.chaos.test_returning_servers import CALLED, IDLE, all_are_found_again, calls_to, is_away
from tests.debian_binary import NGINX, debian_binary, why_not
from tests.e2e.running import START_TIMEOUT_S, running_nodes, stop_node
from tests.ports import free_port, free_ports
from tests.waiting import all_of, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.usefixtures("quick_servers")]

WORDS = (CALLED, IDLE)
# What it says of servers that refuse its connections.
SAID = {
    "says-502": "",
    "says-503": "error_page 502 =503 /away;",
    "says-200": "error_page 502 =200 /away;",
}
# A page that asks for an hour, and an error of JSON-RPC.
GATEWAY_SAID = {"asks-503": "error_page 502 =503 /later;", "json-503": "error_page 502 =503 /error;"}
# Nothing is left but waiting for an answer, or dials in vain have made the pauses long.
WAITS_FOR_S = 7.0
ATTEMPTS_MIN = 4
# A page that asks for an hour puts off the next dial, and not the knocks.
ATTEMPTS = {"asks-503": 1}


@pytest.mark.parametrize("is_gateway", [False, True], ids=["proxy", "gateway"])
async def test_servers_behind_nginx_that_were_never_linked_since_the_start_are_found_as_soon(
    tmp_path: Path, *, is_gateway: bool
) -> None:
    binary = debian_binary(NGINX, fetch=False)
    if binary is None:
        pytest.skip(f"NO NGINX ({why_not()}); `python -m tests.debian_binary` fetches one")
    hung = {f"{kind}-{word}": kind for kind in PATHS for word in WORDS}
    said_of_gone = GATEWAY_SAID if is_gateway else SAID
    gone = {f"{said}-{word}": said for said in said_of_gone for word in WORDS}
    ports = dict(zip((*hung, *gone), free_ports(len(hung) + len(gone)), strict=True))
    behind_of_gone = dict(zip(gone, free_ports(len(gone)), strict=True))
    urls = {name: f"http://127.0.0.1:{port}{PATHS[hung.get(name, 'session')]}" for name, port in ports.items()}
    async with AsyncExitStack() as stack:
        proxies = {}
        for kind in PATHS:
            port = free_port()
            await stack.enter_async_context(server(tmp_path, kind, port))
            for word in WORDS:
                proxies[f"{kind}-{word}"] = await stack.enter_async_context(holding_proxy(port))
        sites = [
            site(ports[name], proxy.port, ANSWERED[hung[name]], knows_sessions=is_gateway)
            for name, proxy in proxies.items()
        ]
        sites += [site(ports[name], behind_of_gone[name], "GET", said_of_gone[said]) for name, said in gone.items()]
        stack.enter_context(nginx(tmp_path, binary, sites))
        await all_of(eventually(partial(listens, port)) for port in ports.values())
        entries = {name: {"url": url, "mesh": {"scope": "service"}} for name, url in urls.items()}
        well = await stack.enter_async_context(servers_that_are_well(tmp_path))
        entries |= {name: {"url": url} for name, url in well.items()}
        start = await stack.enter_async_context(running_nodes())
        async with server(tmp_path, "session", *behind_of_gone.values()):
            node = await start("node", tmp_path / "node", servers=entries, MESH_DISCOVERY="off")
            await eventually(partial(node.offers, *(f"{name}__pid" for name in urls)), START_TIMEOUT_S)
            await stop_node(node)  # It knows their names from now on, so that they can be called.
        for proxy in proxies.values():
            proxy.hold()
        node = await start(node)
        await all_of(waits(node, name, WAITS_FOR_S) for name in hung)
        await all_of(
            eventually(partial(is_away, node, name, ATTEMPTS.get(name.rpartition("-")[0], ATTEMPTS_MIN)))
            for name in gone
        )
        answered = await stack.enter_async_context(calls_to(node, [*urls]))
        await stack.enter_async_context(server(tmp_path, "session", *behind_of_gone.values()))
        await all_of(eventually(partial(listens, port)) for port in behind_of_gone.values())
        for proxy in proxies.values():
            proxy.go_on()
        await all_are_found_again(node, [*urls], answered)


def site(port: int, behind: int, answers: str, errors: str = "", *, knows_sessions: bool = False) -> str:
    """A server of nginx's configuration, which answers requests of the method `answers` itself.

    `knows_sessions`: and those of a session that there is not.
    """
    unknown = f'if ($http_mcp_session_id = {KNOCK.decode()}) {{ return 400 \'{{"error": "unknown session"}}\'; }}'
    return f"""server {{
        listen 127.0.0.1:{port};
        {errors}
        location = /away {{ return 200 "<html>away</html>"; }}
        location = /later {{ add_header Retry-After 3600 always; return 503 "back in an hour"; }}
        location = /error {{
            default_type application/json;
            return 503 '{{"jsonrpc": "2.0", "id": null, "error": {{"code": -32000, "message": "no upstream"}}}}';
        }}
        location / {{
            {unknown if knows_sessions else ""}
            if ($request_method = {answers}) {{ return 405; }}
            proxy_pass http://127.0.0.1:{behind};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Connection "";
            proxy_read_timeout 600s;
        }}
    }}
    """


@contextmanager
def nginx(folder: Path, binary: Path, sites: list[str]) -> Iterator[None]:
    folder = folder / "nginx"
    folder.mkdir()
    temps = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr crit;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temps}{''.join(sites)}\n}}\n"
    )
    words = [str(binary), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(10)
