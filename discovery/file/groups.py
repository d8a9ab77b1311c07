"""Prometheus' `file_sd` document as instances: groups of targets, with labels. PURE.

Called by `discovery.file.source` with what a file holds. The one rule: a document that is wrong anywhere is refused
whole, for half of it would take peers away.
"""

from typing import Any

from discovery.model import Instance, InstanceKey
from discovery.targets import host_and_port, instance_at

_LABELS_MAX = 64
# Prometheus' own words for what our registration calls otherwise.
_WORDS = {"__scheme__": "scheme", "__mcp_path__": "mcp_path"}
_OURS = ("node_id", "name", "scheme", "mcp_path")


def instances_of(origin: str, groups: Any) -> tuple[Instance, ...]:
    """The instances of a whole `file_sd` document: `[{"targets": ["host:port"], "labels": {"name": "node-b"}}]`.

    The labels `node_id`, `name`, `scheme` and `mcp_path` mean what they mean in the Meta of a registration; the name
    counts for a group of one target.

    Raises:
        ValueError: it is no such document; the text says what is wrong.
    """
    if not isinstance(groups, list):
        raise ValueError("it is no list of groups")  # noqa: TRY004 - of a document, as all others here
    found: dict[InstanceKey, Instance] = {}
    for group in groups:
        targets = group.get("targets") if isinstance(group, dict) else None
        labels = group.get("labels") if isinstance(group, dict) else None
        labels = {} if labels is None else labels
        if not isinstance(targets, list) or not isinstance(labels, dict) or len(labels) > _LABELS_MAX:
            raise ValueError("a group is no object with a list of targets and an object of labels")
        texts = {str(_WORDS.get(key, key)): text for key, text in labels.items() if text is not None}
        if wrong := [key for key in _OURS if not isinstance(texts.get(key, ""), str)]:
            raise ValueError(f"the label {wrong[0]} of a group is no text; write it in quotation marks")
        meta = {key: text for key, text in texts.items() if key in _OURS}
        for target in targets:
            host, port = host_and_port(target)
            name = meta.get("name", "") if len(targets) == 1 else ""
            one = instance_at(origin, host, port, name=name, meta=meta)
            found[one.key] = one
    return tuple(found[key] for key in sorted(found))
