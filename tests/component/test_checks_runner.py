"""The runner of the checks tells what ran, what did not, and what was left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checks.layers import PLANS, Kind, Layer, layers_of
from checks.leftovers import RUN_VARIABLE, Leftovers, Process
from checks.outcome import Outcome, Totals
from checks.processes import run_layer

TESTS = Path(__file__).resolve().parents[1]
_PROMISE_TEST = """
from types import SimpleNamespace
from pgbastion.bench.lab.checker import ServerCheck
from support import promises

def test_it() -> None:
    lost = ServerCheck(server="n1", rows=1, lost=(7,), duplicated=(), never_written=())
    two = SimpleNamespace(violations=["n1 wrote in the time of n2"])
    {line}
"""


def layer(*command: str, deadline_s: int = 20, kind: Kind = Kind.COMMAND) -> Layer:
    return Layer(name="tried", kind=kind, command=command, deadline_s=deadline_s)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Give a directory whose name nobody else's run has."""
    path = tmp_path / f"pgb-run-{os.getpid()}-{tmp_path.name}"
    path.mkdir()
    return path


def test_a_command_that_succeeds_is_one_passed(scratch: Path) -> None:
    assert run_layer(layer("true"), scratch) == Outcome(name="tried", passed=1)


def test_a_command_that_fails_is_one_failed(scratch: Path) -> None:
    outcome = run_layer(layer("false"), scratch)

    assert (outcome.passed, outcome.failed) == (0, 1)


def test_a_layer_past_its_deadline_is_ended_and_failed(scratch: Path) -> None:
    outcome = run_layer(layer("sleep", "60", deadline_s=1), scratch)

    assert (outcome.passed, outcome.failed) == (0, 1)
    assert list(Leftovers(scratch).remove()) == []


@pytest.mark.parametrize(
    "script",
    ["setsid sleep 60 &", "cd {scratch} && env -i setsid sleep 60 &"],
    ids=["by its environment", "by its directory"],
)
def test_a_process_left_behind_is_named_and_ended(scratch: Path, script: str) -> None:
    run_layer(layer("sh", "-c", script.format(scratch=scratch)), scratch)

    first, second = Leftovers(scratch).remove(), Leftovers(scratch).remove()

    assert [line.partition(": ")[2] for line in first] == ["sleep 60"]
    assert second == []


def test_a_process_that_becomes_another_program_is_not_overlooked(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an instant it shows neither its environment nor its words."""
    there = Process(1, "sleep 60")
    looks = iter([[], [there]])
    seen = Leftovers(scratch)
    monkeypatch.setattr(seen, "_processes", lambda: next(looks))

    assert seen._look() == [there]


def test_other_peoples_processes_are_left_alone(scratch: Path) -> None:
    other = subprocess.Popen(
        ["sleep", "60"], env={**os.environ, RUN_VARIABLE: "pgb-run-another"}
    )
    try:
        assert Leftovers(scratch).remove() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_results_of_all_cargo_programs_are_added_up(scratch: Path) -> None:
    text = (
        "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\n"
        "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured\n"
    )

    outcome = run_layer(layer("printf", text, kind=Kind.CARGO), scratch)

    assert (outcome.passed, outcome.failed, outcome.skipped) == (5, 1, 1)


@pytest.mark.parametrize(
    ("line", "broke"),
    [
        ("promises.nothing_lost({'n1': lost})", True),
        ("promises.one_writer(two)", True),
        ("assert not lost.lost", False),
    ],
)
def test_a_broken_promise_is_told_from_another_failure(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, line: str, *, broke: bool
) -> None:
    monkeypatch.chdir(scratch)
    (scratch / "test_it.py").write_text(_PROMISE_TEST.format(line=line))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    report = ("--junit-xml=test-results/tried.xml", "-p", "no:cacheprovider")

    outcome = run_layer(
        layer(sys.executable, "-m", "pytest", *report, ".", kind=Kind.PYTEST), scratch
    )

    assert (outcome.failed, outcome.broke_promise) == (1, broke), outcome


def test_a_layer_that_held_no_tests_did_not_run(scratch: Path) -> None:
    text = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured\n"

    outcome = run_layer(layer("printf", text, kind=Kind.CARGO), scratch)

    assert outcome.not_run == "it held no tests"


def test_a_layer_that_did_not_run_is_never_passed() -> None:
    outcomes = [
        Outcome(name="a", passed=2, skipped=1),
        Outcome(name="b", not_run="no root"),
    ]

    assert Totals.of(outcomes) == (2, 0, 2)
    assert outcomes[1].line() == "b            not run: no root"


def test_a_layer_without_tests_says_so() -> None:
    need = layer("true", kind=Kind.PYTEST)

    assert need.cannot_run() is None
    names = {found.name for found in layers_of("test")}
    assert {"native", "unit", "sim", "postgres", "netns"} <= names


def test_every_plan_has_layers() -> None:
    assert all(list(layers_of(plan)) for plan in PLANS)


def test_a_pipeline_whose_layers_all_hang_ends_in_three_quarters_of_an_hour() -> None:
    lint = {"ruff", "format", "mypy", "imports", "sizes", "documents"}
    tests = [found for found in layers_of("test") if found.name not in lint]

    assert sum(found.deadline_s for found in tests) <= 45 * 60


def test_an_interrupt_ends_the_layer_and_the_run_says_so(tmp_path: Path) -> None:
    """What a pipeline that is cancelled sends is SIGTERM."""
    program = (
        "import os, signal, sys, threading\n"
        "sys.argv = ['run_checks.py', 'lint']\n"
        "import run_checks\n"
        "from checks.layers import Kind, Layer\n"
        "run_checks.layers_of = lambda plan: [Layer(name='slow', kind=Kind.COMMAND,"
        " command=('sleep', '60'), deadline_s=50)]\n"
        f"run_checks.ROOT = __import__('pathlib').Path({str(tmp_path)!r})\n"
        "threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "sys.exit(run_checks.main())\n"
    )
    scripts = Path(__file__).resolve().parents[2] / "scripts"

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
        env={**os.environ, "PYTHONPATH": str(scripts), "TMPDIR": str(tmp_path)},
    )

    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"
    assert list(tmp_path.glob("pgb-run-*")) == []
