"""The command line of the MCP Inspector: one process for each step."""

import asyncio
import json
import os

from driver import drive, headers, text_of


class Inspector:
    async def connect(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        await self.tools()

    async def tools(self) -> list[str]:
        _, answer = await self.run("--method", "tools/list")
        return [tool["name"] for tool in answer["tools"]]

    async def call(self, name: str, arguments: dict[str, object]) -> tuple[str, str]:
        given = [word for key, value in arguments.items() for word in ("--tool-arg", f"{key}={value}")]
        _, answer = await self.run("--method", "tools/call", "--tool-name", name, *given)
        return "error" if answer.get("isError") else "returned", text_of(answer["content"])

    async def run(self, *words: str) -> tuple[int, dict[str, object]]:
        script = f"{os.environ['MODULES']}/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
        header = [word for key, value in headers(self.token).items() for word in ("--header", f"{key}: {value}")]
        command = [os.environ["NODE"], script, "--cli", self.url, "--transport", "http", *header, *words]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        out, err = await process.communicate(b"")
        try:
            return process.returncode or 0, json.loads(out)
        except ValueError:
            raise RuntimeError(f"exit {process.returncode}: {err.decode()[-600:]}{out.decode()[-600:]}") from None

    def close(self) -> None:
        """Nothing is held."""


drive(Inspector())
