"""The operator's maintenance in a real Consul: kept by our registrations, seen by every watch, gone at once."""

import pytest

from discovery.consul.session import open_session
from discovery.model import Catalog, Health, Registration
from tests.consul_process import RunningConsul
from tests.contract.following import Follower, running, until

pytestmark = pytest.mark.consul


@pytest.mark.parametrize("what", ["service/maintenance/{}", "maintenance"])
async def test_maintenance_is_a_reason_beside_the_health_and_survives_our_registrations(
    real_consul: RunningConsul, name: str, what: str
) -> None:
    ours = Registration(f"{name}-1", name, 8000)
    path = f"/v1/agent/{what.format(ours.service_id)}"
    async with open_session(real_consul.settings()) as session:
        registrar = session.registrar(ours)
        follower = Follower(session.source(name, registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until(lambda seen: reasons(seen) == [""])
            await real_consul.call("PUT", f"{path}?enable=true&reason=new+disks")
            try:
                await follower.until(lambda seen: reasons(seen) == ["new disks"], within_s=2)
                registrar.repair()
                await until(lambda: registrar.status.registrations_total == 2, what="registered again")
                registrar.change(Registration(f"{name}-1", name, 8001))
                seen = await follower.until(lambda seen: [one.port for one in seen.instances] == [8001], within_s=2)
                assert reasons(seen) == ["new disks"]
                assert [one.health for one in seen.instances] == [Health.PASSING]
            finally:
                await real_consul.call("PUT", f"{path}?enable=false")
            await follower.until(lambda seen: reasons(seen) == [""], within_s=2)
        await registrar.leave()


def reasons(catalog: Catalog) -> list[str]:
    return [one.maintenance for one in catalog.instances]
