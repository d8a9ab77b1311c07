"""What single callers are offered in their sessions: noted, looked up, and gone with the session."""

from agent.links.session_offers import CALLERS_MAX, SessionOffers
from agent.model import Offer

MORE = Offer(tools=({"name": "secret"},), digest="more")


def test_lists_have_to_be_read_when_a_session_opens_and_after_each_call_and_not_else() -> None:
    offers = SessionOffers()
    assert not offers
    offers.used("server:a", "session:1")
    assert offers.unread("session:1") == [], "it has no session there"
    offers.opened("server:a", "session:1")
    assert offers.unread("session:1") == ["server:a"]
    offers.put("server:a", "session:1", None)
    assert offers.unread("session:1") == []
    offers.used("server:a", "session:1")
    assert offers.unread("session:1") == ["server:a"]
    assert offers.unread("session:2") == []


def test_an_offer_is_of_one_caller_and_the_same_object_until_it_changes() -> None:
    offers = SessionOffers()
    offers.opened("server:a", "session:1")
    offers.opened("server:a", "session:2")
    offers.put("server:a", "session:1", MORE)
    known = offers.of("session:1")
    assert dict(known) == {"server:a": MORE}
    offers.put("server:a", "session:1", Offer(tools=MORE.tools, digest="more"))
    assert offers.of("session:1") is known
    assert not offers.of("session:2")
    offers.put("server:a", "session:1", None)
    assert not offers.of("session:1")


def test_what_a_session_offered_goes_with_it_with_its_caller_and_with_its_backend() -> None:
    offers = SessionOffers()
    for caller in ("session:1", "session:2", "session:3"):
        offers.opened("server:a", caller)
        offers.opened("server:b", caller)
        offers.put("server:a", caller, MORE)
    offers.closed("server:a", "session:1")
    assert not offers.of("session:1")
    assert offers.has_session("server:b", "session:1")
    offers.forget_caller("session:2")
    assert not offers.of("session:2")
    offers.forget_backend("server:a")
    assert not offers.of("session:3")
    offers.forget_backend("server:b")
    assert not offers


def test_of_too_many_callers_the_one_that_opened_a_session_longest_ago_is_forgotten() -> None:
    offers = SessionOffers()
    for number in range(CALLERS_MAX + 1):
        offers.opened("server:a", f"session:{number}")
    assert not offers.has_session("server:a", "session:0")
    assert offers.has_session("server:a", f"session:{CALLERS_MAX}")
