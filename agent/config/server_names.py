"""PURE: what a server is called here when its name in the file could not be part of a tool's name.

Called by `servers_file` and `import_plan`. The one rule: a name that can be used is used, whatever stands before it in
the file, and no two names become one.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping

from agent.config.values import name_fault

NAME_CHARS_MAX = 63
_DIGEST_CHARS = 6  # Among the at most 256 names of a file; a name that is taken even so gets a number as well.
_ILLEGAL_RUN = re.compile(r"[^A-Za-z0-9._-]+|_{2,}")


def safe_names(names: Iterable[str], taken: Iterable[str] = ()) -> Mapping[str, str]:
    """Map each name to one that `name_fault` accepts and that nothing in `taken` has; the same for the same file.

    The first of two names that would become one gets the readable form, the other one a digest of its name with it.
    """
    ordered = list(dict.fromkeys(names))
    used = set(taken)
    free = [name for name in ordered if not name_fault(name) and name not in used]
    used.update(free)
    safe = {name: name for name in free}
    for name in ordered:
        if name not in safe:
            safe[name] = _free_name(name, used)
            used.add(safe[name])
    return safe


def _free_name(name: str, used: set[str]) -> str:
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    readable = _ILLEGAL_RUN.sub("-", ascii_only).strip("._-")[:NAME_CHARS_MAX].rstrip("._-")
    if readable and readable not in used:
        return readable
    tail = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    stem = (readable or "server")[: NAME_CHARS_MAX - _DIGEST_CHARS - 4]
    numbered = (f"{stem}-{tail}{number or ''}" for number in range(len(used) + 1))
    return next(candidate for candidate in numbered if candidate not in used)
