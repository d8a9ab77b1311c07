"""`mesh-agent run`, `config show` and `config check`: settings, then logging, then the node.

Called by `agent.cli.parser`. The one rule: logging is configured before anything heavy is imported, because FastMCP
takes over its loggers at import.
"""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress

from agent import turns
from agent.cli.output import Exit, print_fault, print_json
from agent.cli.table import print_table
from agent.client.stdio.environment import command_fault, is_inherited
from agent.client.stdio.guardian import arm
from agent.config.load import Settings, Shown, load_settings, shown
from agent.config.servers_file import ServersFile, check_servers, leave_out_name_of_node, read_text
from agent.config.table import SECRET_VARIABLES, SETTINGS
from agent.config.variables import variables_in
from agent.config.views_file import read_views
from agent.descriptors import raise_limit
from agent.errors import ConfigRefused
from agent.logs import configure_logging, log_uncaught
from agent.model import ServerSpec, StdioTarget
from agent.process_secrets import keep_from_others


def flags_of(args: Namespace) -> dict[str, str]:
    """Collect the settings that were given as flags."""
    given = {setting.name: getattr(args, setting.name, None) for setting in SETTINGS}
    return {name: text for name, text in given.items() if text is not None}


def show_config(args: Namespace) -> int:
    """Print every setting with its value and where that came from."""
    settings = load_settings(flags_of(args), os.environ)
    rows = shown(settings)
    if args.json:
        listed = [{"name": name, "value": value, "origin": origin} for name, value, origin in rows]
        print_json(settings=listed, warnings=settings.warnings)
    else:
        print_table(["SETTING", "VALUE", "ORIGIN"], [(name, _as_text(value), origin) for name, value, origin in rows])
        _print_warnings(settings.warnings)
    return Exit.OK


def check_config(args: Namespace) -> int:
    """Validate the settings, the servers file and the views, and look for the commands; all faults are printed."""
    settings = load_settings(flags_of(args), os.environ)
    file = servers_of(settings)
    warnings = (*settings.warnings, *file.notes)
    faults = [reason for entry in file.left_out if entry.enabled for reason in entry.reasons]
    faults += [f"server {name}: {fault}" for name, fault in unstartable(file.servers)]
    views = read_views(settings.views_file, settings.servers_file)
    faults += views.faults
    if args.json:
        listed = [{"name": spec.name, "scope": spec.scope, "enabled": spec.enabled} for spec in file.servers]
        left_out = [
            {"name": entry.configured_name, "reasons": entry.reasons, "enabled": entry.enabled}
            for entry in file.left_out
        ]
        named = sorted(views.views)
        print_json(ok=not faults, servers=listed, left_out=left_out, views=named, faults=faults, warnings=warnings)
        return Exit.CONFIG if faults else Exit.OK
    for spec in file.servers:
        print(f"server {spec.name}: {spec.scope}, {_shown_target(spec)}" + ("" if spec.enabled else " (disabled)"))
    for name in sorted(views.views):
        print(f"view {name}: /mcp/v/{name}")
    _print_warnings(warnings)
    for entry in file.left_out:
        if not entry.enabled:
            _print_warnings(tuple(f"{reason} (disabled)" for reason in entry.reasons))
    for fault in faults:
        print_fault(fault)
    print(
        "the configuration is good"
        if not faults
        else "the configuration has faults; the other servers and views would run"
    )
    return Exit.CONFIG if faults else Exit.OK


def unstartable(servers: tuple[ServerSpec, ...]) -> Iterator[tuple[str, str]]:
    """Name each server that is switched on and whose command cannot be found, with what is wrong."""
    for spec in servers:
        if spec.enabled and isinstance(spec.target, StdioTarget) and (fault := command_fault(spec.target, os.environ)):
            yield spec.name, fault


def _shown_target(spec: ServerSpec) -> str:
    if isinstance(spec.target, StdioTarget):
        return spec.target.command
    return spec.target.shown


def _as_text(value: Shown) -> str | None:
    """Write a value the way a variable or a flag has it."""
    match value:
        case bool():
            return "1" if value else "0"
        case float():
            return f"{value:g}"
        case None:
            return None
        case _:
            return str(value)


def servers_of(settings: Settings) -> ServersFile:
    """The servers file as a node with these settings reads it. Raises `ConfigRefused`."""
    path = settings.servers_file
    if path is None:
        return ServersFile()
    file = check_servers(read_text(path), path, os.environ, settings.default_scope)
    return leave_out_name_of_node(file, settings.node_name, path)


def _named_by_servers(settings: Settings) -> list[str]:
    """The variables that servers are given: keys, mostly. What children inherit anyway is no secret."""
    if settings.servers_file is None:
        return []
    with suppress(ConfigRefused):
        text = read_text(settings.servers_file)
        return [name for name in variables_in(text, with_default=True) if not is_inherited(name)]
    return []  # The node says why.


def _print_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"warning: {warning}")


def run_node(args: Namespace) -> int:
    """Run a node until SIGTERM or SIGINT; return its exit code. Raises `ConfigRefused`."""
    settings = load_settings(flags_of(args), os.environ)
    consul_token = settings.consul.token
    secrets = (*settings.tokens, *settings.peer_tokens, *((consul_token,) if consul_token else ()))
    configure_logging(settings.log_level, settings.log_format, secrets=secrets)
    sys.excepthook = log_uncaught
    for warning in settings.warnings:
        logging.getLogger("agent.config.load").warning("settings", extra={"warning": warning})

    raise_limit()
    keep_from_others([*SECRET_VARIABLES, *_named_by_servers(settings)])
    arm()
    from agent.app.start import run_node as run  # noqa: PLC0415 - after the logging, see above

    return turns.run(run(settings))
