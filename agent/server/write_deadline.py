"""The write deadline of answers that are handed to aiohttp whole: small results, errors, 202s, REST, metrics.

The wiring puts `write_deadline_middleware` outermost, so headers and status are final here; streams keep deadlines of
their own, of the same length. The one rule: a timer is started only where a client may make us wait, never for an
answer that the connection takes at once.
"""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

# A reader that takes nothing for this long while our buffer is full is dropped; it delays no other client, but it
# holds memory and a stream. Long enough for a suspended laptop's TCP to recover once.
WRITE_TIMEOUT_S: Final = 30.0
# Half of what a transport holds before it makes a writer wait (asyncio's 64 KiB), which leaves room for the headers.
AT_ONCE_BYTES_MAX: Final = 32 << 10


@web.middleware
async def write_deadline_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Drop a client that takes none of its answer for `WRITE_TIMEOUT_S`."""
    response = await handler(request)
    await in_time(request, response)
    return response


async def in_time(request: web.Request, response: web.StreamResponse) -> None:
    """Write an answer that its client may take slowly; one that the connection takes at once is left to the server."""
    if response.prepared or _is_taken_at_once(request, response):
        return
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.prepare(request)
            await response.write_eof()
    except ConnectionError:
        pass  # aiohttp raises it again, and handles it.
    except TimeoutError:
        drop_client(request)


def drop_client(request: web.Request) -> None:
    """As `drop`, of a request's client."""
    drop(request.transport)


def drop(transport: asyncio.BaseTransport | None) -> None:
    """Break the connection of a client that has taken nothing for `WRITE_TIMEOUT_S`."""
    log.warning("MCP client stopped reading, dropped", extra={"limit_s": WRITE_TIMEOUT_S})
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def _is_taken_at_once(request: web.Request, response: web.StreamResponse) -> bool:
    transport, length = request.transport, response.content_length
    if not isinstance(transport, asyncio.WriteTransport):
        return True
    if length is None or length > AT_ONCE_BYTES_MAX:
        return False
    # What earlier answers left there is what their reader has not taken.
    return transport.get_write_buffer_size() == 0
