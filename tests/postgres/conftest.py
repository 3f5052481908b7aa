"""Real servers for the tests in this folder."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pgbastion.bench.lab.servers import PlainServer
from support.postgres import Lab, data_template, find_servers, lab, reachable_bin_dir
from support.proxy_servers import Programs, tls_programs, tls_server

SERVERS = find_servers()


@pytest.fixture(scope="session", params=sorted(SERVERS), ids=lambda v: f"pg{v}")
def any_bin_dir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Programs of each PostgreSQL that is here, one after the other."""
    with reachable_bin_dir(SERVERS[request.param]) as bin_dir:
        yield bin_dir


@pytest.fixture(scope="session")
def one_bin_dir() -> Iterator[Path]:
    """Programs of one PostgreSQL."""
    if not SERVERS:
        pytest.skip("no PostgreSQL is installed here")
    with reachable_bin_dir(SERVERS[min(SERVERS)]) as bin_dir:
        yield bin_dir


@pytest.fixture(scope="session")
def any_template(any_bin_dir: Path) -> Iterator[Path]:
    with data_template(any_bin_dir) as template:
        yield template


@pytest.fixture(scope="session")
def one_template(one_bin_dir: Path) -> Iterator[Path]:
    with data_template(one_bin_dir) as template:
        yield template


@pytest.fixture
async def any_lab(any_bin_dir: Path, any_template: Path) -> AsyncIterator[Lab]:
    async with lab(any_bin_dir, any_template) as one:
        yield one


@pytest.fixture
async def one_lab(one_bin_dir: Path, one_template: Path) -> AsyncIterator[Lab]:
    async with lab(one_bin_dir, one_template) as one:
        yield one


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """Programs of a server that was built with TLS, and a place for it."""
    with tls_programs() as found:
        yield found


@pytest.fixture(scope="module")
def server(programs: Programs) -> Iterator[PlainServer]:
    """A server that offers TLS and asks for SCRAM."""
    with tls_server(programs) as running:
        yield running
