"""How a bench is run by its name."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

import pytest

from pgbastion.bench import __main__ as benches


class Bench(ModuleType):
    """Is told to end while it measures."""

    def main(self, arguments: Sequence[str]) -> None:
        assert arguments == ["--runs", "1"]
        os.kill(os.getpid(), signal.SIGTERM)
        # A signal of one's own is taken before the next step.
        raise AssertionError("the bench went on")


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_signals_as_before")
def test_a_bench_that_is_told_to_end_clears_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a laboratory open leaves it by an exception."""
    # What the loader would find is replaced: a bench that needs nothing.
    monkeypatch.setitem(sys.modules, "pgbastion.bench.failover", Bench("failover"))
    monkeypatch.setattr(sys, "argv", ["bench", "failover", "--runs", "1"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(SystemExit, match="ended by a signal"):
        benches.main()
