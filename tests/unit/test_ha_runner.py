"""One sequence of actions at a time, and a stop goes first."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pgbastion.errors import InvariantError, PostgresError
from pgbastion.ha import runner as runners
from pgbastion.ha.runner import Runner
from pgbastion.model.actions import (
    Action,
    Arm,
    Checkpoint,
    EndEpoch,
    StopMode,
    StopPostgres,
)
from pgbastion.model.ids import Epoch
from pgbastion.model.reasons import Reason
from pgbastion.observe.logging import get_logger

pytestmark = pytest.mark.timeout(10)

ARM = Arm(epoch=Epoch(1))
END = EndEpoch(epoch=Epoch(1))
STOP = StopPostgres(mode=StopMode.KILL, reason=Reason.FENCING)


class Recorder:
    """Performs actions; some hang until told, some fail."""

    def __init__(self, *, hang: type | None = None) -> None:
        self.done: list[Action] = []
        self.cut_short: list[Action] = []
        self.failure: Exception | None = None
        self.answer = True
        self.finished = 0
        self._hang = hang

    async def perform(self, action: Action) -> bool:
        try:
            if self._hang is not None and isinstance(action, self._hang):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cut_short.append(action)
            raise
        if self.failure is not None:
            raise self.failure
        self.done.append(action)
        return self.answer

    def on_done(self) -> None:
        self.finished += 1


def played(recorder: Recorder, play: Callable[[Runner], Awaitable[None]]) -> Runner:
    async def run() -> Runner:
        runner = Runner(
            recorder.perform, on_done=recorder.on_done, log=get_logger("test")
        )
        await play(runner)
        await runner.stop()
        return runner

    return asyncio.run(run())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_actions_of_a_decision_come_in_their_order() -> None:
    recorder = Recorder()

    async def play(runner: Runner) -> None:
        runner.offer((END, ARM))
        await settle()

    played(recorder, play)

    assert recorder.done == [END, ARM]
    assert recorder.finished == 1


def test_an_action_that_did_not_take_ends_its_sequence() -> None:
    recorder = Recorder()
    recorder.answer = False

    async def play(runner: Runner) -> None:
        runner.offer((END, ARM))
        await settle()

    played(recorder, play)

    assert recorder.done == [END]


def test_a_stop_interrupts_what_hangs() -> None:
    recorder = Recorder(hang=Checkpoint)

    async def play(runner: Runner) -> None:
        runner.offer((Checkpoint(),))
        await settle()
        runner.offer((STOP,))
        await settle()

    played(recorder, play)

    assert recorder.cut_short == [Checkpoint()]
    assert recorder.done == [STOP]


def test_a_stop_is_not_interrupted_by_another_decision() -> None:
    recorder = Recorder(hang=StopPostgres)

    async def play(runner: Runner) -> None:
        runner.offer((STOP,))
        await settle()
        runner.offer((ARM,))
        runner.offer((StopPostgres(mode=StopMode.FAST, reason=Reason.FENCING),))
        await settle()
        assert recorder.cut_short == []

    played(recorder, play)

    assert recorder.done == []


def test_another_decision_waits_for_the_one_being_carried_out() -> None:
    recorder = Recorder(hang=Checkpoint)

    async def play(runner: Runner) -> None:
        runner.offer((Checkpoint(),))
        await settle()
        runner.offer((ARM,))
        await settle()
        assert runner.busy

    played(recorder, play)

    assert recorder.done == []


def test_a_failure_of_the_world_is_decided_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runners, "FAILURE_PAUSE_S", 0)
    recorder = Recorder()
    recorder.failure = PostgresError("no answer")

    async def play(runner: Runner) -> None:
        runner.offer((ARM,))
        await settle()
        assert not runner.busy

    runner = played(recorder, play)

    assert runner.broken is None
    assert recorder.finished == 1


def test_a_broken_rule_of_our_own_is_kept_for_the_next_pass_to_raise() -> None:
    recorder = Recorder()
    recorder.failure = InvariantError("a rule")

    async def play(runner: Runner) -> None:
        runner.offer((ARM,))
        await settle()

    assert played(recorder, play).broken is recorder.failure
