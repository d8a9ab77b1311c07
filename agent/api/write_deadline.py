"""The write deadline of answers that are handed to aiohttp whole: small results, errors, sessions' 202, REST, metrics.

The wiring puts `write_deadline_middleware` outermost, so headers and status are final here; streams keep deadlines of
their own. The one rule: a timer is started only where a client may make us wait, never for an answer that the
connection takes at once.
"""

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from agent.api.asgi_exchange import WRITE_TIMEOUT_S, drop_client

# Half of what a transport holds before it makes a writer wait (asyncio's 64 KiB), which leaves room for the headers.
_TAKEN_AT_ONCE_BYTES_MAX: Final = 32 << 10


@web.middleware
async def write_deadline_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Drop a client that takes none of its answer for `WRITE_TIMEOUT_S`."""
    response = await handler(request)
    if response.prepared or _is_taken_at_once(request, response):
        return response
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.prepare(request)
            await response.write_eof()
    except ConnectionError:
        pass  # aiohttp meets it again where it knows what it means.
    except TimeoutError:
        drop_client(request)
    return response


def _is_taken_at_once(request: web.Request, response: web.StreamResponse) -> bool:
    transport, length = request.transport, response.content_length
    if not isinstance(transport, asyncio.WriteTransport):
        return True
    if length is None or length > _TAKEN_AT_ONCE_BYTES_MAX:
        return False
    # What earlier answers left there is what their reader has not taken.
    return transport.get_write_buffer_size() == 0
