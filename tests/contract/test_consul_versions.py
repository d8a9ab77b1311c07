"""What Consul 1.8 and newer versions do differently, and that we do the same on both (CONSUL_BIN chooses one)."""

import pytest

from discovery.consul.client import open_client
from discovery.consul.registration import check_id
from discovery.consul.session import open_session
from discovery.model import Registration, RegistrationLost
from tests.consul_process import RunningConsul, version_of
from tests.contract.following import Follower, ids, running, until

pytestmark = pytest.mark.consul

# The streaming cache of the agent, and the header that names it.
STREAMING_SINCE = (1, 10)
BACKENDS = {"streaming", "blocking-query"}


async def test_an_entry_without_a_port_is_shown_with_none_though_newer_versions_leave_the_key_out(
    real_consul: RunningConsul, name: str
) -> None:
    await real_consul.call("PUT", "/v1/agent/service/register", {"ID": f"{name}-bare", "Name": name})
    async with open_session(real_consul.settings()) as session:
        follower = Follower(session.source(name))
        async with running(follower.run()):
            seen = await follower.until_ids(f"{name}-bare")
    await real_consul.call("PUT", f"/v1/agent/service/deregister/{name}-bare")
    assert [one.port for one in seen.instances] == [0]


async def test_the_status_names_what_answers_where_consul_says_so(real_consul: RunningConsul, name: str) -> None:
    async with open_session(real_consul.settings()) as session:
        registrar = session.registrar(Registration(f"{name}-1", name, 8000))
        follower = Follower(session.source(name, registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until_ids(f"{name}-1")
            says = version_of(real_consul.binary) >= STREAMING_SINCE
            await until(lambda: (follower.source.status.backend in BACKENDS) is says, what="the backend's name")
            assert follower.source.status.backend in (BACKENDS if says else {""})
            assert follower.source.status.confirmed_at_s is not None
        await registrar.leave()


async def test_an_unknown_check_is_a_lost_registration_whatever_its_status(
    real_consul: RunningConsul, name: str
) -> None:
    async with open_client(real_consul.settings()) as client:
        with pytest.raises(RegistrationLost):
            await client.pass_check(check_id(Registration(f"{name}-1", name, 8000)))


async def test_the_index_of_a_name_that_was_never_registered_may_go_back_and_hides_nothing(
    real_consul: RunningConsul, name: str
) -> None:
    async with open_session(real_consul.settings()) as session:
        follower = Follower(session.source(name))
        async with running(follower.run()):
            await follower.until(lambda seen: not seen.instances)
            first = session.registrar(Registration(f"{name}-1", name, 8000))
            async with running(first.keep()):
                await follower.until(lambda seen: ids(seen) == {f"{name}-1"}, within_s=2)
            await first.leave()
            await follower.until(lambda seen: not seen.instances, within_s=2)
