"""Single stories that seeds once told: each broke a rule, and is kept fault by fault, for seeds draw others later."""

from tests.simulation.lying_catalog import Lie
from tests.simulation.towns import Town

TURNS_S = (0.2, 15.0, 30.0)


def test_server_that_is_behind_after_a_restore_takes_away_no_node_that_is_cut_off_meanwhile() -> None:
    """`decisions 72453` of November 2026: an older answer was taken for the restored state itself."""
    town = Town(0, size=4, deciders=1)
    observer, (own, dead, restored, _) = town.citizens[0].observer, town.facts.nodes
    assert observer is not None
    town.turn(0.0)
    observer.servers.lie = Lie.BEHIND
    town.turn(2.0)
    town.stop(dead, "SIGKILL")
    town.turn(30.0)
    town.facts.restore([restored])
    town.turn(0.2)
    town.facts.register(restored)
    town.facts.cut |= {(own.number, restored.number), (restored.number, own.number)}
    for seconds in TURNS_S:
        town.turn(seconds)  # Raises where a link is closed without a cause.
    assert restored.url in {spec.target.url for spec in observer.selector.selection.peers}
