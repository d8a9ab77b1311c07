"""Which commands there are, and what follows each: built anew for each command line, and filled as that is read.

Called by `agent.cli.parser`. Each command is named as text. The one rule: what only one command needs is made, and
imported, when its words are the ones to read.
"""

import argparse
from typing import TypeAlias

from agent import __version__
from agent.cli.argument_parser import SETTINGS_TITLE, Arguments, Parser

_EPILOG = "exit codes: 0 done, 1 usage, 2 configuration refused, 3 not authorised, 4 unreachable, 5 tool failed"
_WATCH_DEFAULT_S = 2.0
_COUNT_MAX = 1000
_ALIASES = {"ls": ("list",), "rm": ("remove",)}
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001 - for its type


def build_parser() -> Parser:
    """Build the command line: its commands, and what follows one when that one is read."""
    parser = Parser("mesh-agent", description="MCP nodes that find each other.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"mesh-agent {__version__}")
    commands = _commands(parser)
    demo = "start three nodes on this machine and show them at work"
    _add(commands, "run", "agent.cli.run:run_node", "start a node and stay", _settings_flags)
    _add(commands, "demo", "agent.demo.run:run_demo", demo, _demo_flags)
    _add(
        commands,
        "status",
        "agent.cli.status:show_status",
        "show a running node and its peers",
        *_OF_CLIENTS,
        _watch_flag,
    )
    _add(commands, "top", "agent.cli.live:show_top", "show what each link does now", *_OF_CLIENTS)
    happened = "show what happened in the mesh lately"
    _add(commands, "events", "agent.cli.live:show_events", happened, *_OF_CLIENTS, _events_flags)
    wrong = "look for what is wrong here and at the node, with the cause and the fix of each"
    _add(commands, "doctor", "agent.cli.doctor:diagnose", wrong, *_OF_CLIENTS)
    reach = "show by which ways a peer, server or tool is reached, and how long each takes"
    _add(commands, "ping", "agent.cli.ping:ping", reach, *_OF_CLIENTS, _name_argument, _count_flag)
    _add(commands, "logs", "agent.cli.logs:show_logs", "show the log of a running node", *_OF_CLIENTS, _logs_flags)
    bundle = "write what a report of a fault needs into one file"
    _add(commands, "debug", "agent.cli.debug:write_bundle", bundle, *_OF_CLIENTS, _file_flag)
    _group(commands, "peers", "list, add, remove and reset peers of a running node", _peers)
    _group(
        commands,
        "servers",
        "list, reload, add, remove and import the MCP servers of a node, and log in at them",
        _servers,
    )
    _group(commands, "tools", "list, describe and call the tools of the mesh", _tools)
    _group(commands, "resources", "list and read the resources of the mesh", _resources)
    _group(commands, "prompts", "list and get the prompts of the mesh", _prompts)
    connect = "have another program use the node: print what it needs, or write it into the program's file"
    _add(commands, "connect", "agent.cli.connect:connect", connect, *_OF_CLIENTS, _connect_flags)
    _group(commands, "token", "make, list and revoke the named tokens of a node", _token)
    _group(commands, "pins", "show and approve changes of what servers say their tools are", _pins)
    _group(commands, "audit", "look at the audit of a node, and check that it is whole", _audit)
    _group(commands, "config", "look at the configuration without starting a node", _config)
    about = "print what has a shell complete commands, flags and names"
    _add(commands, "completion", "agent.cli.completion:print_script", about, _shell_argument)
    _add(commands, "version", "agent.cli.parser:show_version", "show the version", _output_flags)
    # Not listed: shells call it.
    commands.add_parser("complete").set_defaults(command="agent.cli.completion:complete")
    return parser


def _peers(parser: Parser) -> None:
    peers = _commands(parser)
    _add(peers, "ls", "agent.cli.status:list_peers", "list the peers", *_OF_LISTS)
    _add(peers, "add", "agent.cli.status:add_peer", "add a peer", *_OF_CLIENTS, _peer_arguments)
    _add(peers, "rm", "agent.cli.status:remove_peer", "remove a peer", *_OF_CLIENTS, _name_argument)
    undo = "undo what was ordered about a peer"
    _add(peers, "reset", "agent.cli.status:reset_peer", undo, *_OF_CLIENTS, _name_argument)


def _servers(parser: Parser) -> None:
    servers = _commands(parser)
    _add(servers, "ls", "agent.cli.status:list_servers", "list the servers and peers", *_OF_LISTS)
    reload = "agent.cli.tools:reload_servers"
    _add(servers, "reload", reload, "connect servers anew", *_OF_CLIENTS, _reload_arguments)
    login = "log in at a server that wants OAuth"
    _add(servers, "login", "agent.cli.login:log_in", login, *_OF_CLIENTS, _name_argument, _login_flags)
    _add(servers, "logout", "agent.cli.login:log_out", "forget a login at a server", *_OF_CLIENTS, _name_argument)
    edit, written = "agent.cli.servers_edit:", (_settings_flags, _output_flags)
    _add(servers, "add", f"{edit}add_server", "add a server to the servers file", *written, _server_arguments)
    _add(servers, "rm", f"{edit}remove_server", "take a server out of the servers file", *written, _name_argument)
    taken = "agent.cli.servers_import:import_servers"
    _add(servers, "import", taken, "take over other programs' servers", _settings_flags, _output_flags, _import_flags)


def _tools(parser: Parser) -> None:
    tools = _commands(parser)
    _add(tools, "ls", "agent.cli.tools:list_tools", "list the tools", *_OF_LISTS)
    about = "show what a tool takes and gives, and whose it is"
    _add(tools, "describe", "agent.cli.tools:describe_tool", about, *_OF_CLIENTS, _name_argument)
    _add(tools, "call", "agent.cli.tools:call_tool", "call a tool", *_OF_CLIENTS, _call_arguments)


def _resources(parser: Parser) -> None:
    resources = _commands(parser)
    _add(resources, "ls", "agent.cli.lists:list_resources", "list the resources", *_OF_LISTS)
    _add(resources, "read", "agent.cli.lists:read_resource", "print a resource", *_OF_CLIENTS, _uri_argument)


def _prompts(parser: Parser) -> None:
    prompts = _commands(parser)
    _add(prompts, "ls", "agent.cli.lists:list_prompts", "list the prompts", *_OF_LISTS)
    about = "print the messages of a prompt"
    _add(prompts, "get", "agent.cli.lists:get_prompt", about, *_OF_CLIENTS, _name_argument, _pairs_argument)


def _config(parser: Parser) -> None:
    config, flags = _commands(parser), (_settings_flags, _output_flags)
    _add(config, "show", "agent.cli.run:show_config", "show each setting and its origin", *flags)
    _add(config, "check", "agent.cli.run:check_config", "check settings and servers file", *flags)


def _token(parser: Parser) -> None:
    token, flags = _commands(parser), (_settings_flags, _output_flags)
    new, revoke = (_name_argument, _token_flags), (_name_argument,)
    _add(token, "new", "agent.cli.token:new_token", "make a token and show it, once", *flags, *new)
    _add(token, "ls", "agent.cli.token:list_tokens", "list the named tokens", _settings_flags, _list_flags)
    _add(token, "revoke", "agent.cli.token:revoke_token", "make a token invalid", *flags, *revoke)


def _pins(parser: Parser) -> None:
    pins, of_one = _commands(parser), "the changed definitions"
    _add(pins, "ls", "agent.cli.pins:list_pins", "list what is pinned", *_OF_CLIENTS)
    _add(pins, "diff", "agent.cli.pins:show_differences", f"show {of_one}", *_OF_CLIENTS, _pin_filter)
    _add(pins, "approve", "agent.cli.pins:approve", f"pin {of_one}", *_OF_CLIENTS, _pin_arguments)


def _audit(parser: Parser) -> None:
    audit, flags = _commands(parser), (_settings_flags, _output_flags)
    verify = "check that no record was changed or taken out"
    _add(audit, "verify", "agent.cli.audit:verify_audit", verify, *flags, _audit_file)
    _add(audit, "tail", "agent.cli.audit:show_tail", "show the newest records", *flags, _audit_file, _tail_flags)


def _commands(parser: Parser) -> Commands:
    # With its name said, argparse does not make a help text to find it, for which it imports compressors.
    return parser.add_subparsers(metavar="COMMAND", required=True, prog=parser.prog)


def _add(commands: Commands, name: str, command: str, about: str, *arguments: Arguments) -> None:
    aliases = _ALIASES.get(name, ())
    parser = commands.add_parser(name, aliases=aliases, help=about, description=about, arguments=arguments)
    parser.set_defaults(command=command)


def _group(commands: Commands, name: str, about: str, members: Arguments) -> None:
    commands.add_parser(name, help=about, description=about, arguments=[members])


def _demo_flags(parser: Parser) -> None:
    parser.add_argument("--once", action="store_true", help="stop after the call from node to node")


def _name_argument(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME")


def _shell_argument(parser: Parser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="for bash: source <(mesh-agent completion bash)")


def _uri_argument(parser: Parser) -> None:
    parser.add_argument("uri", metavar="URI")


def _pairs_argument(parser: Parser) -> None:
    parser.add_argument("pairs", metavar="KEY=VALUE", nargs="*", default=(), help="arguments")


def _peer_arguments(parser: Parser) -> None:
    _name_argument(parser)
    parser.add_argument("peer_url", metavar="URL", help="like http://10.0.0.7:8000/mcp")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--auth-token-file", metavar="FILE", help="the token that this peer wants")
    source.add_argument("--auth-token", choices=["-"], help="read that token from stdin")
    parser.add_argument("--scope", choices=["local", "mesh"], help="import what it serves itself, or all that it sees")
    kinds = (
        "a plain server, whatever it says of itself, or a node that has to prove itself; left out: the proof decides"
    )
    parser.add_argument("--kind", choices=["server", "node"], help=kinds)


def _pin_filter(parser: Parser) -> None:
    parser.add_argument("server", metavar="SERVER", nargs="?", help="of all servers when left out")
    parser.add_argument("definition", metavar="NAME", nargs="?", help="a tool or prompt by its own name")


def _pin_arguments(parser: Parser) -> None:
    parser.add_argument("server", metavar="SERVER", help="a server or peer by its name")
    parser.add_argument(
        "definition", metavar="NAME", nargs="?", help="a tool or prompt by its own name; all when left out"
    )


def _reload_arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="all of them when left out")


def _login_flags(parser: Parser) -> None:
    parser.add_argument("--open", action="store_true", help="open the URL in this machine's browser")
    parser.add_argument("--paste", action="store_true", help="wait for a pasted URL alone, not for a browser")


def _server_arguments(parser: Parser) -> None:
    _name_argument(parser)
    parser.add_argument("url", metavar="URL | -- COMMAND", nargs="?", help="a URL, or -- and a command with arguments")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", help="a variable of the command")
    parser.add_argument("--header", metavar="NAME: VALUE", action="append", help="a header of requests to the URL")
    parser.add_argument("--scope", choices=["service", "node", "fleet", "private"], help="see docs/settings.md")
    parser.add_argument("--replace", action="store_true", help="put it in the place of one of that name")


def _events_flags(parser: Parser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")


def _count_flag(parser: Parser) -> None:
    parser.add_argument("-c", "--count", metavar="N", type=_count, default=1, help="so many times; once by default")


def _logs_flags(parser: Parser) -> None:
    _events_flags(parser)
    levels, about = ["debug", "info", "warning", "error"], "the least severe lines to show; info by default"
    parser.add_argument("--level", choices=levels, default="info", help=about)


def _file_flag(parser: Parser) -> None:
    parser.add_argument("--file", metavar="FILE", help="this file; by default a new one with the time in its name")


def _connect_flags(parser: Parser) -> None:
    from agent.config.connections import PROGRAMS  # noqa: PLC0415 - for this command alone

    parser.add_argument("program", choices=PROGRAMS, help="the program whose file gets an entry")
    parser.add_argument("--name", default="mesh", help="what the program calls the node; mesh when left out")
    parser.add_argument("--write", action="store_true", help="write it into the program's file, beside a copy of that")
    parser.add_argument("--file", metavar="FILE", help="this file, not the program's usual one")


def _import_flags(parser: Parser) -> None:
    parser.add_argument("--from", dest="source", metavar="FILE", action="append", help="this file, not the usual ones")
    parser.add_argument("--project", metavar="DIR", help="look for a project's own files in DIR as well")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and write nothing")


def _call_arguments(parser: Parser) -> None:
    _name_argument(parser)
    parser.add_argument(
        "pairs", metavar="KEY=VALUE", nargs="*", default=(), help="arguments; a value that is JSON is taken as such"
    )
    parser.add_argument("--args", metavar="JSON", help="the arguments as one object")
    parser.add_argument(
        "--node", metavar="NODE", help="of a fleet's tool: a node, several parted by commas, any or all"
    )
    parser.add_argument("--timeout", metavar="S", type=_seconds, help="seconds to wait for the result")


def _token_flags(parser: Parser) -> None:
    scopes = "mcp, read, admin, metrics or peer; may be repeated, mcp when left out"
    parser.add_argument("--scope", metavar="SCOPE", action="append", help=scopes)
    tools = "a name of tools, in which * may stand, or ! before one to leave out; may be repeated"
    parser.add_argument("--tools", metavar="PATTERN", action="append", help=tools)
    parser.add_argument("--read-only", action="store_true", help="only tools that say that they only read")
    parser.add_argument("--expires", metavar="WHEN", help="like 90d, 12h or 2027-01-31T00:00:00Z; never when left out")
    parser.add_argument("--calls-per-s", metavar="N", type=float, help="so many calls a second")
    parser.add_argument("--concurrent-calls", metavar="N", type=int, help="so many calls at once")
    rotate = "a second token of a name that there is; the older one of two stops being valid"
    parser.add_argument("--rotate", action="store_true", help=rotate)


def _audit_file(parser: Parser) -> None:
    about = "its file; by default that of the node with these settings"
    parser.add_argument("file", metavar="FILE", nargs="?", help=about)


def _tail_flags(parser: Parser) -> None:
    parser.add_argument("-n", dest="count", metavar="N", type=int, default=20, help="so many; 20 by default")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:  # Nor is NaN.
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= _COUNT_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {_COUNT_MAX}")
    return int(text)


def _settings_flags(parser: Parser) -> None:
    from agent.config.table import SETTINGS  # noqa: PLC0415 - costs more than all the rest of `version`

    secrets = ", ".join(setting.env for setting in SETTINGS if not setting.flag)
    about = f"each one is also an environment variable (docs/settings.md); {secrets} are variables alone"
    group = parser.add_argument_group(SETTINGS_TITLE, about)
    for setting in SETTINGS:
        if not setting.flag:
            continue
        first = setting.about.partition(". ")[0].rstrip(".")
        about = f"{first} [{setting.env}; default: {setting.unset_means or setting.default or 'none'}]"
        is_switch = setting.default == "0"
        group.add_argument(
            setting.flag,
            dest=setting.name,
            metavar="0|1" if is_switch else setting.name.rpartition("_")[2].upper(),
            nargs="?" if is_switch else None,
            const="1" if is_switch else None,
            help=about.replace("%", "%%"),
        )


def _client_flags(parser: Parser) -> None:
    parser.add_argument("--url", help="the node, default MESH_URL or http://127.0.0.1:8000")
    parser.add_argument("--token", help="its token; others see it in the process list, so prefer MESH_TOKEN")
    parser.add_argument("--token-file", metavar="FILE", help="a file with its token, default MESH_TOKEN_FILE")
    parser.add_argument("--cacert", metavar="FILE", help="authorities to trust for https, default MESH_TLS_CA")
    parser.add_argument("--cert", metavar="FILE", help="our certificate for https, default MESH_TLS_CERT")
    parser.add_argument("--key", metavar="FILE", help="its key, default MESH_TLS_KEY, or in the certificate's file")
    parser.add_argument("--insecure", action="store_true", help="take any certificate of the node")


def _output_flags(parser: Parser) -> None:
    _format_flags(parser, ["table", "json"])


def _list_flags(parser: Parser) -> None:
    _format_flags(parser, ["table", "wide", "name", "json"])
    _watch_flag(parser)


def _watch_flag(parser: Parser) -> None:
    about = f"again every S seconds, {_WATCH_DEFAULT_S:g} by default, until Ctrl-C"
    parser.add_argument("--watch", metavar="S", nargs="?", type=_seconds, const=_WATCH_DEFAULT_S, help=about)


def _format_flags(parser: Parser, formats: list[str]) -> None:
    parser.add_argument("-o", "--output", choices=formats, help="how to print it; table by default")
    about = "print JSON for scripts, as -o json does; failures are one line of it on stderr"
    parser.add_argument("--json", dest="output", action="store_const", const="json", help=about)


_OF_CLIENTS = (_client_flags, _output_flags)
_OF_LISTS = (_client_flags, _list_flags)
