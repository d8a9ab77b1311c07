"""`mesh-agent completion SHELL`, and `complete`, which the scripts that it prints call at each Tab.

Called by `agent.cli.parser`. Commands and flags come from the parser itself, names of tools, peers and servers from the
node. The one rule: a Tab waits for a node for a second at most, and never says why it knows nothing.
"""

import argparse
from argparse import Namespace
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, Final

from agent.cli.argument_parser import Parser
from agent.cli.client import Node, ask, node_of
from agent.cli.commands import build_parser
from agent.cli.lists import listed
from agent.cli.mcp import Json, Talk, talk_with
from agent.cli.output import CliFailed, Exit, rows_in
from agent.errors import ConfigRefused
from agent.harmless_text import one_line

WAIT_MAX_S: Final = 1.0
_BASH: Final = """\
_mesh_agent() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _mesh_agent mesh-agent mcp-mesh-agent
"""
_ZSH: Final = """\
#compdef mesh-agent mcp-mesh-agent
whence compdef >/dev/null || { autoload -Uz compinit && compinit }
_mesh_agent() {
    local -a found
    found=("${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -- "${(@)found}"; else _files; fi
}
compdef _mesh_agent mesh-agent mcp-mesh-agent
"""
_FISH: Final = """\
function __mesh_agent
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found ($words[1] complete -- $words[2..-1] "$current" 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c mesh-agent -f -a '(__mesh_agent)'
complete -c mcp-mesh-agent -f -a '(__mesh_agent)'
"""
SCRIPTS: Final = MappingProxyType({"bash": _BASH, "zsh": _ZSH, "fish": _FISH})
_FLAGS_OF_NODE: Final = ("url", "token", "token_file", "cacert", "cert", "key")


def print_script(args: Namespace) -> int:
    """Print what a shell reads at its start, as `source <(mesh-agent completion bash)`."""
    print(SCRIPTS[args.shell], end="")
    return Exit.OK


def complete(args: Namespace) -> int:
    """Print each word that may stand in the place of the last one."""
    *before, begun = args.behind_dashes or [""]
    for word in candidates(before, begun):
        if word.startswith(begun):
            print(one_line(word))
    return Exit.OK


def candidates(before: list[str], begun: str) -> Iterable[str]:
    """What may follow the words `before`; `begun`: what there is of it."""
    parser = build_parser()
    given = 0  # Words that are no flags, nor values of flags, nor commands.
    flag: argparse.Action | None = None  # That the next word is the value of.
    for word in before:
        below = _commands_of(parser)
        if word in below:
            parser = below[word]
            parser.complete()
        elif flag is None and not word.startswith("-"):
            given += 1
        flag = _flags_of(parser).get(word)
    if flag is not None:
        return [str(choice) for choice in flag.choices or ()]
    if begun.startswith("-"):
        return [name for action in parser._actions for name in action.option_strings]  # noqa: SLF001 - no other way
    if below := _commands_of(parser):
        return [name for name in below if name != "complete"]
    return _words_for(parser, before) if given == 0 else ()


def _commands_of(parser: Parser) -> dict[str, Parser]:
    for action in parser._actions:  # noqa: SLF001 - no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - its type
            return {name: below for name, below in action.choices.items() if isinstance(below, Parser)}
    return {}


def _flags_of(parser: Parser) -> dict[str, argparse.Action]:
    """The flags that a value follows."""
    taking = [action for action in parser._actions if action.nargs != 0]  # noqa: SLF001 - no other way
    return {name: action for action in taking for name in action.option_strings}


def _words_for(parser: Parser, before: list[str]) -> Iterable[str]:
    """The first argument of a command: what the parser knows it to be, or what the node has."""
    for action in parser._actions:  # noqa: SLF001 - no other way
        if not action.option_strings and action.choices:
            return [str(choice) for choice in action.choices]
    look = _LOOKS.get(str(parser.get_default("command")))
    try:
        return [] if look is None else [str(name) for name in look(node_of(_node_flags(before)))]
    except (CliFailed, ConfigRefused, TimeoutError):
        return []


def _node_flags(before: list[str]) -> Namespace:
    given: dict[str, Any] = dict.fromkeys(_FLAGS_OF_NODE)
    for name in _FLAGS_OF_NODE:
        flag = f"--{name.replace('_', '-')}"
        if flag in before[:-1]:
            given[name] = before[before.index(flag) + 1]
    return Namespace(**given, insecure="--insecure" in before)


def _rest(path: str, key: str) -> Callable[[Node], Iterable[Any]]:
    def look(node: Node) -> Iterable[Any]:
        data, _ = ask(node, "GET", f"/api/v1/mcp/{path}", timeout_s=WAIT_MAX_S)
        return [row.get("name") for row in rows_in(data, key)]

    return look


def _mcp(kind: str, member: str) -> Callable[[Node], Iterable[Any]]:
    async def names(client: Talk) -> list[Json]:
        return await listed(client, kind)

    return lambda node: [one.get(member) for one in talk_with(node, names, connect_timeout_s=WAIT_MAX_S)]


_PEERS, _SERVERS = _rest("peers", "peers"), _rest("servers", "servers")
_TOOLS = _mcp("tools", "name")


def names_of_mesh(node: Node) -> list[str]:
    """What may be pinged: peers, servers and tools. Raises `CliFailed`."""
    return [str(name) for look in (_SERVERS, _TOOLS) for name in look(node)]


_LOOKS: Final = MappingProxyType(
    {
        "agent.cli.status:remove_peer": _PEERS,
        "agent.cli.status:reset_peer": _PEERS,
        "agent.cli.tools:reload_servers": _SERVERS,
        "agent.cli.login:log_in": _SERVERS,
        "agent.cli.login:log_out": _SERVERS,
        "agent.cli.pins:show_differences": _SERVERS,
        "agent.cli.pins:approve": _SERVERS,
        "agent.cli.tools:call_tool": _TOOLS,
        "agent.cli.tools:describe_tool": _TOOLS,
        "agent.cli.ping:ping": names_of_mesh,
        "agent.cli.lists:read_resource": _mcp("resources", "uri"),
        "agent.cli.lists:get_prompt": _mcp("prompts", "name"),
    }
)
