"""What holds for any sequence of calls, pauses and leavers: half, panic, no call to the ejected, a way back."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.dispatch.balance import choose
from agent.dispatch.outlier import EJECT_MAX_S, HEALTHY, Health, Verdict, chance, ejected_of, judge, readmit
from agent.routing.table import Replica

SIZES = st.integers(1, 7)


class Ejections(RuleBasedStateMachine):
    """One group; calls go where they are sent, as the accounts do it."""

    @initialize(size=SIZES, seed=st.integers(0, 2**16))
    def begin(self, size: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 1000.0
        self.members = [Replica(f"peer:{n}", "t", f"n{n}", ours=False) for n in range(size)]
        self.healths: dict[str, Health] = {}
        self.has_shrunk = False

    def keys(self) -> list[str]:
        return [member.backend_key for member in self.members]

    def ejected(self) -> set[str]:
        return {key for key in self.keys() if self.healths.get(key, HEALTHY).is_ejected}

    @rule(verdict=st.sampled_from(Verdict), times=st.integers(1, 25), to=st.integers(0, 6))
    def calls_end(self, verdict: Verdict, times: int, to: int) -> None:
        key = self.keys()[to % len(self.members)]
        for _ in range(times):
            present = {one: self.healths.get(one, HEALTHY) for one in self.keys()}
            before = len(self.ejected())
            self.healths[key] = judge(key, verdict, present, started_s=self.now_s, now_s=self.now_s, rng=self.rng)
            if len(self.ejected()) > before:
                assert 2 * len(self.ejected()) <= len(self.members), "an ejection took more than half"
                assert verdict is not Verdict.ANSWERED

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.healths = {key: readmit(health, self.now_s) for key, health in self.healths.items()}

    @rule(which=st.integers(0, 6))
    @precondition(lambda self: len(self.members) > 1)
    def a_member_leaves(self, which: int) -> None:
        gone = self.members.pop(which % len(self.members))
        self.healths.pop(gone.backend_key, None)
        self.has_shrunk = True

    @rule(seed=st.integers(0, 2**16))
    def a_call_is_placed(self, seed: int) -> None:
        exclude = ejected_of(self.keys(), self.healths)
        chances = {key: chance(health, self.now_s) for key, health in self.healths.items()}
        chosen = choose(self.members, {}, random.Random(seed), now_s=self.now_s, exclude=exclude, chances=chances)
        assert chosen is not None, "one replica is always left"
        in_panic = 2 * (len(self.members) - len(self.ejected())) < len(self.members)
        assert in_panic or chosen.backend_key not in self.ejected()

    @invariant()
    def never_more_than_half_of_a_whole_group(self) -> None:
        if hasattr(self, "members") and not self.has_shrunk:
            assert 2 * len(self.ejected()) <= len(self.members)

    @invariant()
    def panic_is_exactly_when_fewer_than_half_are_left(self) -> None:
        if hasattr(self, "members"):
            in_panic = 2 * (len(self.members) - len(self.ejected())) < len(self.members)
            assert ejected_of(self.keys(), self.healths) == (set() if in_panic else self.ejected())

    @invariant()
    def everybody_comes_back_in_the_end(self) -> None:
        if hasattr(self, "members"):
            later_s = self.now_s + EJECT_MAX_S
            assert not any(readmit(health, later_s).is_ejected for health in self.healths.values())


TestEjections = Ejections.TestCase
TestEjections.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
