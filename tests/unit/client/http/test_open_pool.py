"""What stands in the way of a pool before anything is dialled, and whose fault it is."""

import resource
from pathlib import Path

import pytest

from agent.client.http.open_pool import open_pool
from agent.errors import ProtocolBroken, Unreachable
from agent.model import HttpTarget, TlsFiles
from tests.integration.servers.certificates import Authority

URL = "https://127.0.0.1/mcp"


async def test_a_tls_file_that_cannot_be_read_for_want_of_descriptors_is_no_fault_of_the_entry(tmp_path: Path) -> None:
    target = HttpTarget(URL, tls=TlsFiles(ca=str(Authority(tmp_path).ca)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        with pytest.raises(Unreachable, match="out of file descriptors") as raised:
            open_pool(target, connect_timeout_s=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert raised.value.short
    open_pool(target, connect_timeout_s=1.0).close()


async def test_a_tls_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    target = HttpTarget(URL, tls=TlsFiles(ca=str(tmp_path / "none.pem")))
    with pytest.raises(ProtocolBroken, match=r"TLS file that cannot be used.*none\.pem"):
        open_pool(target, connect_timeout_s=1.0)
