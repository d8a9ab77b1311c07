"""PURE: where other MCP programs keep their servers, and how each writes them.

Called by `agent.cli.servers_import`. The facts are those of the programs' own documentation (2026): Claude Desktop,
Claude Code, Cursor, VS Code, Windsurf, Gemini CLI. The one rule: a project's files come into play only for a project
that was named, because they are part of a repository, and say what would run here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.config.relaxed_json import JsonPath
from agent.config.server_entry import MILLISECOND_S
from agent.config.servers_file import MAPS

_BARE_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_VS_CODE_FOLDERS: Final = ("Code", "Code - Insiders", "VSCodium")
_FLAT_SETTING: Final[JsonPath] = ("mcp.servers",)  # VS Code's settings may be written with dots.


@dataclass(frozen=True, slots=True)
class Program:
    """A program. `short` becomes part of a name where two programs have different servers of one name."""

    title: str
    short: str
    timeout_unit_s: float | None = None
    has_bare_variables: bool = False


CLAUDE_DESKTOP: Final = Program("Claude Desktop", "claude-desktop")
CLAUDE_CODE: Final = Program("Claude Code", "claude-code", MILLISECOND_S)
CURSOR: Final = Program("Cursor", "cursor")
VS_CODE: Final = Program("VS Code", "vscode")
WINDSURF: Final = Program("Windsurf", "windsurf")
GEMINI: Final = Program("Gemini CLI", "gemini", MILLISECOND_S, has_bare_variables=True)
UNKNOWN: Final = Program("another program", "imported")


@dataclass(frozen=True, slots=True)
class Source:
    """A file to look into. `project`: the folder that its program would have open, for a project's own file."""

    program: Program
    path: Path
    project: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a source. Its relative paths start at `folder`; with `starts_there`, it runs there too."""

    source: Source
    at: JsonPath
    name: str
    entry: Any
    folder: Path
    starts_there: bool = False


def usual_places(platform: str, home: Path, environ: Mapping[str, str], project: Path | None) -> list[Source]:
    """Every file to look for, the user's own first. `platform` as `sys.platform`; `environ` may move folders."""
    config = config_folder(platform, home, environ)
    claude_code = Path(environ.get("CLAUDE_CONFIG_DIR") or home)
    places = [
        Source(CLAUDE_DESKTOP, config / "Claude" / "claude_desktop_config.json"),
        Source(CLAUDE_CODE, claude_code / ".claude.json"),
        Source(CURSOR, home / ".cursor" / "mcp.json"),
        *(
            Source(VS_CODE, config / folder / "User" / name)
            for folder in _VS_CODE_FOLDERS
            for name in ("mcp.json", "settings.json")
        ),
        Source(WINDSURF, home / ".codeium" / "windsurf" / "mcp_config.json"),
        Source(WINDSURF, home / ".codeium" / "mcp_config.json"),
        Source(GEMINI, home / ".gemini" / "settings.json"),
    ]
    if project is not None and project != home:
        places += [Source(program, project / name, project) for program, name in _PROJECT_FILES]
    return places


def source_of(path: Path, home: Path) -> Source:
    """Whose file this is, told from its name and its folder's; what lies in `home` itself is the user's own."""
    parts = path.absolute().parts
    for program, name in _PROJECT_FILES:
        if parts[-len(Path(name).parts) :] == Path(name).parts:
            folder = path.absolute().parents[len(Path(name).parts) - 1]
            return Source(program, path, None if folder == home else folder)
    by_name = {"claude_desktop_config.json": CLAUDE_DESKTOP, ".claude.json": CLAUDE_CODE, "mcp_config.json": WINDSURF}
    in_vs_code = path.name in ("mcp.json", "settings.json") and path.absolute().parent.name == "User"
    return Source(VS_CODE if in_vs_code else by_name.get(path.name, UNKNOWN), path)


def entries_of(root: Any, source: Source) -> Iterator[Found]:
    """Every entry of a source, with what its program puts in put in: the project's folder, Gemini's `$NAME`."""
    put_in = _put_in(source)
    off = _switched_off(root) if source.program is GEMINI else (lambda _name: False)
    for at in (*MAPS, _FLAT_SETTING):
        for name, entry in _table(root, at).items():
            folder = source.project or source.path.absolute().parent
            value = _changed(entry, put_in)
            if off(name) and isinstance(value, dict):
                value = {**value, "disabled": True}
            yield Found(source, (*at, name), name, value, folder, starts_there=source.project is not None)
    # Claude Code's "local" scope: a user's own servers for one project, kept in the user's file.
    for project, settings in _table(root, ("projects",)).items():
        for name, entry in _table(settings, ("mcpServers",)).items():
            at = ("projects", project, "mcpServers", name)
            yield Found(source, at, name, entry, Path(project), starts_there=True)


_PROJECT_FILES: Final = (
    (CLAUDE_CODE, ".mcp.json"),
    (CURSOR, ".cursor/mcp.json"),
    (VS_CODE, ".vscode/mcp.json"),
    (VS_CODE, ".vscode/settings.json"),
    (GEMINI, ".gemini/settings.json"),
)


def config_folder(platform: str, home: Path, environ: Mapping[str, str]) -> Path:
    """Where a user's programs keep their files."""
    if platform == "darwin":
        return home / "Library" / "Application Support"
    if platform == "win32":
        return Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config")


def _put_in(source: Source) -> Callable[[str], str]:
    project, has_bare_variables = source.project, source.program.has_bare_variables

    def put_in(text: str) -> str:
        if project is not None:
            text = text.replace("${workspaceFolderBasename}", project.name)
            text = text.replace("${workspaceFolder}", str(project))
        return _BARE_VARIABLE.sub(r"${\1}", text) if has_bare_variables else text

    return put_in


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case list():
            return [_changed(part, change) for part in value]
        case dict():
            return {key: _changed(part, change) for key, part in value.items()}
        case _:
            return value


def _switched_off(root: Any) -> Callable[[str], bool]:
    """Gemini CLI keeps beside the servers which of them may be used (`mcp.allowed`, `mcp.excluded`)."""
    settings = _table(root, ("mcp",))
    allowed, excluded = settings.get("allowed"), settings.get("excluded")

    def off(name: str) -> bool:
        return (isinstance(allowed, list) and name not in allowed) or (isinstance(excluded, list) and name in excluded)

    return off


def _table(root: Any, at: JsonPath) -> dict[str, Any]:
    for key in at:
        root = root.get(key) if isinstance(root, dict) else None
    return root if isinstance(root, dict) else {}
