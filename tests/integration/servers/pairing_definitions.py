"""What the server of the pairings offers, as it stands on the wire: every member that a definition may have, and more.

Served by `pairing_server`, compared by the tests of pairings. The one rule: each list has a definition with members
that no version of MCP knows, and numbers whose spelling a reader could change.
"""

from typing import Final

from agent.model import Json

ICONS: Final = [{"src": "https://example.org/i.png", "mimeType": "image/png", "sizes": ["48x48"], "x-theme": "dark"}]
SCHEMA: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"Word": {"type": "string", "pattern": "^[\\w\u00e9]*$"}},
    "properties": {
        "z": {"$ref": "#/$defs/Word", "x-order": {"z": 1, "a": 2.0}},
        "a": {"type": "number", "default": 1.0, "maximum": 1e5, "enum": [1.0, 2, -0.5]},
    },
    "additionalProperties": True,
    "x-future": [None, {"deep": {}}],
}
# Whatever else a definition may say.
MORE: Final[Json] = {
    "icons": ICONS,
    "_meta": {"example.org/kept": {"n": 1.0}, "x": None},
    "x-future": {"z": 1, "a": [1.0]},
}

TOOLS: Final[list[Json]] = [
    {
        "name": "echo",
        "title": "Echo",
        "description": "Tells what came.\n\u00e9",
        "inputSchema": SCHEMA,
        "outputSchema": {"type": "object", "x-out": 1.0, "properties": {"seen": {"type": "object"}}},
        "annotations": {"readOnlyHint": True, "title": "E", "x-hint": [1.0]},
        "execution": {"taskSupport": "optional"},
        **MORE,
    },
    *(
        {"name": name, "inputSchema": {"type": "object"}}
        for name in ("fail", "broken", "link", "meet", "talk", "hang", "when", "release", "grow", "touch", "ask")
    ),
    {"name": "chore", "inputSchema": {"type": "object"}, "execution": {"taskSupport": "required"}},
]
PROMPTS: Final[list[Json]] = [
    {
        "name": "greet",
        "title": "Greet",
        "description": "A greeting.",
        "arguments": [{"name": "who", "title": "Who", "description": "?", "required": True, "x-kind": 1.0}],
        **MORE,
    },
    *({"name": name, "arguments": [{"name": "room"}]} for name in ("meet", "talk", "hang", "ask")),
]
RESOURCES: Final[list[Json]] = [
    {
        "uri": "pair://page/one",
        "name": "one",
        "title": "One",
        "description": "A page.",
        "mimeType": "text/plain",
        "size": 3,
        "annotations": {"audience": ["user"], "priority": 1.0, "lastModified": "2026-01-01T00:00:00Z", "x-rank": 2},
        **MORE,
    },
    {"uri": "pair://page/refused", "name": "refused"},
]
TEMPLATES: Final[list[Json]] = [
    {
        "uriTemplate": "pair://item/{name}",
        "name": "item",
        "title": "Item",
        "description": "Any item.",
        "mimeType": "text/plain",
        "annotations": {"priority": 0.0},
        **MORE,
    },
    {"uriTemplate": "pair://act/{what}/{room}", "name": "act"},
]

# What a result may say; nothing of it is the node's to change.
RESULT: Final[Json] = {
    "content": [
        {
            "type": "text",
            "text": "seen",
            "annotations": {"audience": ["assistant"], "priority": 1.0, "x": 1},
            "_meta": {"example.org/block": 1.0},
            "x-future": [1.0],
        },
        {"type": "image", "data": "AA==", "mimeType": "image/png", "x-alt": "nothing"},
        {"type": "x-unknown", "payload": {"z": 1, "a": 2}},
    ],
    "_meta": {"example.org/result": {"n": 1.0}},
    "x-future": {"z": 1, "a": [1.0, None]},
}
# A result that names resources, in every place where one may.
LINKS: Final[Json] = {
    "content": [
        {"type": "resource_link", "uri": "pair://page/one", "name": "pair://page/one", "x-future": 1.0},
        {"type": "resource", "resource": {"uri": "pair://item/two", "text": "pair://item/two"}},
        {"type": "resource_link", "uri": "https://example.org/", "name": "elsewhere"},
        {"type": "text", "text": "pair://page/one"},
    ],
    "structuredContent": {"uri": "pair://page/one", "n": 1.0},
}
ERROR: Final[Json] = {"code": -32077, "message": "not today", "data": {"z": [1.5, None], "a": {"n": 1.0}}}

REFUSED_URI: Final = "pair://page/refused"
READABLE: Final = ("pair://page/one", "pair://item/two")
LEVELS: Final = ("debug", "info", "warning", "error")
WORD: Final[Json] = {"type": "object", "properties": {"word": {"type": "string", "x": 1.0}}, "required": ["word"]}
# Everything that a client can be asked, in words that both eras have.
QUESTIONS: Final[Json] = {
    "form": {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": WORD}},
    "url": {
        "method": "elicitation/create",
        "params": {"mode": "url", "message": "Sign", "url": "https://example.org/sign", "elicitationId": "e-1"},
    },
    "sampling": {
        "method": "sampling/createMessage",
        "params": {
            "messages": [{"role": "user", "content": {"type": "text", "text": "A greeting?"}}],
            "maxTokens": 10,
            "systemPrompt": "Be kind.",
        },
    },
    "roots": {"method": "roots/list", "params": {}},
}
# One that names resources in the messages for a model.
LINKED_QUESTION: Final[Json] = {
    "method": "sampling/createMessage",
    "params": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "toolUseId": "use-1",
                        "content": [
                            {"type": "resource", "resource": {"uri": "pair://item/two", "text": "pair://item/two"}},
                            {"type": "resource_link", "uri": "pair://page/one", "name": "one"},
                        ],
                    }
                ],
            }
        ],
        "maxTokens": 10,
    },
}
