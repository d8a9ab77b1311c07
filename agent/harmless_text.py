"""Text that another machine wrote, made harmless for a log, a terminal or an error message.

Used wherever such a text is shown. Pure, and imports nothing else, so that a quick command pays for nothing else. The
one rule: what comes back moves no cursor, hides nothing and forges no line.
"""

import re

# Whole escape sequences go first, so that their printable tail ("[31m") does not stay behind: operating system
# commands end in BEL or ST, control sequences in one final byte, all others are two or three characters long.
_ESCAPES = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?")
# Line ends and tabs become one blank: a forged second line is how log injection works.
_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
# C0 and C1 controls; bidirectional marks, embeddings, overrides and isolates; zero-width and other invisible format
# characters, the tag block among them, with which text hides from the reader but not from a model; lone surrogates,
# which no encoder accepts.
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_CLIPPED = "…"


def one_line(text: str, chars_max: int = 2000) -> str:
    """Return `text` as one harmless line of at most `chars_max` characters; a cut one ends in an ellipsis."""
    # Cut before the expressions run as well, so that a huge name costs no more than a long one.
    shown = text[: chars_max * 4]
    shown = _HIDDEN.sub("", _BREAKS.sub(" ", _ESCAPES.sub("", shown))).strip()
    if len(shown) > chars_max or len(text) > chars_max * 4:
        return shown[: chars_max - 1] + _CLIPPED
    return shown


def many_lines(text: str, chars_max: int = 100_000) -> str:
    """Return `text` with its line ends kept as they are and each line made harmless; for results and tracebacks."""
    shown = "\n".join(_clean_row(row) for row in text[:chars_max].splitlines())
    return shown if len(text) <= chars_max else shown + _CLIPPED


def _clean_row(row: str) -> str:
    return _HIDDEN.sub("", _ESCAPES.sub("", row).replace("\t", "    "))
