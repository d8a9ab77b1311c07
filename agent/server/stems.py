"""English words without their endings, by the rules of M. F. Porter, "An algorithm for suffix stripping" (1980).

Read by `agent.server.tool_index` for the words of tools and of queries alike, so that `forecasts` finds `forecast`. The
one rule: a word of other letters than a to z stays as it is.

The shape of a word has a `c` for each consonant and a `v` for each vowel. Its measure, the number of `vc` in it, says
how much of a word would be left without an ending.
"""

from collections.abc import Mapping
from typing import Final

# A shorter word has no ending to lose, a longer one is none that people write.
_LEN_MIN: Final = 3
_LEN_MAX: Final = 40
# Steps 2 and 3: endings that become shorter ones where something is left before them. Of two that fit, the longer one.
_SECOND: Final = {
    "ational": "ate",
    "ization": "ize",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "tional": "tion",
    "biliti": "ble",
    "entli": "ent",
    "ousli": "ous",
    "ation": "ate",
    "alism": "al",
    "aliti": "al",
    "iviti": "ive",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "abli": "able",
    "alli": "al",
    "ator": "ate",
    "eli": "e",
}
_THIRD: Final = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ness": "", "ful": ""}
# Step 4: endings that go where more is left.
_FOURTH: Final = {
    "ement": "",
    "ance": "",
    "ence": "",
    "able": "",
    "ible": "",
    "ment": "",
    "ant": "",
    "ent": "",
    "ion": "",
    "ism": "",
    "ate": "",
    "iti": "",
    "ous": "",
    "ive": "",
    "ize": "",
    "al": "",
    "er": "",
    "ic": "",
    "ou": "",
}


def stem(word: str) -> str:
    """The stem of a word in small letters; it need not be a word itself."""
    if not (_LEN_MIN <= len(word) <= _LEN_MAX and word.isascii() and word.isalpha()):
        return word
    word = _without_participle(_without_plural(word))
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    for endings, beyond in ((_SECOND, 0), (_THIRD, 0), (_FOURTH, 1)):
        word = _shortened(word, endings, beyond)
    return _without_last_letters(word)


def _shape(word: str) -> str:
    shape, before = "", "v"  # A y at the beginning is a consonant, one after a consonant is a vowel.
    for letter in word:
        before = "v" if letter in "aeiou" or (letter == "y" and before == "c") else "c"
        shape += before
    return shape


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _ends_short(word: str) -> bool:
    """Whether it ends like `hop`: such a word has lost an e when it has an ending."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"


def _without_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _without_participle(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    ending = next((ending for ending in ("ed", "ing") if word.endswith(ending)), None)
    if ending is None or "v" not in _shape(rest := word.removesuffix(ending)):
        return word
    if rest.endswith(("at", "bl", "iz")) or (_measure(rest) == 1 and _ends_short(rest)):
        return rest + "e"
    is_double = rest[-2:-1] == rest[-1] and _shape(rest)[-1] == "c" and rest[-1] not in "lsz"
    return rest[:-1] if is_double else rest


def _shortened(word: str, endings: Mapping[str, str], beyond: int) -> str:
    """The word with its ending in place of the longest that it has, where a measure `beyond` that is left."""
    for ending, shorter in endings.items():
        if word.endswith(ending):
            rest = word.removesuffix(ending)
            fits = _measure(rest) > beyond and (ending != "ion" or rest.endswith(("s", "t")))
            return rest + shorter if fits else word
    return word


def _without_last_letters(word: str) -> str:
    if word.endswith("e"):
        rest = word[:-1]
        measure = _measure(rest)
        word = rest if measure > 1 or (measure == 1 and not _ends_short(rest)) else word
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word
