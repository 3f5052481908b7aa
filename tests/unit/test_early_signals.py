"""What comes before the daemon can take signals is kept for its handlers."""

import signal
from collections.abc import Iterator

import pytest

from pgbastion.early_signals import MEANT_FOR_THE_DAEMON, EarlySignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in MEANT_FOR_THE_DAEMON}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", MEANT_FOR_THE_DAEMON)
def test_what_comes_early_is_sent_again_once(number: int) -> None:
    taken: list[int] = []
    early = EarlySignals()
    early.begin()
    signal.raise_signal(number)
    signal.signal(number, lambda taken_number, _: taken.append(taken_number))
    assert taken == []

    early.send_again()
    early.send_again()

    assert taken == [number]
