"""Logins of the page: what a cookie opens, beside which header, and for how long."""

from aiohttp.test_utils import make_mocked_request

from agent.rest.logins import LOGIN_LASTS_S, LOGINS_MAX, PAGE_HEADER, Logins


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def shown(logins: Logins, value: str, **headers: str) -> list[str]:
    sent = {"Cookie": f"{logins.cookie}={value}", **headers}
    return list(logins.authorization(make_mocked_request("GET", "/api/v1/mcp/status", headers=sent)))


def test_a_cookie_stands_for_its_token_beside_the_header_of_the_page_alone() -> None:
    logins = Logins("node-1", Clock())
    value = logins.begin("the-token")
    assert shown(logins, value, **{PAGE_HEADER: "1"}) == ["Bearer the-token"]
    assert shown(logins, value) == []
    assert shown(logins, "another", **{PAGE_HEADER: "1"}) == []


def test_a_token_that_is_shown_counts_before_the_cookie() -> None:
    logins = Logins("node-1", Clock())
    value = logins.begin("the-token")
    assert shown(logins, value, Authorization="Bearer other", **{PAGE_HEADER: "1"}) == ["Bearer other"]


def test_a_login_ends_by_time_by_word_and_by_many_others() -> None:
    clock = Clock()
    logins = Logins("node-1", clock)
    page = {PAGE_HEADER: "1"}
    value = logins.begin("the-token")
    clock.now_s = LOGIN_LASTS_S + 1
    assert shown(logins, value, **page) == []
    value = logins.begin("the-token")
    logins.end(make_mocked_request("POST", "/ui/logout", headers={"Cookie": f"{logins.cookie}={value}"}))
    assert shown(logins, value, **page) == []
    value = logins.begin("the-token")
    for _ in range(LOGINS_MAX):
        logins.begin("others")
    assert shown(logins, value, **page) == []


def test_nodes_of_one_machine_have_cookies_of_their_own_names() -> None:
    assert Logins("node-1", Clock()).cookie != Logins("node-2", Clock()).cookie


def test_what_is_kept_of_a_cookie_does_not_open_anything() -> None:
    logins = Logins("node-1", Clock())
    value = logins.begin("the-token")
    assert value not in repr(vars(logins)["_logins"].keys())
