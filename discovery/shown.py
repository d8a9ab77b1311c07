"""What a source that only lists addresses shows now, and what its status says of that.

Kept by `discovery.dns` and `discovery.file`, each source the only writer of its own. The one rule: what is shown
changes only with its content, and a fault takes nothing of it away.
"""

from dataclasses import dataclass

from discovery.model import Catalog, SourceStatus


@dataclass(slots=True)
class Shown:
    """See the module. `catalog`: None before anything was known. `fault`: why the last look gave nothing, or empty.

    `remark`: what went wrong without costing anything, or empty.
    """

    catalog: Catalog | None = None
    fault: str = ""
    remark: str = ""
    answered_at_s: float | None = None
    changes_total: int = 0

    def take(self, catalog: Catalog, *, is_known: bool = True) -> Catalog | None:
        """Show `catalog`; returns it where that is a change. Not `is_known`: nothing was found, and nothing begins."""
        if catalog == self.catalog or not (is_known or self.catalog is not None):
            return None
        self.catalog = catalog
        self.changes_total += 1
        return catalog

    def status(self, *, holding_removals: bool = False) -> SourceStatus:
        """A frozen view of the present state."""
        return SourceStatus(
            up=self.catalog is not None and not self.fault,
            last_error=self.fault or self.remark,
            last_answer_at_s=self.answered_at_s,
            changes_total=self.changes_total,
            holding_removals=holding_removals,
            confirmed_at_s=self.answered_at_s,
        )
