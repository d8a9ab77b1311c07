"""The two names of everything that the conformance fixture offers: its own, and the one that a node shows for it.

Used by the renaming proxy between suite and node, and by the fixture when it plays a node. The one rule: written from
the documentation (docs/architecture.md, "Names"), not with the code under test, so that a change of the naming shows.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicNames:
    """Names of a server called `namespace`; with an empty namespace both names are the same."""

    namespace: str

    def public_name(self, own: str) -> str:
        """`tool` becomes `server__tool`."""
        return f"{self.namespace}__{own}" if self.namespace else own

    def own_name(self, public: str) -> str | None:
        """Undo `public_name`; None for names of others."""
        if not self.namespace:
            return public
        start = f"{self.namespace}__"
        return public.removeprefix(start) if public.startswith(start) else None

    def public_uri(self, own: str) -> str:
        """`test://path` becomes `test://server/path`."""
        scheme, slashes, path = own.partition("://")
        return f"{scheme}://{self.namespace}/{path}" if self.namespace and slashes else own

    def own_uri(self, public: str) -> str | None:
        """Undo `public_uri`; None for URIs of others."""
        if not self.namespace:
            return public
        scheme, _, path = public.partition(f"://{self.namespace}/")
        return f"{scheme}://{path}" if path else None
