"""The first look: three nodes with real PostgreSQL on loopback, and nothing left after.

It needs the laboratory of `pgbastion.bench`: its nodes, its write load and its checker
of commits.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from rich.console import Console

from pgbastion.bench.lab.errors import CannotRun
from pgbastion.demo.faults import FAULTS
from pgbastion.demo.once import run_once
from pgbastion.demo.show import Show
from pgbastion.demo.stage import Stage
from pgbastion.errors import ConfigError, DemoError, PgBastionError

EXIT_OK: Final = 0
EXIT_WRONG: Final = 1
"""A row was lost or applied twice, or the cluster missed a bound."""
EXIT_CANNOT_RUN: Final = 69
"""It needs what this user or machine lacks (EX_UNAVAILABLE of sysexits.h)."""
EXIT_INTERRUPTED: Final = 130


def run(*, once: bool, fault: str, profile: str) -> int:
    """Run the demonstration; return the exit code.

    With ``once`` the last line of standard output is the result in JSON, and the exit
    code is 0 only if no acknowledged row was lost.
    """
    with ends_like_ctrl_c():
        try:
            return _once(fault, profile) if once else _live(profile)
        except (CannotRun, ConfigError, DemoError) as why:
            print(f"pgbastion demo: {why}", file=sys.stderr)
            return EXIT_CANNOT_RUN
        except PgBastionError as error:
            print(f"pgbastion demo: {error}", file=sys.stderr)
            return EXIT_WRONG
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED if once else EXIT_OK


def _once(fault: str, profile: str) -> int:
    with Stage(profile=profile, namespaces=FAULTS[fault].needs_namespaces) as stage:
        outcome = run_once(stage, fault, _say)
    if outcome.wrong:
        _say(outcome.wrong)
    print(json.dumps(outcome.as_line()), flush=True)
    return EXIT_OK if outcome.sound else EXIT_WRONG


def _live(profile: str) -> int:
    console = Console()
    try:
        with Stage(profile=profile) as stage:
            try:
                Show(stage, console).run()
            finally:
                console.print("Ending the nodes and removing their files ...")
    finally:
        console.print("Nothing is left.")
    return EXIT_OK


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def ends_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end what runs as an interrupt does.

    An interrupt counts also where a script that started it in the background had it
    ignored; nohup's hang-up stays ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    endings = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        endings.append(signal.SIGHUP)
    former = {number: signal.signal(number, interrupt) for number in endings}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
