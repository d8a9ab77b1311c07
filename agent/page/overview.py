"""The document of the mesh's MCP App, `ui://mesh/overview`: its own files and the page's picture, joined into one.

Made by the wiring, for `agent.server.management`. The one rule: the document loads nothing, since a host shows it in a
sandbox without a network.
"""

import re
from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent
# In the order of what they use. Each has its own names at the top, and no two the same.
_SCRIPTS: Final = ("files/elements.js", "files/picture.js", "app_files/overview.js")
_PLACE: Final = "/* scripts */"
# Joined, they import nothing from each other.
_BETWEEN_FILES: Final = re.compile(r"^import .*\n|^export (?=function|const|let)", re.MULTILINE)


@cache
def document() -> str:
    """The whole page, as HTML."""
    scripts = [_BETWEEN_FILES.sub("", (_FOLDER / name).read_text("utf-8")) for name in _SCRIPTS]
    return (_FOLDER / "app_files" / "overview.html").read_text("utf-8").replace(_PLACE, "\n".join(scripts))
