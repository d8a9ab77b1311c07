"""Probes the HTTP checks of the embedded catalog, one task per check.

Run by `embedded` beside the server. The one rule: a probe reports and never fails; its check alone knows what a status
means (2xx passing, 429 warning, anything else critical, as in Consul).
"""

import asyncio

import aiohttp

from discovery.embedded_catalog import LocalCatalog
from discovery.embedded_definition import CheckSpec
from discovery.embedded_http import CatalogServer


async def probe_forever(catalog: LocalCatalog, server: CatalogServer) -> None:
    """Keep one probe running for every HTTP check that is registered; until cancelled."""
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
    async with session, asyncio.TaskGroup() as group:
        running: dict[CheckSpec, asyncio.Task[None]] = {}
        while True:
            server.checks_changed.clear()
            wanted = frozenset(catalog.http_checks().values())
            for check in running.keys() - wanted:
                running.pop(check).cancel()
            for check in wanted - running.keys():
                running[check] = group.create_task(
                    _probe(session, check, server), name=f"embedded check {check.check_id}"
                )
            await server.checks_changed.wait()


async def _probe(session: aiohttp.ClientSession, check: CheckSpec, server: CatalogServer) -> None:
    while True:
        status, output = await _look(session, check)
        server.probed(check.check_id, status, output)
        await asyncio.sleep(check.interval_s)


async def _look(session: aiohttp.ClientSession, check: CheckSpec) -> tuple[str, str]:
    assert check.http_url is not None
    timeout = aiohttp.ClientTimeout(total=check.timeout_s)
    try:
        async with session.get(check.http_url, allow_redirects=False, timeout=timeout) as answer:
            code = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
        return "critical", type(exc).__name__
    if 200 <= code < 300:  # noqa: PLR2004 - the 2xx range
        return "passing", f"HTTP GET: {code}"
    return ("warning" if code == 429 else "critical"), f"HTTP GET: {code}"  # noqa: PLR2004 - too many requests
