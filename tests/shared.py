"""One object store, catalog and broker for all files of a test process whose tests use names of their own.

A file takes them by `pytest_plugins = ["shared"]` and the fixture `shared_servers`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import Servers


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """SeaweedFS and Tansu. A test may kill or freeze them if it has them up again at its end."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()
