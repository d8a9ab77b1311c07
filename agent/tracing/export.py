"""Spans on their way to a collector: begun and ended by dispatch, sent in batches by a thread of their own.

Made by the wiring where `MESH_TRACES_URL` is set; without it nothing here is imported by a call. The thread has the
queue's other end, so no collector, slow or gone, holds up a call. The one rule: what does not fit is dropped and
counted; nothing waits and nothing is raised.
"""

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from typing import Final, Self

import orjson

from agent import __version__
from agent.model import Json, NodeIdentity
from agent.tracing.spans import Span, otlp, parent_in, with_parent

log = logging.getLogger(__name__)

WAITING_MAX: Final = 2_048
BATCH_MAX: Final = 512
BATCH_EVERY_S: Final = 2.0
SEND_TIMEOUT_S: Final = 5.0
_TOOLS_CALL: Final = "tools/call"


class Spans:
    """See the module. `resource`: what all spans of this node have, by OpenTelemetry's names."""

    def __init__(self, url: str, resource: Mapping[str, str]) -> None:
        self._url, self._resource = url, dict(resource)
        self._ended: queue.Queue[Span] = queue.Queue(WAITING_MAX)
        self._dropped = 0
        self._failed = False
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @classmethod
    def of_node(cls, url: str, own: NodeIdentity) -> Self:
        """Those of a node, in whichever of its processes they are made."""
        resource = {"service.name": "mcp-mesh-agent", "service.version": __version__}
        return cls(url, resource | {"service.instance.id": own.node_id, "mesh.node": own.name})

    def __repr__(self) -> str:
        return f"<Spans {self._ended.qsize()} waiting, {self._dropped} dropped>"

    def begin(self, method: str, name: str, backend: str, params: Json, begun: str = "") -> Span | None:
        """A span for an attempt, which `params` name as their parent from now on; None where nothing is recorded.

        `begun`: the trace of the call's earlier attempts, where its client has none; empty for the first one.
        """
        parent = parent_in(params)
        if parent is not None and not parent.sampled:
            return None
        trace_id, parent_id = (
            (begun or os.urandom(16).hex(), "") if parent is None else (parent.trace_id, parent.span_id)
        )
        attributes = {"mcp.method.name": method, "mesh.backend": backend}
        attributes["gen_ai.tool.name" if method == _TOOLS_CALL else "mesh.name"] = name
        span = Span(trace_id, os.urandom(8).hex(), parent_id, f"{method} {name}", time.time_ns(), attributes)
        with_parent(params, span)
        return span

    def end(self, span: Span, outcome: str) -> None:
        """It is over, in a word of the metrics."""
        span.end_ns, span.outcome = time.time_ns(), outcome
        try:
            self._ended.put_nowait(span)
        except queue.Full:
            self._dropped += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="spans", daemon=True)
            self._thread.start()
            atexit.register(self.stop)

    def stop(self) -> None:
        """Send what waits, within the time of one batch."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(SEND_TIMEOUT_S)

    def _send_all(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(BATCH_EVERY_S)
            while batch := self._batch():
                self._send(batch)

    def _batch(self) -> list[Span]:
        batch: list[Span] = []
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH_MAX:
                batch.append(self._ended.get_nowait())
        return batch

    def _send(self, batch: list[Span]) -> None:
        import urllib.request  # noqa: PLC0415 - it takes a tenth of a node's start, and few nodes are traced

        body = orjson.dumps(otlp(batch, self._resource))
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310 - the operator's
        try:
            with urllib.request.urlopen(request, timeout=SEND_TIMEOUT_S):  # noqa: S310 - as above; http or https by its setting
                pass
        except (OSError, ValueError) as exc:
            self._dropped += len(batch)
            log.log(
                logging.DEBUG if self._failed else logging.WARNING,
                "spans are not taken, and dropped",
                extra={"reason": str(exc), "dropped": self._dropped},
            )
            self._failed = True
        else:
            if self._failed:
                log.info("spans are taken again", extra={"dropped": self._dropped})
            self._failed = False
