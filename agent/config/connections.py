"""PURE: what other MCP programs write in their files to use a node of the mesh.

Called by `agent.cli.connect`. The facts are those of the programs' own documentation (2026): Claude Desktop, Claude
Code, Cursor, VS Code, Windsurf, Gemini CLI, Codex. The one rule: a token is never in what is made here; each program
takes it from its environment, or asks its user.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.config.other_programs import (
    CLAUDE_CODE,
    CLAUDE_DESKTOP,
    CURSOR,
    GEMINI,
    VS_CODE,
    WINDSURF,
    Program,
    config_folder,
)
from agent.errors import ConfigRefused
from agent.model import Json

CODEX: Final = Program("Codex", "codex")
PROGRAMS: Final = {one.short: one for one in (CLAUDE_DESKTOP, CLAUDE_CODE, CURSOR, VS_CODE, WINDSURF, GEMINI, CODEX)}
TOKEN_VARIABLE: Final = "MESH_TOKEN"  # noqa: S105 - the name of one
_IN_QUOTES: Final = {"\\": "\\\\", '"': '\\"'}


@dataclass(frozen=True, slots=True)
class Connection:
    """What a program needs.

    `entry`: its JSON entry, None for Codex' TOML; `map_name`: where entries stand in a new file; `notes`: what its user
    has to do or know.
    """

    program: Program
    path: Path
    map_name: str
    entry: Json | None
    notes: tuple[str, ...] = ()


def connection_of(
    program: Program, url: str, *, wants_token: bool, platform: str, home: Path, environ: Mapping[str, str]
) -> Connection:
    """How a program connects to the endpoint `url`. `platform` as `sys.platform`; `environ` may move folders."""
    config = config_folder(platform, home, environ)
    variable = f"start it with the variable {TOKEN_VARIABLE} set to the node's token"
    notes = (variable,) if wants_token else ()

    def headers(reference: str) -> Json:
        return {"headers": {"Authorization": f"Bearer {reference}"}} if wants_token else {}

    if program is CLAUDE_DESKTOP:
        path = config / "Claude" / "claude_desktop_config.json"
        return Connection(
            program, path, "mcpServers", _bridged(url, wants_token=wants_token), _bridge_notes(wants_token)
        )
    if program is CLAUDE_CODE:
        path = Path(environ.get("CLAUDE_CONFIG_DIR") or home) / ".claude.json"
        entry: Json = {"type": "http", "url": url, **headers(f"${{{TOKEN_VARIABLE}}}")}
        return Connection(program, path, "mcpServers", entry, notes)
    if program is CURSOR:
        entry = {"url": url, **headers(f"${{env:{TOKEN_VARIABLE}}}")}
        return Connection(program, home / ".cursor" / "mcp.json", "mcpServers", entry, notes)
    if program is WINDSURF:
        entry = {"serverUrl": url, **headers(f"${{env:{TOKEN_VARIABLE}}}")}
        return Connection(program, home / ".codeium" / "windsurf" / "mcp_config.json", "mcpServers", entry, notes)
    if program is VS_CODE:
        entry = {"type": "http", "url": url, **headers(f"${{env:{TOKEN_VARIABLE}}}")}
        return Connection(program, config / "Code" / "User" / "mcp.json", "servers", entry, notes)
    if program is GEMINI:
        entry = {"httpUrl": url, **headers(f"${TOKEN_VARIABLE}")}
        return Connection(program, home / ".gemini" / "settings.json", "mcpServers", entry, notes)
    folder = Path(environ.get("CODEX_HOME") or home / ".codex")
    return Connection(CODEX, folder / "config.toml", "mcp_servers", None, notes)


def toml_entry(name: str, url: str, *, wants_token: bool) -> str:
    """Codex' table for the endpoint `url`."""
    lines = [f"[mcp_servers.{_quoted(name)}]", f"url = {_quoted(url)}"]
    if wants_token:
        lines.append(f"bearer_token_env_var = {_quoted(TOKEN_VARIABLE)}")
    return "\n".join(lines) + "\n"


def with_toml_entry(text: str, name: str, url: str, path: Path, *, wants_token: bool) -> str:
    """Codex' file with a further table at its end. Raises `ConfigRefused`."""
    try:
        known = tomllib.loads(text).get("mcp_servers", {})
    except tomllib.TOMLDecodeError as exc:
        raise ConfigRefused(f"{path}: is no TOML: {exc}") from exc
    if name in known:
        raise already_there(path, name)
    between = "" if not text.strip() else "\n" if text.endswith("\n") else "\n\n"
    changed = f"{text}{between}{toml_entry(name, url, wants_token=wants_token)}"
    try:
        tomllib.loads(changed)
    except tomllib.TOMLDecodeError as exc:  # `mcp_servers = {...}`, which takes no further table.
        raise ConfigRefused(f"{path}: mcp_servers is written in one line; add the table by hand") from exc
    return changed


def already_there(path: Path, name: str) -> ConfigRefused:
    """The refusal to write over an entry that is there."""
    return ConfigRefused(f"{path}: has a server {name!r} already; take it out, or give another --name")


def _bridged(url: str, *, wants_token: bool) -> Json:
    """Claude Desktop starts commands only: a program of npm's that talks to the URL."""
    arguments = ["-y", "mcp-remote", url]
    entry: dict[str, Any] = {"command": "npx", "args": arguments}
    if wants_token:
        arguments += ["--header", f"Authorization:${{{_BEARER}}}"]
        entry["env"] = {_BEARER: "Bearer PUT-THE-TOKEN-HERE"}
    return entry


_BEARER: Final = "MESH_AUTHORIZATION"


def _bridge_notes(wants_token: bool) -> tuple[str, ...]:
    needs = "it starts npx, so Node has to be installed; restart it to take the change up"
    put = f"put the node's token into {_BEARER}, behind Bearer"
    return (needs, put) if wants_token else (needs,)


def _quoted(text: str) -> str:
    return '"' + "".join(_IN_QUOTES.get(char, char) for char in text) + '"'
