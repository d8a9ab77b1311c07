"""`mesh-agent run`: settings, then logging, then the node.

Called by `agent.cli`. The one rule: logging is configured before anything heavy is imported, because FastMCP takes over
its loggers at import.
"""

import asyncio
import logging
import os
import sys
from argparse import Namespace

from agent.cli_config import flags_of
from agent.config import load_settings
from agent.logs import configure_logging, log_uncaught


def run_node(args: Namespace) -> int:
    """Run a node until it is told to stop; return its exit code. Raises `ConfigRefused`."""
    settings = load_settings(flags_of(args), os.environ)
    consul_token = settings.consul.token
    secrets = (*settings.tokens, *settings.peer_tokens, *((consul_token,) if consul_token else ()))
    configure_logging(settings.log_level, settings.log_format, secrets=secrets)
    sys.excepthook = log_uncaught
    for warning in settings.warnings:
        logging.getLogger("agent.config").warning("settings", extra={"warning": warning})

    from agent.app import run_node as run  # noqa: PLC0415 - after the logging, see above

    return asyncio.run(run(settings))
