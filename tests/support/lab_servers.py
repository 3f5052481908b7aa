"""Plain PostgreSQL servers for tests, started and removed with all they left."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgbastion.bench.lab import processes
from pgbastion.bench.lab.servers import PlainServer, choose


@contextmanager
def lab_directory() -> Iterator[Path]:
    """Make a directory that every user can reach; remove it and all that runs in it."""
    path = Path(tempfile.mkdtemp(prefix="pgb-plain-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        processes.kill_until_none(lambda: processes.working_below(path))
        shutil.rmtree(path)


@contextmanager
def plain_server(
    directory: Path, address: str, port: int, password: str
) -> Iterator[PlainServer]:
    """Run one server of the newest version there is.

    Raises:
        CannotRun: There are no server programs on this machine.
    """
    bin_dir = choose("newest", directory.parent / "programs")
    server = PlainServer(bin_dir, directory, address, port, password)
    server.start()
    try:
        yield server
    finally:
        server.stop()
