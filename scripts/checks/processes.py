"""Runs one layer's command within its deadline and reads its result."""

import codecs
import contextlib
import os
import re
import select
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from checks.layers import Kind, Layer
from checks.leftovers import RUN_VARIABLE
from checks.outcome import Outcome

# How long an interrupted layer may take to clean up after itself.
GRACE_S: Final = 20.0
# How often a silent process is looked at.
LOOK_S: Final = 0.1
CHUNK_BYTES: Final = 65_536
_CARGO_RESULT: Final = re.compile(
    r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored"
)


def run_layer(layer: Layer, scratch: Path) -> Outcome:
    """Run ``layer`` and return what came of it."""
    code, output = _run(layer, scratch)
    outcome = _counted(layer, code, output)
    if code is None:
        return outcome.with_failure(f"not done after {layer.deadline_s} s")
    if code != 0 and outcome.failed == 0:
        return outcome.with_failure(f"{' '.join(layer.command)}: exit code {code}")
    if not (outcome.passed or outcome.failed or outcome.skipped):
        return replace(outcome, not_run="it held no tests")
    return outcome


def _run(layer: Layer, scratch: Path) -> tuple[int | None, str]:
    """Return exit code (None: too late) and output, which is shown meanwhile."""
    environment = {
        **os.environ,
        **layer.environment,
        "TMPDIR": str(scratch),
        RUN_VARIABLE: scratch.name,
    }
    process = subprocess.Popen(
        layer.command,
        env=environment,
        cwd="native" if layer.kind is Kind.CARGO else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        bufsize=0,
    )
    output: list[str] = []
    try:
        code = _watch(process, output, time.monotonic() + layer.deadline_s)
        return code, "".join(output)
    except BaseException:
        _end(process)
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


def _watch(
    process: "subprocess.Popen[bytes]", output: list[str], deadline: float
) -> int | None:
    """Show what ``process`` writes until it ends; return its code, None: too late.

    What it has left behind may hold the pipe open: its end is not waited for.
    """
    assert process.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        ended = process.poll() is not None
        readable, _, _ = select.select([process.stdout], [], [], 0 if ended else LOOK_S)
        chunk = os.read(process.stdout.fileno(), CHUNK_BYTES) if readable else b""
        if chunk:
            text = decoder.decode(chunk)
            output.append(text)
            print(text, end="", flush=True)
        elif ended:
            return process.returncode
        elif readable:
            # It closed its output and goes on.
            time.sleep(LOOK_S)
        if time.monotonic() >= deadline:
            _end(process)
            return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let the layer clean up, then end it and its process group."""
    for number, wait_s in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait_s)
            return


def _counted(layer: Layer, code: int | None, output: str) -> Outcome:
    match layer.kind:
        case Kind.COMMAND:
            return Outcome(name=layer.name, passed=int(code == 0))
        case Kind.CARGO:
            return _cargo_outcome(layer, output)
        case Kind.PYTEST:
            return _pytest_outcome(layer)


def _cargo_outcome(layer: Layer, output: str) -> Outcome:
    """Add up the result lines of all test programs."""
    results = [[int(n) for n in found] for found in _CARGO_RESULT.findall(output)]
    columns = zip(*results, strict=True) if results else ((), (), ())
    passed, failed, skipped = (sum(column) for column in columns)
    return Outcome(name=layer.name, passed=passed, failed=failed, skipped=skipped)


def _pytest_outcome(layer: Layer) -> Outcome:
    """Read the report that pytest wrote; it writes none when it was killed."""
    report = Path("test-results") / f"{layer.name}.xml"
    if not report.exists():
        return Outcome(name=layer.name)
    passed = failed = 0
    broke_promise = False
    details: list[str] = []
    skips: Counter[str] = Counter()
    # The file is pytest's own, written a moment ago.
    for case in ET.parse(report).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname')}::{case.get('name')}"
        problem = case.find("failure")
        if problem is None:
            problem = case.find("error")
        if problem is not None:
            failed += 1
            broke_promise |= "BrokenPromise" in problem.get("message", "")
            details.append(f"FAILED {name}")
        elif (skip := case.find("skipped")) is not None:
            skips[skip.get("message") or "no reason given"] += 1
        else:
            passed += 1
    details += [f"{count} skipped: {reason}" for reason, count in skips.items()]
    return Outcome(
        name=layer.name,
        passed=passed,
        failed=failed,
        skipped=skips.total(),
        broke_promise=broke_promise,
        details=tuple(details),
    )
