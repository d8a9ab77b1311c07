"""Which log messages of servers a client has asked for. Pure.

Called where notifications are passed on, and by doors that set a session's level. The one rule: what nobody asked for
is nobody's.
"""

from typing import Final

from agent.model import Json

LOG_MESSAGE: Final = "notifications/message"
LOG_LEVEL_META_KEY: Final = "io.modelcontextprotocol/logLevel"
# From the most verbose on (RFC 5424, as MCP has them).
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


def asked_level(params: Json | None) -> str | None:
    """The level that a request asks for in its `_meta`, if it is one."""
    meta = params.get("_meta") if params is not None else None
    level = meta.get(LOG_LEVEL_META_KEY) if isinstance(meta, dict) else None
    return level if level in LEVELS else None


def is_wanted(message: Json, level: str | None) -> bool:
    """Whether who asked for `level` is to get the log message with these params; one of an unknown level passes."""
    if level is None:
        return False
    said = message.get("level")
    return said not in LEVELS or LEVELS.index(said) >= LEVELS.index(level)
