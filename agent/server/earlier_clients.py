"""Tools and their results in the shape of clients with sessions, which speak a version from before 2026-07-28.

Called by the endpoints for everything that a session is shown. The one rule: what such a client cannot read is left
out, a tool never is; and a structured result that has to go leaves its words behind where the server wrote no others.
"""

from typing import Final

import orjson

from agent.model import Json
from agent.routing.output_schemas import is_object_schema

_SCHEMA: Final = "outputSchema"
_STRUCTURED: Final = "structuredContent"


def without_output_schema(definition: Json) -> Json:
    """The definition without an output schema that earlier clients do not know, or might refuse."""
    return {member: value for member, value in definition.items() if member != _SCHEMA}


def hides_structure(definition: Json) -> bool:
    """Whether a tool's structured results are of a kind that earlier clients do not know."""
    return _SCHEMA in definition and not is_object_schema(definition[_SCHEMA])


def without_later_structure(definition: Json, result: Json) -> Json:
    """The result of a call of that tool with structured content only as an object; the same where it is, or none."""
    if _STRUCTURED not in result:
        return result
    structured = result[_STRUCTURED]
    if isinstance(structured, dict) and not hides_structure(definition):
        return result
    kept = {member: value for member, value in result.items() if member != _STRUCTURED}
    if not kept.get("content") and structured is not None:
        kept["content"] = [{"type": "text", "text": orjson.dumps(structured).decode()}]
    return kept
