"""A stdio MCP server of nothing but the standard library that behaves, or misbehaves, as its arguments say.

Run as a file by the stdio client tests. Arguments are flags (see `Server`); tools are chosen by `tools/call`'s name.
The one rule: it does exactly one thing wrong at a time.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

MODERN = "2026-07-28"


class Server:
    """Flags: modern, silent (ignores discover), dies (of discover), quits (silent, and dies of the line after it),
    late (answers discover after initialize), pins (the same, and serves initialize), older (knows 2024-11-05 only),
    stubborn (ignores the end of its input and SIGTERM), junk, texts (answers the number 2 as "2"),
    busy (holds pings), mute (never answers anything), crash, prints (crashes), stray."""  # noqa: D205, D209 - one list

    def __init__(self, flags: set[str]) -> None:
        self.flags = flags
        self.cancelled: list[Any] = []
        self.answers: list[Any] = []
        self.held: list[int] = []
        self.late: int | None = None

    def send(self, message: dict[str, Any]) -> None:
        if "junk" in self.flags:
            sys.stdout.write("Loading model... 100%\n\n{broken json\n[1, 2]\n")
        self.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def result(self, request_id: Any, **result: Any) -> None:
        self.send({"id": request_id, "result": result})

    def error(self, request_id: Any, code: int, **more: Any) -> None:
        self.send({"id": request_id, "error": {"code": code, "message": f"error {code}", **more}})

    def take(self, message: dict[str, Any]) -> None:
        method, request_id = message.get("method"), message.get("id")
        if "mute" in self.flags:
            return
        match method:
            case None:
                self.answers.append(message)
            case "server/discover":
                self.discover(request_id)
            case "initialize":
                self.initialize(request_id, message["params"])
            case "notifications/cancelled":
                self.cancelled.append(message["params"]["requestId"])
            case "ping":
                self.held.append(request_id) if "busy" in self.flags else self.result(request_id)
            case "subscriptions/listen" if "modern" in self.flags:
                self.listen(request_id)
            case "tools/call":
                self.call(request_id, message["params"])
            case _ if request_id is not None:
                self.error(request_id, -32601)

    def discover(self, request_id: Any) -> None:
        if "dies" in self.flags:
            sys.stderr.write("Traceback: \x1b[31mno server/discover\x1b[0m here\n")
            sys.exit(3)
        if self.flags & {"late", "pins", "quits"} and self.late is None:
            self.late = request_id
        elif self.flags & {"modern", "late"}:
            self.result(request_id, supportedVersions=[MODERN], capabilities={"tools": {}})
        elif "silent" not in self.flags:
            self.error(request_id, -32602)

    def initialize(self, request_id: Any, params: dict[str, Any]) -> None:
        if self.late is not None and "quits" in self.flags:
            sys.stderr.write("a request before initialize\n")
            sys.exit(1)
        if "older" in self.flags and params["protocolVersion"] != "2024-11-05":
            self.error(request_id, -32602, data={"supported": ["2024-11-05"]})
            return
        if self.late is not None:
            self.result(self.late, supportedVersions=[MODERN], capabilities={})
        if self.late is not None and "late" in self.flags:
            self.error(request_id, -32022, data={"supported": [MODERN]})
        else:
            info = {"name": "scripted", "version": "1"}
            version = "2024-11-05" if "older" in self.flags else "2025-06-18"
            self.result(request_id, protocolVersion=version, capabilities={}, serverInfo=info)

    def listen(self, request_id: Any) -> None:
        meta = {"io.modelcontextprotocol/subscriptionId": request_id}
        granted = {"toolsListChanged": True}
        self.send(
            {"method": "notifications/subscriptions/acknowledged", "params": {"notifications": granted, "_meta": meta}}
        )
        self.send({"method": "notifications/tools/list_changed", "params": {"_meta": meta}})

    def call(self, request_id: Any, params: dict[str, Any]) -> None:  # noqa: C901, PLR0912 - a flat table of tools
        token = params.get("_meta", {}).get("progressToken")
        match params["name"]:
            case "echo":
                self.result(request_id, params=params)
            case "hold":
                self.held.append(request_id)
            case "release":
                for held in reversed(self.held):
                    self.result(held, id=held)
                self.result(request_id)
            case "cancelled":
                self.result(request_id, ids=self.cancelled)
            case "exit":
                sys.stderr.write("noise\nout of \x1b[1mcheese\x1b[0m\n")
                sys.stderr.flush()
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "progress":
                for step in range(params["arguments"]["to"]):
                    self.send(
                        {"method": "notifications/progress", "params": {"progressToken": token, "progress": step}}
                    )
                self.result(request_id, done=True)
            case "changed":
                for kind in ("prompts", "resources", "tools"):
                    self.send({"method": f"notifications/{kind}/list_changed"})
                self.result(request_id)
            case "ask":
                self.send({"id": "a", "method": "ping"})
                self.send({"id": "b", "method": "roots/list"})
                self.result(request_id)
            case "odd":
                # In one write, so that they come in one piece.
                odd: tuple[dict[str, Any], ...] = (
                    {"id": [1], "result": {}},
                    {"id": {}, "result": {}},
                    {"id": True, "result": {}},
                    {"method": ["x"]},
                )
                asked = {"id": json.loads("[" * 300 + "]" * 300), "method": "ping"}
                answer = {"id": request_id, "result": {"done": True}}
                self.write("".join(json.dumps(one) + "\n" for one in (*odd, asked, answer)))
            case "nan":
                self.result(request_id, structuredContent={"mean": float("nan")})
            case "deep":
                self.write(f'{{"id": {request_id}, "jsonrpc": "2.0", "result": {"[" * 1_100 + "]" * 1_100}}}\n')
            case "answers":
                self.result(request_id, answers=self.answers)
            case "stray":
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
                self.result(request_id, pid=child.pid)
            case "big":
                self.result(request_id, text="x" * params["arguments"]["size"])
            case "huge":
                self.huge(request_id, params["arguments"]["shape"])
            case "endless":
                for _ in range(257):
                    self.write("x" * 1024 * 1024)
            case "deaf":
                self.result(request_id)
                threading.Event().wait()

    def huge(self, request_id: Any, shape: str) -> None:
        """Answer with 20 MB, in the order of members that an SDK has, or tell a note of that size before the answer."""
        text = "x" * 20_000_000
        version, result = '"jsonrpc":"2.0"', json.dumps({"content": [{"type": "text", "text": text}]})
        match shape:
            case "id first":
                self.write(f'{{{version},"id":{request_id},"result":{result}}}\n')
            case "id last":
                self.write(f'{{"result":{result},{version},"id":{request_id}}}\n')
            case "odd order":
                self.write(f'{{"result":{result},"x":{{}},"id":{request_id},"y":{{}}}}\n')
            case "note":
                self.send({"method": "notifications/message", "params": {"level": "info", "data": text}})
                self.result(request_id, done=True)


def main() -> None:
    """Read lines until the input ends, and then as the flags say."""
    flags = set(sys.argv[1:])
    if "crash" in flags:
        sys.stderr.write("cannot find my configuration\n")
        sys.exit(1)
    if "prints" in flags:
        sys.stdout.write("cannot find my configuration")
        sys.exit(1)
    if "stubborn" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = Server(flags)
    for line in sys.stdin:
        message = json.loads(line)
        server.take(message | {"id": str(message["id"])} if "texts" in flags and "id" in message else message)
    if "stubborn" in flags:
        threading.Event().wait()


if __name__ == "__main__":
    main()
