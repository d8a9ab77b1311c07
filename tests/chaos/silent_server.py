"""Takes connections and what comes over them, and says nothing: `python -m tests.chaos.silent_server HOST PORT`.

Run on another machine (`tests/chaos/namespace.py`), whose kernel acknowledges what it takes. The one rule: it ends no
connection.
"""

import asyncio
import sys

_PIECE_BYTES = 65_536


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(_PIECE_BYTES):
        pass
    writer.close()


async def _serve(host: str, port: int) -> None:
    server = await asyncio.start_server(_take, host, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
