"""What MCP Apps (extension io.modelcontextprotocol/ui, SEP-1865) mean for clients in search mode, which see no list.

Read by `agent.server.search` and the servers of both eras. The one rule: what is for pages alone is neither shown to a
model nor called by it, and a result names the page that the host would know from a list.
"""

from typing import Final

from agent.lossless_json.raw import exact
from agent.model import Json
from agent.routing.table import Route

UI: Final = "ui"
PAGE: Final = "resourceUri"
# The form of before, which some servers write alone.
FLAT_PAGE: Final = "ui/resourceUri"


def is_for_models(definition: Json) -> bool:
    """Whether a model may see and call a tool; without a word about it, it may."""
    visibility = _ui(definition).get("visibility")
    return not isinstance(visibility, list) or "model" in visibility


def page_of(definition: Json) -> str | None:
    """The URI of a tool's page, as clients know it."""
    page = _ui(definition).get(PAGE)
    if isinstance(page, str):
        return page
    meta = definition.get("_meta")
    flat = meta.get(FLAT_PAGE) if isinstance(meta, dict) else None
    return flat if isinstance(flat, str) else None


def with_page(route: Route, result: Json) -> Json:
    """The result of a call that names the tool's page, unless it names one itself; the same where there is none."""
    page = page_of(route.definition)
    if page is None or page_of(result) is not None:
        return result
    result = exact(result)
    meta = result.get("_meta")
    return {**result, "_meta": {**(meta if isinstance(meta, dict) else {}), UI: {**_ui(result), PAGE: page}}}


def _ui(named: Json) -> Json:
    meta = named.get("_meta")
    ui = meta.get(UI) if isinstance(meta, dict) else None
    return ui if isinstance(ui, dict) else {}
