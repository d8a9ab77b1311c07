"""The bare server for gateways in front of child processes: `python -m bench.stdio_server [FILE]`, a message a line.

FILE grows by one byte for each message, so that `bench.others` can count them. As `bench.bare_server` it has one tool,
`echo`, with a canned answer, and takes clients of all eras.
"""

import os
import sys

import orjson

from bench.bare_server import ANSWERS, INITIALIZED

TEXT = "sixteen bytes ok"


def main() -> None:
    """Serve until standard input ends."""
    called = orjson.dumps({"content": [{"type": "text", "text": TEXT}], "resultType": "complete"})
    counted = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if len(sys.argv) > 1 else None
    for line in sys.stdin.buffer:
        if counted is not None:
            os.write(counted, b".")
        message = orjson.loads(line)
        if "id" not in message:
            continue
        method = message["method"]
        if method == "initialize":
            result = orjson.dumps({**INITIALIZED, "protocolVersion": message["params"]["protocolVersion"]})
        else:
            result = called if method == "tools/call" else ANSWERS.get(method, b"{}")
        sys.stdout.buffer.write(b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (orjson.dumps(message["id"]), result))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
