"""A child process of the embedded tests: joins the embedded catalog, registers, watches, and reports lines of JSON.

Started as `python -m tests.contract.embedded_node PORT SERVICE_ID`; killed by its parent. The one rule: every catalog
that it shows is printed at once, so that the parent can judge each of them.
"""

import asyncio
import json
import sys

from discovery.consul.client import open_client
from discovery.consul.registration import ConsulRegistrar
from discovery.consul.watch import ConsulWatch
from discovery.embedded.server import EmbeddedSettings, embedded_catalog
from discovery.model import Catalog, Health, Registration

SERVICE_NAME = "mcp-node"


async def main(port: int, service_id: str) -> None:
    """Live until killed."""
    ours = Registration(service_id, SERVICE_NAME, port=8000, meta={"node_id": service_id})
    async with embedded_catalog(port) as settings, open_client(settings) as client:
        registrar = ConsulRegistrar(client, ours)
        # Shorter than the default, so that the dead one is dropped before the test grows old.
        watch = ConsulWatch(client, SERVICE_NAME, own=registrar, settle_s=2.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(registrar.keep(), name="keep")
            async for catalog in watch.watch():
                _report(settings, catalog)


def _report(settings: EmbeddedSettings, catalog: Catalog) -> None:
    shown = sorted(instance.key.service_id for instance in catalog.instances)
    critical = [one.key.service_id for one in catalog.instances if one.health is Health.CRITICAL]
    sys.stdout.write(json.dumps({"serving": settings.serving, "ids": shown, "critical": critical}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
