"""Handles of processes, by pidfds and by looking."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.platform import handles
from pgbastion.platform.choice import LINUX, NO_PIDFD, PORTABLE, VARIABLE
from pgbastion.platform.polling import LOOK_S
from pgbastion.platform.process_end import has_ended

END_S = 5.0


@pytest.fixture(params=[LINUX, NO_PIDFD, PORTABLE])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as made:
        yield made
        made.kill()


def readable(handle: int, within_s: float) -> bool:
    return bool(select.select([handle], [], [], within_s)[0])


def test_a_handle_becomes_readable_when_its_process_ends_and_not_before(
    way: str, child: "subprocess.Popen[bytes]"
) -> None:
    handle = handles.open_handle(child.pid)
    try:
        assert not readable(handle, 3 * LOOK_S)
        assert not has_ended(handle)
        child.kill()
        assert readable(handle, END_S)
        assert has_ended(handle)
    finally:
        os.close(handle)


def test_a_process_that_is_gone_has_no_handle(
    way: str, child: "subprocess.Popen[bytes]"
) -> None:
    child.kill()
    child.wait(END_S)

    with pytest.raises(ProcessLookupError):
        handles.open_handle(child.pid)


def test_a_signal_is_sent_only_while_it_is_that_process(
    way: str, child: "subprocess.Popen[bytes]"
) -> None:
    assert not handles.send(child.pid, signal.SIGKILL, lambda _: False)
    assert child.poll() is None
    assert handles.send(child.pid, signal.SIGKILL, lambda _: True)
    assert child.wait(END_S) == -signal.SIGKILL
    assert not handles.send(child.pid, signal.SIGKILL, lambda _: True)


def test_a_handle_sends_signals_until_its_process_has_ended(
    way: str, child: "subprocess.Popen[bytes]"
) -> None:
    handle = handles.open_handle(child.pid)
    try:
        handles.send_to(handle, child.pid, signal.SIGKILL)
        child.wait(END_S)
        assert readable(handle, END_S)
        with pytest.raises(ProcessLookupError):
            handles.send_to(handle, child.pid, signal.SIGKILL)
    finally:
        os.close(handle)


def test_nobody_goes_on_looking_for_a_handle_that_was_closed(
    monkeypatch: pytest.MonkeyPatch, child: "subprocess.Popen[bytes]"
) -> None:
    """Else each reconnection would leave a thread behind."""
    monkeypatch.setenv(VARIABLE, NO_PIDFD)
    before = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(5):
        os.close(handles.open_handle(child.pid))
    until = time.monotonic() + END_S
    while len(list(Path("/proc/self/task").iterdir())) > before:
        assert time.monotonic() < until
        time.sleep(LOOK_S)
