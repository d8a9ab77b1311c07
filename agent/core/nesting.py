"""How deep a JSON value is nested, found without recursion: what is to be judged may be made to exhaust a stack.

Called where definitions are imported and where answers are passed on. The one rule: the time it takes grows with the
containers of the value, and never with the length of its texts.
"""

from typing import Any


def is_deeper_than(value: Any, levels_max: int) -> bool:
    """Whether more than `levels_max` objects and arrays lie inside each other; a text or a number has no level."""
    layer = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels_max):
        if not layer:
            return False
        layer = [
            child
            for parent in layer
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
    return bool(layer)
