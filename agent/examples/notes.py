"""An example MCP server that keeps notes while it runs: `python -m agent.examples.notes`.

The example with state, resources, a resource template and a prompt. The one rule: notes live in this process alone, so
its scope in a mesh is `node`.
"""

from typing import Any
from urllib.parse import quote, unquote

from agent.examples.stdio import Refused, Server, Tool, schema_of, serve

NOTES_MAX = 1000
TEXT_CHARS_MAX = 10_000
INDEX_URI = "notes://all"
_PREFIX = "notes://note/"

_notes: dict[str, str] = {}


def add_note(title: str, text: str) -> dict[str, Any]:
    """Keep a note; one of the same title is replaced."""
    if not title or len(title) > 100 or len(text) > TEXT_CHARS_MAX:  # noqa: PLR2004 - the message says it
        raise Refused(f"a title has 1 to 100 characters, a text at most {TEXT_CHARS_MAX}")
    if title not in _notes and len(_notes) >= NOTES_MAX:
        raise Refused(f"there are {NOTES_MAX} notes already")
    _notes[title] = text
    return {"title": title, "notes": len(_notes)}


def list_notes() -> dict[str, Any]:
    """List the titles."""
    return {"titles": sorted(_notes)}


def read_note(title: str) -> dict[str, Any]:
    """Read one note."""
    if title not in _notes:
        raise Refused(f"there is no note {title!r}")
    return {"title": title, "text": _notes[title], "uri": _PREFIX + quote(title, safe="")}


def read_resource(uri: str) -> str:
    """Read the index or one note as a resource. Raises KeyError."""
    if uri == INDEX_URI:
        return "\n".join(sorted(_notes))
    if not uri.startswith(_PREFIX):
        raise KeyError(uri)
    return _notes[unquote(uri.removeprefix(_PREFIX))]


def summarise(topic: str = "everything") -> str:
    """Write the prompt."""
    listed = "\n".join(f"- {title}: {text}" for title, text in sorted(_notes.items())) or "(none yet)"
    return f"Summarise what these notes say about {topic}:\n{listed}"


SERVER = Server(
    name="notes",
    tools={
        "add": Tool(add_note, schema_of({"title": str, "text": str}), "Keep a note.", read_only=False),
        "list": Tool(list_notes, schema_of({}), "List the titles of all notes."),
        "read": Tool(read_note, schema_of({"title": str}), "Read one note."),
    },
    resources=[{"uri": INDEX_URI, "name": "all", "description": "The titles of all notes", "mimeType": "text/plain"}],
    templates=[{"uriTemplate": _PREFIX + "{title}", "name": "note", "description": "One note by its title"}],
    prompts={
        "summarise": (
            {"description": "Ask for a summary of the notes", "arguments": [{"name": "topic", "required": False}]},
            summarise,
        )
    },
    read=read_resource,
)

if __name__ == "__main__":
    serve(SERVER)
