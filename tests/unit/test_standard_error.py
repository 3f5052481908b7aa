"""A log that nobody reads holds nobody up."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from pgbastion.observe.logging import ROOT_NAME, configure_logging
from pgbastion.observe.standard_error import StandardError

WAITING = 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give both ends of a pipe, the first one to read from."""
    reader, writer = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        yield reader, writer


@pytest.fixture
def _logs_as_before() -> Iterator[None]:
    root = logging.getLogger(ROOT_NAME)
    before = (list(root.handlers), root.level, root.propagate)
    yield
    root.handlers, root.propagate = before[0], before[2]
    root.setLevel(before[1])


def fill(writer: int) -> None:
    """Write until the pipe takes not a byte more."""
    os.set_blocking(writer, False)
    for size in (4_096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"-" * size)
    os.set_blocking(writer, True)


@pytest.mark.usefixtures("_logs_as_before")
def test_nobody_waits_for_a_reader_that_stands_still(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = StandardError(writer, waiting_max=WAITING)
    configure_logging(level="info", form="json", stream=stream)  # type: ignore[arg-type]
    fill(writer)

    stream.write("\n")
    for number in range(100):
        stream.write(f"line {number}\n")
    stream.drain(within_s=0.01)

    kept, lost = 0, 0
    with open(reader, closefd=False) as log:
        filler = next(log)
        assert set(filler) == {"-", "\n"}
        while kept + lost < 100:
            line = next(log)
            if line.startswith("line"):
                assert line == f"line {kept}\n"
                kept += 1
            else:
                lost += json.loads(line)["lines"]
    assert lost > 0


def test_what_was_written_is_there_after_a_drain(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = StandardError(writer)

    stream.write("one\n")
    stream.write("\udcff two\n")
    stream.drain()

    os.set_blocking(reader, False)
    assert os.read(reader, 100) == b"one\n\\udcff two\n"


def test_a_reader_that_has_gone_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = StandardError(writer)
    try:
        stream.write("one\n")
        stream.drain()
    finally:
        os.close(writer)

    assert not stream.isatty()


CLOSED = """
import os, sys
from pgbastion.observe.standard_error import take_standard_error
taken = take_standard_error()
print("nowhere", file=sys.stderr)
taken.drain()
numbers = os.pipe()
os.write(1, b"%d" % min(numbers))
"""


def test_a_closed_standard_error_is_nowhere_and_its_number_not_ours() -> None:
    said = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", CLOSED],
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    ).stdout

    assert int(said) > 2


INTERRUPTED = """
import os, signal
from pgbastion.observe.standard_error import StandardError
stream = StandardError(os.open(os.devnull, os.O_WRONLY))
signal.signal(signal.SIGALRM, lambda *_: stream.write("in the midst\\n"))
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
for _ in range(50_000):
    stream.write("line\\n")
signal.signal(signal.SIGALRM, signal.SIG_IGN)
"""


def test_whoever_writes_in_the_midst_of_a_write_waits_for_nobody() -> None:
    """As an object does that says something as it is collected."""
    subprocess.run([sys.executable, "-c", INTERRUPTED], timeout=30, check=True)
