"""What a server says of itself: name, title, version, website, icons, instructions, capabilities and extensions.

Read from its handshake by links; between nodes it travels as one more entry of the list of resources at `/mcp/local`
(`about_entry`), with an origin like every other, so that it has the same owner, way and time as the server's tools.
The one rule: what is taken is bounded and has the protocol's shapes, for a server may write anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from agent.lossless_json.exact import as_plain, is_deeper_than
from agent.model import ORIGIN_META_KEY, Json
from agent.routing.once import once

# In the entry's `_meta`: the server's word, as `about_of` gives it.
ABOUT_META_KEY: Final = "mesh-agent/about"
# The own name of such an entry; in a list the server's namespace stands in it like in any URI.
ABOUT_URI: Final = "mesh-server:about"

_AWAY: Final = "away"

# Texts beyond these are cut; instructions of well-known servers have 2,000 to 8,000 characters.
TEXT_LEN_MAX: Final = 512
INSTRUCTIONS_LEN_MAX: Final = 16_384
# Icons may be data URIs. What is larger, as JSON, is left out: it is in every list that nodes read of each other.
ICONS_BYTES_MAX: Final = 32_768
EXTENSIONS_BYTES_MAX: Final = 8_192
# Of icons and of the settings of one extension; they stand some levels deep in the entry, which has 64 of them.
NESTING_MAX: Final = 32
# Of tags: words by which an operator sorts servers.
TAGS_MAX: Final = 32
TAG_LEN_MAX: Final = 64

_TEXTS: Final = ("name", "title", "version", "description", "websiteUrl")
# Among the capabilities that a server has, in the order in which they are said: it sends updates of resources.
SUBSCRIBE: Final = "resources.subscribe"
_CAPABILITIES: Final = ("tools", "prompts", "resources", "completions", "logging")
_FEATURES: Final = (*_CAPABILITIES, SUBSCRIBE)


def about_of(info: Mapping[str, Any], instructions: str | None, capabilities: Mapping[str, Any]) -> Json:
    """A server's word of itself, from the `serverInfo`, instructions and capabilities of its handshake."""
    told = {**info, "instructions": instructions, "extensions": capabilities.get("extensions")}
    features = [name for name in _CAPABILITIES if name in capabilities]
    resources = capabilities.get("resources")
    if isinstance(resources, dict) and resources.get("subscribe") is True:
        features.append(SUBSCRIBE)
    # Tags are the word of the operator of its node.
    return read_about({**told, "features": features, "tags": None})


def read_about(told: object) -> Json:
    """What of `told` is such a word; empty where nothing is.

    Members: those of `serverInfo`, `instructions`, `extensions` (an object by name) and `features` (the names of the
    capabilities that it has, and SUBSCRIBE), and `tags`, which its node's configuration gives it.
    """
    if not isinstance(told, dict):
        return {}
    told = {member: value for member, said in told.items() if (value := _readable(said, member)) is not None}
    about: Json = {}
    for member in _TEXTS:
        if isinstance(text := told.get(member), str) and text:
            about[member] = text[:TEXT_LEN_MAX]
    if not about.get("websiteUrl", "https:").startswith(("https:", "http:")):
        del about["websiteUrl"]
    if isinstance(text := told.get("instructions"), str) and text.strip():
        about["instructions"] = text if len(text) <= INSTRUCTIONS_LEN_MAX else f"{text[:INSTRUCTIONS_LEN_MAX]}…"
    icons = told.get("icons")
    if isinstance(icons, list):
        icons = [icon for icon in icons if isinstance(icon, dict) and isinstance(icon.get("src"), str)]
        about |= {"icons": icons} if icons and _fits(icons, ICONS_BYTES_MAX) else {}
    extensions = told.get("extensions")
    if isinstance(extensions, dict):
        extensions = {name: value for name, value in extensions.items() if isinstance(value, dict)}
        about |= {"extensions": extensions} if extensions and _fits(extensions, EXTENSIONS_BYTES_MAX) else {}
    features = told.get("features")
    if isinstance(features, list):
        about["features"] = [name for name in _FEATURES if name in features]
    tags = told.get("tags")
    if isinstance(tags, list):
        tags = [tag for tag in tags if isinstance(tag, str) and 0 < len(tag) <= TAG_LEN_MAX][:TAGS_MAX]
        about |= {"tags": tags} if tags else {}
    return once(about)


def about_entry(label: str, about: Json) -> Json:
    """An entry as a backend's own list of resources would have it."""
    return {"uri": ABOUT_URI, "name": label, "_meta": {ABOUT_META_KEY: about}}


def away_entry(uri: str, label: str, origin: Json, tags: Sequence[str]) -> Json:
    """What a node lists for others of a server of its own that is away; `uri`: in the server's namespace."""
    about: Json = {_AWAY: True, **({"tags": list(tags)} if tags else {})}
    return {"uri": uri, "name": label, "_meta": {ABOUT_META_KEY: about, ORIGIN_META_KEY: origin}}


def says_away(entry: Json) -> bool:
    """Whether such a word of another node says that the server is away, and nothing else."""
    told = entry["_meta"][ABOUT_META_KEY]
    return isinstance(told, dict) and told.get(_AWAY) is True


def is_about(entry: object) -> bool:
    """Whether an entry of another node's list of resources is such a word."""
    meta = entry.get("_meta") if isinstance(entry, dict) else None
    return isinstance(meta, dict) and ABOUT_META_KEY in meta and ORIGIN_META_KEY in meta


def about_in(definition: Json) -> Json:
    """The word in the definition of a route of kind SERVER."""
    told: Json = definition.get("_meta", {}).get(ABOUT_META_KEY, {})
    return told


def _readable(said: Any, member: str) -> Any:
    """What a server said under a name, as every reader can have it; None for what none could. Extensions one by one."""
    if member == "extensions" and isinstance(said, dict):
        return {name: value for name, one in said.items() if (value := _readable(one, "")) is not None}
    if said is None or (isinstance(said, str) and said.isascii()):
        return said
    try:
        return None if is_deeper_than(said, NESTING_MAX) else as_plain(said)
    except ValueError:
        return None


def _fits(value: object, bytes_max: int) -> bool:
    return len(orjson.dumps(value)) <= bytes_max
