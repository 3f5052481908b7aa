"""No fork without exec once the engine's threads run.

A fork copies the thread that calls it and every lock as it is: a lock that another
thread holds is held for ever in the child. Programs are started by ``posix_spawn``, or
by the guard, which has one thread.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgbastion

PACKAGE = Path(pgbastion.__file__).parent
# The guard has one thread. The rest is not part of a daemon.
EXEMPT = ("guard", "bench", "demo", "testing")
FORKS = {"fork", "forkpty", "fork_exec"}


def modules() -> Iterator[Path]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in EXEMPT:
            yield path


def forks(source: str) -> list[int]:
    """Return the lines of what forks, or runs Python between fork and exec."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) if name in FORKS:
                found.append(node.lineno)
            case ast.keyword(arg="preexec_fn"):
                found.append(node.lineno)
            case ast.Import(names=names) if any(
                alias.name.partition(".")[0] == "multiprocessing" for alias in names
            ):
                found.append(node.lineno)
            case ast.ImportFrom(module="multiprocessing" | "pty"):
                found.append(node.lineno)
    return found


def test_nothing_of_the_daemon_forks() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in modules()
        if (lines := forks(path.read_text(encoding="utf-8")))
    }

    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "pid = os.fork()",
        "os.forkpty()",
        "subprocess.Popen(x, preexec_fn=f)",
        "import multiprocessing.pool",
        "from multiprocessing import Pool",
    ],
)
def test_what_forks_is_found(source: str) -> None:
    assert forks(source) == [1]


def test_the_guard_forks_and_is_where_it_is_looked_for() -> None:
    launch = (PACKAGE / "guard" / "launch.py").read_text(encoding="utf-8")

    assert forks(launch) != []
