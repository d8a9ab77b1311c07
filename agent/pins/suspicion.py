"""PURE: what in a definition may be meant to steer the model that reads it, rather than to describe a tool.

Called by `agent.control.pinning` for what is new or changed. These are hints for an operator: an attacker can word a
text so that none of them fits, and an honest author may hit one. The one rule: a suspicion is shown and logged, and
takes nothing away.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from agent.model import Json
from agent.pins.definition import PINNED
from agent.routing.table import RouteKind

# Marks without a shape that no script and no emoji needs: zero-width space and joiners of words, invisible operators,
# overrides of direction, and the tags, with which a whole sentence can be written unseen. Tags after a black flag are
# the flags of England, Scotland and Wales.
_HIDDEN: Final = re.compile("[\u200b\u2060-\u2064\u206a-\u206f\u202a-\u202e\ufeff]|[\U000e0001-\U000e007f]+")
_FLAG: Final = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")
# In a pattern: the words up to the next one that counts, within a sentence.
_GAP: Final = r"\b[^.\n]{0,40}\b"
_RULES: Final = tuple(
    (about, re.compile(_GAP.join(parts), re.IGNORECASE))
    for about, *parts in (
        (
            "an order to ignore other instructions",
            r"\b(?:ignore|disregard|forget|override)",
            r"(?:instructions?|rules?|prompts?)\b",
        ),
        (
            "an order to keep something from the user",
            r"\b(?:do not|don't|never)",
            r"(?:tell|mention|inform|show|reveal|notify)",
            r"user\b",
        ),
        (
            "an order about other tools",
            r"\b(?:before|instead of|when|whenever)",
            r"(?:use|using|call|calling)",
            r"(?:any|other|every|all)",
            r"tools?\b",
        ),
        (
            "a mark of the system's own voice",
            r"<\s*/?\s*(?:important|system|instructions?|secret|hidden)\s*>|\[(?:system|inst)\]|\bsystem prompt\b",
        ),
        (
            "a file of secrets",
            r"(?:~|\$home|/home/\w+|/root)/\.(?:ssh|aws|gnupg|netrc|kube)\b|\bid_(?:rsa|ed25519)\b|/etc/shadow\b",
        ),
    )
)
# A shorter name, or one of letters alone, is a word that any text may have; a longer one is no name that clients take.
_TELLING_LEN_MIN: Final = 6
_TELLING_LEN_MAX: Final = 128
_TELLING: Final = re.compile(r"[a-zA-Z][\w-]*(?:[_-]|[a-z][A-Z])[\w-]*")
_WORD: Final = re.compile(r"[A-Za-z][\w-]*")
_TEXT_CHARS_MAX: Final = 100_000
# A search holds up all threads until it ends, 30 ms for so much of the worst text. What a rule finds is shorter than
# what two pieces have in common.
_PIECE_CHARS: Final = 20_000
_COMMON_CHARS: Final = 400
# More than a few say nothing new.
NAMED_MAX: Final = 3


def telling_names(names: Iterable[str]) -> frozenset[str]:
    """Those of these names of tools that no text has by chance."""
    short = (name for name in names if _TELLING_LEN_MIN <= len(name) <= _TELLING_LEN_MAX)
    return frozenset(name for name in short if _TELLING.fullmatch(name) is not None)


def suspicions(kind: RouteKind, definition: Json, names_elsewhere: frozenset[str]) -> list[str]:
    """What an operator should look at, a phrase each; empty for nothing.

    `names_elsewhere`: the tools of other servers, by their own names, as far as `telling_names` has them.
    """
    texts = "\n".join(text for name in PINNED[kind] if name != "name" for text in _texts(definition.get(name)))
    texts = texts[:_TEXT_CHARS_MAX]
    found = []
    if _HIDDEN.search(_FLAG.sub("", texts)) is not None:
        found.append("hidden characters")
    places = range(0, max(1, len(texts) - _COMMON_CHARS), _PIECE_CHARS)
    pieces = [texts[place : place + _PIECE_CHARS + _COMMON_CHARS] for place in places]
    found += [about for about, rule in _RULES if any(rule.search(piece) is not None for piece in pieces)]
    words = set(_WORD.findall(texts))
    named = sorted(words & names_elsewhere)
    own = definition.get("name")
    found += [f"the name of another server's tool, {name}" for name in named if name != own][:NAMED_MAX]
    return found


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, names of members too."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case dict() as members:
                waiting += [*members.values(), *members.keys()]
            case list() as items:
                waiting += items
