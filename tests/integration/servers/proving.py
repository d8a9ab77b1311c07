"""Scripts that are nodes of the tests' mesh: they shake hands, and prove each answer that they write.

Wraps the answers of `tests.integration.servers.hosting.scripted`. The one rule: only the proof is added; every other
byte is the script's.
"""

import asyncio
import time
from typing import Any

import orjson

from agent.identity.association import PROOF_HEADER
from agent.identity.keeper import AssociationKeeper
from agent.identity.node_key import NodeKey
from tests.integration.servers.hosting import Seen, http
from tests.integration.servers.nodes import SECRET


class ProvenWriter:
    """A writer that puts a proof behind the first line of what is written."""

    def __init__(self, writer: asyncio.StreamWriter, proof: bytes) -> None:
        self._writer = writer
        self._proof = proof

    def write(self, data: bytes) -> None:
        """As `StreamWriter.write`; the first line comes in the first part."""
        self._writer.write(with_proof(bytes(data), self._proof) if self._proof else data)
        self._proof = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class Proving:
    """One node's key and its handshakes."""

    def __init__(self) -> None:
        self.key = NodeKey.new()
        self._keeper = AssociationKeeper(self.key, (SECRET,), time.monotonic)

    async def handshake(self, seen: Seen) -> bytes | None:
        """The answer to a message of a handshake; None to any other request."""
        if not seen.path.endswith("/handshake"):
            return None
        return http(200, orjson.dumps(await self._keeper.reply(seen.body, strangers=False)))

    def proof(self, seen: Seen) -> bytes:
        """The header line of the answer to this request."""
        found = self._keeper.of(seen.headers.get(PROOF_HEADER.lower(), ""))
        assert found is not None, "the request has no proof"
        association, number, _ = found
        return f"{PROOF_HEADER}: {association.answer_proof(number)}\r\n".encode()


def with_proof(answer: bytes, proof: bytes) -> bytes:
    """`answer` with one more header line."""
    first, end, rest = answer.partition(b"\r\n")
    return first + end + proof + rest if answer and proof else answer
