"""Runs one layer's command within its deadline and reads its result."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Final

from checks.layers import Kind, Layer
from checks.leftovers import RUN_VARIABLE
from checks.outcome import Outcome

# How long an interrupted layer may take to clean up after itself.
GRACE_S: Final = 20.0
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
    return outcome


def _run(layer: Layer, scratch: Path) -> tuple[int | None, str]:
    """Return exit code (None: too late) and output, which is shown meanwhile."""
    environment = {
        **os.environ,
        **layer.environment,
        "TMPDIR": str(scratch),
        RUN_VARIABLE: scratch.name,
    }
    with subprocess.Popen(
        layer.command,
        env=environment,
        cwd="native" if layer.kind is Kind.CARGO else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        lines: list[str] = []
        reader = threading.Thread(target=_copy, args=(process, lines), daemon=True)
        reader.start()
        try:
            code: int | None = process.wait(timeout=layer.deadline_s)
        except subprocess.TimeoutExpired:
            _end(process)
            code = None
        except BaseException:
            _end(process)
            raise
        # A process that was left behind may hold the pipe open: do not wait for it.
        reader.join(timeout=5)
        return code, "".join(lines)


def _copy(process: "subprocess.Popen[str]", lines: list[str]) -> None:
    if process.stdout is None:
        return
    with contextlib.suppress(ValueError):
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)


def _end(process: "subprocess.Popen[str]") -> None:
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
    details: list[str] = []
    skips: Counter[str] = Counter()
    # The file is pytest's own, written a moment ago.
    for case in ET.parse(report).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
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
        details=tuple(details),
    )
