"""`mesh-agent run`, `config show` and `config check`: settings, then logging, then the node.

Called by `agent.cli.parser`. The one rule: logging is configured before anything heavy is imported, because FastMCP
takes over its loggers at import.
"""

import asyncio
import logging
import os
import sys
from argparse import Namespace

from agent.cli.output import Exit, print_json, print_table
from agent.config.load import Settings, Shown, load_settings, shown
from agent.config.servers_file import check_servers, refuse_name_of_node
from agent.config.table import SETTINGS
from agent.errors import ConfigRefused
from agent.logs import configure_logging, log_uncaught
from agent.model import ServerSpec, StdioTarget


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
    """Validate the settings and the servers file; `ConfigRefused` ends it with exit code 2."""
    settings = load_settings(flags_of(args), os.environ)
    servers, notes = _servers(settings)
    warnings = (*settings.warnings, *notes)
    if args.json:
        listed = [{"name": spec.name, "scope": spec.scope, "enabled": spec.enabled} for spec in servers]
        print_json(ok=True, servers=listed, warnings=warnings)
        return Exit.OK
    for spec in servers:
        target = spec.target.command if isinstance(spec.target, StdioTarget) else spec.target.url
        print(f"server {spec.name}: {spec.scope}, {target}" + ("" if spec.enabled else " (disabled)"))
    _print_warnings(warnings)
    print("the configuration is good")
    return Exit.OK


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


def _servers(settings: Settings) -> tuple[tuple[ServerSpec, ...], tuple[str, ...]]:
    path = settings.servers_file
    if path is None:
        return (), ()
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigRefused(f"{path}: the servers file cannot be read: {exc}") from exc
    servers, notes = check_servers(text, path, os.environ)
    refuse_name_of_node(servers, settings.node_name, path)
    return servers, notes


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

    from agent.app.node import run_node as run  # noqa: PLC0415 - after the logging, see above

    return asyncio.run(run(settings))
