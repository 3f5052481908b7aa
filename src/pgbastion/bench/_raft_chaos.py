"""Writes and linearizable reads while engines are killed and paused in turn."""

import contextlib
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Final

from pgbastion.bench._engine_lab import Engine, Lab, until

WRITES_A_S: Final = 200
_FAULT_EVERY_S: Final = 2.0
_FAULT_LASTS_S: Final = 1.0
_READ_EVERY_S: Final = 0.05
_ANSWERS_S: Final = 6.0


@dataclass(slots=True)
class Tally:
    """What came of it."""

    acknowledged: set[str] = field(default_factory=set)
    attempted: int = 0
    reads: int = 0
    stale: int = 0
    lost: int = 0
    faults: int = 0


class Chaos:
    """One workload on one cluster; at most one engine is down at a time."""

    def __init__(self, cluster: Lab, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._pending: list[tuple[Engine, int, str]] = []
        self._down: tuple[Engine, bool] | None = None
        self._newest = ""
        self.tally = Tally()

    def run(self, seconds: float) -> Tally:
        """Write, read and hurt for so long, then look what is left."""
        began = time.monotonic()
        next_fault, next_read, heals = 1.0, 0.5, 0.0
        while (now := time.monotonic() - began) < seconds:
            while self.tally.attempted < now * WRITES_A_S:
                self._write()
            self._collect()
            if self._down is not None and now >= heals:
                self._heal()
            if self._down is None and now >= next_fault:
                self._hurt()
                heals, next_fault = now + _FAULT_LASTS_S, now + _FAULT_EVERY_S
            if now >= next_read:
                self._read()
                next_read = now + _READ_EVERY_S
            time.sleep(0.002)
        self._heal()
        self._finish()
        return self.tally

    def _able(self) -> list[Engine]:
        hurt = self._down[0] if self._down is not None else None
        return [e for e in self._cluster.up().values() if e is not hurt]

    def _write(self) -> None:
        self.tally.attempted += 1
        data = f"w{self.tally.attempted}"
        engine = self._random.choice(self._able())
        asked = engine.send("propose", data=data, timeout_ms=5_000)
        self._pending.append((engine, asked, data))

    def _collect(self) -> None:
        waiting = []
        for engine, asked, data in self._pending:
            answer = engine.poll(asked)
            if answer is None:
                waiting.append((engine, asked, data))
            elif answer["status"] == "ok":
                self.tally.acknowledged.add(data)
                self._newest = data
        self._pending = waiting

    def _read(self) -> None:
        """Whoever confirms a read has to have what was acknowledged before it."""
        wanted = self._newest
        engine = self._random.choice(self._able())
        asked = engine.send("read_index", timeout_ms=200)
        answer = engine.answer(asked)
        if answer["status"] == "ok" and wanted:
            self.tally.reads += 1
            self.tally.stale += not engine.ask("has", data=wanted)

    def _hurt(self) -> None:
        engine = self._random.choice(self._able())
        kills = self._random.random() < 0.5
        self.tally.faults += 1
        if kills:
            self._pending = [p for p in self._pending if p[0] is not engine]
            engine.kill()
        else:
            engine.signal(signal.SIGSTOP)
        self._down = engine, kills

    def _heal(self) -> None:
        if self._down is None:
            return
        engine, killed = self._down
        if killed:
            engine.start()
        else:
            engine.signal(signal.SIGCONT)
        self._down = None

    def _finish(self) -> None:
        end = time.monotonic() + _ANSWERS_S
        while self._pending and time.monotonic() < end:
            self._collect()
            time.sleep(0.01)
        self._cluster.elected()

        def all_have(engine: Engine) -> bool:
            return self.tally.acknowledged <= set(engine.ask("log"))

        for engine in self._cluster.engines.values():
            with contextlib.suppress(AssertionError):
                until(lambda engine=engine: all_have(engine), "its log")  # type: ignore[misc]
            missing = self.tally.acknowledged - set(engine.ask("log"))
            self.tally.lost = max(self.tally.lost, len(missing))
