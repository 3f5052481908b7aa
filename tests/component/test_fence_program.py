"""The operator's program that switches nodes off: called, bounded, believed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pgbastion.config.model import Config
from pgbastion.model.actions import CallFence
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.snapshot import FenceCounts
from pgbastion.model.views import FenceCall
from pgbastion.node.fencing import FenceProgram
from pgbastion.programs import OUTPUT_BYTES, run_program
from support.configs import understood
from support.guard_lab import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ORDER = CallFence(epoch=Epoch(7), node=NodeId("n1"), host="10.0.1.1", term=5)
RUN_S = 30.0


def configured(program: Path | None, timeout: str = "20s") -> Config:
    return understood(
        failover={
            "fence_command": None if program is None else str(program),
            "fence_timeout": timeout,
        }
    )


def script(folder: Path, text: str) -> Path:
    program = folder / "fence"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o700)
    return program


async def ended(
    config: Callable[[], Config],
    meanwhile: Callable[[FenceProgram], Awaitable[None]] | None = None,
) -> tuple[FenceCall, FenceCounts]:
    """Have the program run once; return what came of it."""
    changed = asyncio.Event()
    program = FenceProgram(config, on_change=changed.set)
    program.call(ORDER)
    view = program.view()
    assert view is not None
    assert view.call is not None
    assert view.call.ended_ms == 0
    assert not view.call.confirmed
    if meanwhile is not None:
        await meanwhile(program)
    async with asyncio.timeout(RUN_S):
        await changed.wait()
    view = program.view()
    assert view is not None
    assert view.call is not None
    assert view.call.ended_ms >= view.call.started_ms
    assert (view.call.epoch, view.call.term) == (7, 5)
    return view.call, program.counts


async def test_exit_code_0_confirms(tmp_path: Path) -> None:
    said = tmp_path / "said"
    program = script(
        tmp_path,
        f'echo "$* $PGBASTION_NODE $PGBASTION_CLUSTER $PGBASTION_EPOCH $SECRET" '
        f">> {said}; pwd >> {said}",
    )
    config = configured(program)

    call, counts = await ended(lambda: config)

    assert call.confirmed
    assert counts == FenceCounts(confirmed=1)
    assert said.read_text() == "off n1 10.0.1.1 n1 main 7 \n/\n"


async def test_the_fence_program_gets_no_variable_that_may_be_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGBASTION_TOKEN", "s3cret")
    config = configured(script(tmp_path, "! env | grep -q s3cret"))

    call, _ = await ended(lambda: config)

    assert call.confirmed


@pytest.mark.parametrize("text", ["echo no such plug; exit 1", "kill -9 $$"])
async def test_any_other_end_confirms_nothing(tmp_path: Path, text: str) -> None:
    config = configured(script(tmp_path, text))

    call, counts = await ended(lambda: config)

    assert not call.confirmed
    assert counts == FenceCounts(failed=1)


async def test_a_program_that_cannot_be_started_confirms_nothing(
    tmp_path: Path,
) -> None:
    config = configured(tmp_path / "missing")

    call, counts = await ended(lambda: config)

    assert (call.confirmed, counts) == (False, FenceCounts(failed=1))


async def test_what_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path,
) -> None:
    late = tmp_path / "late"
    program = script(tmp_path, f"(sleep 2; touch {late}) & wait; exit 0")
    config = configured(program, "200ms")

    call, counts = await ended(lambda: config)

    assert (call.confirmed, counts) == (False, FenceCounts(failed=1))
    assert not late.exists()


async def test_what_a_program_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    """It still has the pipe that the program spoke into."""
    config = configured(script(tmp_path, "sleep 5 & exit 0"), "2s")

    call, _ = await ended(lambda: config)

    assert call.confirmed


async def test_of_a_program_that_talks_without_end_the_beginning_is_kept(
    tmp_path: Path,
) -> None:
    program = script(tmp_path, "echo no such plug; head -c 20000000 /dev/zero; exit 3")
    before = open_files()

    problem = await run_program(program, (), environment={}, limit_s=RUN_S)

    assert problem is not None
    assert problem.startswith("exit code 3: no such plug")
    assert len(problem) < 2 * OUTPUT_BYTES
    await until(lambda: open_files() <= before)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_one_run_at_a_time(tmp_path: Path) -> None:
    said, go_on = tmp_path / "said", tmp_path / "go-on"
    program = script(
        tmp_path,
        f"echo run >> {said}\nwhile ! test -e {go_on}; do sleep 0.02; done",
    )
    config = configured(program)

    async def again(program: FenceProgram) -> None:
        program.call(ORDER)
        go_on.touch()

    call, _ = await ended(lambda: config, again)

    assert call.confirmed
    assert said.read_text() == "run\n"


async def test_a_daemon_that_ends_takes_its_run_with_it(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    config = configured(script(tmp_path, f"touch {begun}; sleep 60"))
    program = FenceProgram(lambda: config, on_change=lambda: None)
    program.call(ORDER)
    await until(begun.exists)

    await program.close()

    view = program.view()
    assert view is not None
    assert view.call is not None
    assert not view.call.confirmed
    assert program.counts == FenceCounts(failed=1)


async def test_without_a_program_nothing_is_promised() -> None:
    program = FenceProgram(lambda: configured(None), on_change=lambda: None)

    assert program.view() is None


async def test_the_lead_is_what_a_holder_needs_for_its_stop(tmp_path: Path) -> None:
    config = configured(script(tmp_path, "exit 0"))
    program = FenceProgram(lambda: config, on_change=lambda: None)

    view = program.view()

    assert view is not None
    assert view.lead_ms == config.timings.stop_ms + config.timings.margin_ms == 2_200
