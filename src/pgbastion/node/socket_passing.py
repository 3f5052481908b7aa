"""Listening sockets outlive the daemon: clients wait for its successor.

A successor that replaces a daemon asks it for them, over a Unix socket in the run
directory, before it ends it. Where systemd started the daemon, it keeps copies of them
and gives them to whatever it starts next, also after a crash.

Source: sd_listen_fds(3), sd_notify(3), "FDSTORE=1"; unix(7), SCM_RIGHTS.
"""

import asyncio
import contextlib
import os
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pgbastion.observe.logging import get_logger
from pgbastion.platform.choice import current

NAME: Final = "listeners.sock"
SOCKETS_MAX: Final = 64
ASK_S: Final = 1.0
_FIRST_FD: Final = 3  # sd_listen_fds(3)

log = get_logger("handover")


class SocketPassing:
    """Gives the listening sockets to a process of the same user that asks for them."""

    def __init__(
        self, run_dir: Path, listeners: Callable[[], Sequence[socket.socket]]
    ) -> None:
        self._path = run_dir / NAME
        self._listeners = listeners
        self._loop: AbstractEventLoop = asyncio.get_running_loop()
        self._asked: socket.socket | None = None
        # What a predecessor has left, for as long as it is not in use.
        self.inherited: Sequence[socket.socket] = ()
        self.on_listening: Callable[[Sequence[socket.socket]], None] = _nobody_keeps

    def keep(self) -> None:
        """Tell whoever keeps copies that the listening sockets have changed."""
        self.on_listening(self._listeners())

    def start(self) -> None:
        """Wait for a successor; without it a restart refuses clients, no more."""
        self.inherited = ()
        self.keep()
        asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._path.unlink(missing_ok=True)
            asked.bind(str(self._path))
            self._path.chmod(0o600)
            asked.listen(1)
        except OSError as exc:
            asked.close()
            log.warning("hand_over_impossible", error=str(exc))
            return
        self._asked = asked
        self._loop.add_reader(asked.fileno(), self._answer)

    def close(self) -> None:
        """Answer nobody any more. The path stays: it may be a successor's by now."""
        if self._asked is not None:
            self._loop.remove_reader(self._asked.fileno())
            self._asked.close()
            self._asked = None

    def _answer(self) -> None:
        if self._asked is None:
            return
        with contextlib.suppress(OSError):
            successor, _ = self._asked.accept()
            with successor:
                if current().peer(successor)[1] not in (0, os.geteuid()):
                    return
                listeners = self._listeners()[:SOCKETS_MAX]
                socket.send_fds(successor, [b"1"], [s.fileno() for s in listeners])
                log.info("handed_over", sockets=len(listeners))


def _nobody_keeps(_listeners: Sequence[socket.socket]) -> None:
    """Stand in until somebody wants to keep the sockets."""


def ask_predecessor(run_dir: Path) -> list[socket.socket]:
    """Return the listening sockets of the daemon that runs; none where none answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(ASK_S)
        try:
            asking.connect(str(run_dir / NAME))
            _, numbers, _, _ = socket.recv_fds(asking, 1, SOCKETS_MAX)
        except OSError:
            return []
    return _listening(numbers)


def kept_by_systemd(environment: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd has kept, or opened for this process."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    return _listening(range(_FIRST_FD, _FIRST_FD + min(int(count), SOCKETS_MAX)))


def _listening(numbers: Sequence[int]) -> list[socket.socket]:
    """Return those of these descriptors that listen for TCP; the others are closed."""
    found = []
    for number in numbers:
        os.set_inheritable(number, False)
        try:
            taken = socket.socket(fileno=number)
        except OSError:
            os.close(number)
            continue
        listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and taken.family in (socket.AF_INET, socket.AF_INET6):
            found.append(taken)
        else:
            taken.close()
    return found
