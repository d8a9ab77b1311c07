"""A full-text index over tools, to which single tools are added and from which they are taken.

Read and kept up to date by `agent.server.search`, in slices of the event loop's time: a thread would hold calls up for
as long as it has the interpreter, 5 ms at each turn. The one rule: what one step takes has a limit, for adding a tool
and for each step of a search, whatever servers write and clients ask for.

A word's postings are the tools that have it, each with its weight there (BM25 with weighted fields). The rare words of
a query choose among tools, the ones that many tools have only order these once enough postings have been read.
"""

import heapq
import math
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from operator import itemgetter
from typing import Final

from agent.model import Json
from agent.routing.origins import listed_origin
from agent.server.stems import stem

# Only the first words of a query count; a pasted document is not a query.
QUERY_CHARS_MAX: Final = 4_000
WORDS_MAX: Final = 32
# The text of one field of a tool; a longer description is cut.
TEXT_CHARS_MAX: Final = 8_000
# Different words of one tool that are indexed, those of its name first: what a server that lists noise may cost.
TOOL_WORDS_MAX: Final = 1_000
# The last word of a query may be the beginning of so many words, those with the fewest further letters.
COMPLETIONS_MAX: Final = 50
# Words that are looked at for those.
COMPLETIONS_SEEN_MAX: Final = 20_000
# Postings that a search reads before words only order what it has found: all those of three words that each of 10,000
# tools has. So many at most of one word.
POSTINGS_MAX: Final = 30_000
# As many of them are one step, of a millisecond.
STEP_POSTINGS: Final = 5_000
# Of what was found then, the best so many are ordered.
ORDERED_MAX: Final = 256
# A word in the name counts more than one in the description, and that more than one in a parameter.
_NAME, _TITLE, _DESCRIPTION, _PARAMETER = 8.0, 4.0, 2.0, 1.0
# BM25's own: how soon further occurrences count no more, and how much a long text is held against its words. The text
# of an ordinary tool stands for the average, which would change with each tool.
_SATURATION: Final = 1.2
_LENGTH_SHARE: Final = 0.75
_ORDINARY_WORDS: Final = 40
_WORD: Final = re.compile(r"[^\W_]+")
# `getForecast` and `HTTPServer` are two words each.
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class _Postings:
    """The tools that have one word, by rising number, and the weight of the word in each."""

    __slots__ = ("tools", "weights")

    def __init__(self) -> None:
        self.tools = array("I")
        self.weights = array("f")


class ToolIndex:
    """An index over tools as they are listed, by name. Its one writer is `ToolSearch`."""

    def __init__(self, tools: Iterable[Json] = ()) -> None:
        # A tool has a number; one that was removed leaves its number behind, with postings that searches pass over.
        self._names: list[str] = []
        self._tools: dict[str, Json] = {}
        self._numbers: dict[str, int] = {}
        self._removed: set[int] = set()
        self._postings: dict[str, _Postings] = {}
        self._stems: dict[str, str] = {}
        # By their first two letters.
        self._words: dict[str, list[str]] = {}
        for tool in tools:
            self.put(tool)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def is_worn(self) -> bool:
        """Whether most of it is about tools that are gone, and a new one would be better."""
        return len(self._removed) > max(ORDERED_MAX, len(self._numbers))

    def put(self, tool: Json) -> None:
        """Add a tool, or replace the one of its name."""
        name = _text(tool.get("name"))
        self.remove(name)
        number = self._numbers[name] = len(self._names)
        self._names.append(name)
        self._tools[name] = tool
        counted, length = self._counted(tool)
        held_against = _SATURATION * (1 - _LENGTH_SHARE + _LENGTH_SHARE * length / _ORDINARY_WORDS)
        for word, count in counted.items():
            postings = self._postings.get(word)
            if postings is None:
                postings = self._postings[word] = _Postings()
            postings.tools.append(number)
            postings.weights.append(count / (count + held_against))

    def remove(self, name: str) -> None:
        """Forget a tool; an unknown one is no error."""
        if (number := self._numbers.pop(name, None)) is not None:
            self._removed.add(number)
            self._names[number] = ""
            del self._tools[name]

    def tool(self, name: str) -> Json:
        """The definition of a tool that is indexed."""
        return self._tools[name]

    def search(self, query: str, limit: int) -> list[str]:
        """Names of the tools that have any of the query's words, best first; every tool by name for an empty query."""
        search = self.steps(query, limit)
        while True:
            try:
                next(search)
            except StopIteration as end:
                names: list[str] = end.value
                return names

    def steps(self, query: str, limit: int) -> Generator[None, None, list[str]]:
        """The same with a pause after each step; the index must stay as it is until the last one."""
        words = _words(_parted(query[:QUERY_CHARS_MAX]))[:WORDS_MAX]
        if not words:
            return heapq.nsmallest(limit, self._numbers)
        scores: dict[int, float] = {}
        left, ordering = POSTINGS_MAX, []
        for value, postings in self._valued(words):
            if len(postings.tools) > left and len(scores) >= limit:
                ordering.append((value, postings))
                continue
            left -= len(postings.tools)
            for start in range(0, min(len(postings.tools), POSTINGS_MAX), STEP_POSTINGS):
                _add(scores, value, postings, start)
                yield
        for number in self._removed & scores.keys():
            del scores[number]
        yield
        if ordering:
            scores = dict(heapq.nlargest(max(ORDERED_MAX, limit), scores.items(), key=itemgetter(1)))
            for value, postings in ordering:
                _order(scores, value, postings)
                yield
        yield
        return self._best(scores, limit)

    def _counted(self, tool: Json) -> tuple[dict[str, float], int]:
        """How much each word counts in a tool, by its stem, and how many words there are."""
        counted: dict[str, float] = {}
        length = 0
        stems = self._stems
        for weight, text in _fields(tool):
            words = _words(text)
            length += len(words)
            for word in words:
                known = stems.get(word)
                if known is None:
                    if len(counted) >= TOOL_WORDS_MAX:
                        continue
                    known = self._learned(word)
                if known in counted:
                    counted[known] += weight
                elif len(counted) < TOOL_WORDS_MAX:
                    counted[known] = weight
        return counted, length

    def _learned(self, word: str) -> str:
        self._words.setdefault(word[:2], []).append(word)
        found = self._stems[word] = stem(word)
        return found

    def _valued(self, words: list[str]) -> list[tuple[float, _Postings]]:
        """The postings of a query's words, the rarest first, each with what a tool gains by having the word."""
        exact = dict.fromkeys(self._stems.get(word) or stem(word) for word in words)
        groups = [[self._postings[word]] for word in exact if word in self._postings]
        begun = dict.fromkeys(self._stems[word] for word in self._completions(words[-1]))
        groups.append([self._postings[word] for word in begun if word not in exact and word in self._postings])
        total = len(self._names)
        valued = []
        for group in groups:
            found = min(total, sum(len(postings.tools) for postings in group))
            value = math.log(1 + (total - found + 0.5) / (found + 0.5))
            valued += [(value, postings) for postings in group]
        return sorted(valued, key=lambda valued: len(valued[1].tools))

    def _completions(self, beginning: str) -> list[str]:
        """Words of the index that begin so, those with the fewest further letters first."""
        if len(beginning) > 1:
            lists = [self._words.get(beginning[:2], [])]
        else:
            lists = [words for letters, words in self._words.items() if letters.startswith(beginning)]
        found: list[str] = []
        left = COMPLETIONS_SEEN_MAX
        for words in lists:
            found += [word for word in words[:left] if word.startswith(beginning)]
            left -= min(left, len(words))
        return heapq.nsmallest(COMPLETIONS_MAX, found, key=lambda word: (len(word), word))

    def _best(self, scores: dict[int, float], limit: int) -> list[str]:
        """The names of the best; of equal ones, the first by name."""
        if not scores:
            return []
        last = heapq.nlargest(limit, scores.values())[-1]
        better = [(-score, self._names[number]) for number, score in scores.items() if score > last]
        equal = (self._names[number] for number, score in scores.items() if score == last)
        names = [name for _, name in sorted(better)]
        return names + heapq.nsmallest(limit - len(names), equal)


def _add(scores: dict[int, float], value: float, postings: _Postings, start: int) -> None:
    """Count a word for the tools that have it, one step of them."""
    step = slice(start, min(start + STEP_POSTINGS, POSTINGS_MAX))
    found = zip(postings.tools[step], postings.weights[step], strict=True)
    if not scores:
        scores.update({number: weight * value for number, weight in found})
        return
    known = scores.get
    for number, weight in found:
        scores[number] = known(number, 0.0) + weight * value


def _order(scores: dict[int, float], value: float, postings: _Postings) -> None:
    """Count a word for those tools alone that were found already."""
    tools = postings.tools
    for number in scores:
        place = bisect_left(tools, number)
        if place < len(tools) and tools[place] == number:
            scores[number] += postings.weights[place] * value


def _fields(tool: Json) -> Iterator[tuple[float, str]]:
    """The texts of a tool, with what a word in each counts, and the longest-lived of its words first."""
    name = _text(tool.get("name"))
    # A public name may be cut, or lack non-Latin letters; the server's own name is complete.
    own = _text(listed_origin(tool).get("tool"))
    yield _NAME, _parted(name if own in name else f"{name} {own}")[:TEXT_CHARS_MAX]
    yield _TITLE, _text(tool.get("title"))[:TEXT_CHARS_MAX]
    yield _DESCRIPTION, _text(tool.get("description"))[:TEXT_CHARS_MAX]
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if isinstance(properties, dict):
        left = TEXT_CHARS_MAX
        for parameter, described in properties.items():
            text = _text(described.get("description")) if isinstance(described, dict) else ""
            yield _PARAMETER, f"{_parted(parameter[:left])} {text}"[:left]
            left -= len(parameter) + len(text) + 1
            if left <= 0:
                return


def _parted(name: str) -> str:
    """A name with its words apart; underscores and dashes part words anyway."""
    return _CAMEL.sub(" ", name) if not name.islower() else name


def _words(text: str) -> list[str]:
    """The words of a text, in small letters and without accents."""
    small = text.lower()
    if not small.isascii():
        letters = unicodedata.normalize("NFKD", small)[:TEXT_CHARS_MAX]
        small = "".join(letter for letter in letters if unicodedata.category(letter)[0] != "M")
    return _WORD.findall(small)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
