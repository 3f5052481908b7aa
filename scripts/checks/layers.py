"""The layers of checks, in order, and what each needs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Final

BIN: Final = Path(sys.executable).parent
FULL_VARIABLE: Final = "PGBASTION_TEST_FULL"
_SECOND_LOOK: Final = frozenset({"component", "postgres", "netns"})


class Kind(Enum):
    """How a layer's output is read."""

    COMMAND = "command"
    """One check: its exit code."""
    CARGO = "cargo"
    PYTEST = "pytest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One group of checks."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    deadline_s: int
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[Callable[[], str | None], ...] = ()
    """Each answers why the layer cannot run here, or None."""

    def again(self) -> "Layer | None":
        """Return the layer with the tests that have just failed; None: it has no such.

        For layers whose tests wait on processes and sockets. A broken promise gets no
        second look in any layer (`Outcome.may_be_unsteady`).
        """
        if self.name not in _SECOND_LOOK:
            return None
        old = f"test-results/{self.name}.xml"
        new = f"test-results/{self.name}-again.xml"
        command = tuple(word.replace(old, new) for word in self.command)
        return replace(
            self,
            name=f"{self.name}-again",
            command=(*command, "--last-failed", "--lfnf=none"),
        )

    def cannot_run(self) -> str | None:
        """Return why this layer cannot run here; None: it can."""
        return next((reason for need in self.needs if (reason := need())), None)


PLANS: Final = {
    "lint": ("lint",),
    "quick": ("lint", "unit", "scenarios"),
    "test": (
        "lint",
        "native",
        "unit",
        "scenarios",
        "sim",
        "component",
        "postgres",
        "netns",
    ),
    "full": (
        "lint",
        "native",
        "fuzz",
        "fuzz-proxy",
        "unit",
        "scenarios",
        "sim",
        "component",
        "portable",
        "postgres",
        "netns",
        "chaos",
    ),
}
# Seconds on two cores; `full` has ten times as much. These end what hangs, and leave
# room for a busy machine; a quiet one needs about half of them, which is the promise
# of 30 minutes together.
LINT_S: Final = 90
NATIVE_S: Final = 210
_DEADLINES_S: Final = {
    "unit": 120,
    "scenarios": 30,
    "sim": 400,
    "component": 380,
    "postgres": 660,
    "netns": 900,
    "chaos": 600,
}
FUZZ_S: Final = 600
"""For each decoder; a fuzzer has six at most (scripts/fuzz, scripts/fuzz-proxy)."""
FUZZ_ALL_S: Final = 4_500
FULL_FACTOR: Final = 10
ENGINE_SEEDS_FULL: Final = 10_000
"""Of the simulation of engine and log (native/engine/tests/chaos.rs)."""


def layers_of(plan: str) -> Iterator[Layer]:
    """Yield the layers of ``plan`` in order."""
    for name in PLANS[plan]:
        if name == "lint":
            yield from _lint()
        elif name == "native":
            yield from _native(full=plan == "full")
        elif name in _FUZZERS:
            yield _fuzz(name)
        elif name == "portable":
            yield _portable()
        else:
            yield _tests(name, full=plan == "full")


def _lint() -> Iterator[Layer]:
    commands = {
        "ruff": ("ruff", "check", "."),
        "format": ("ruff", "format", "--check", "."),
        "mypy": ("mypy",),
        "imports": ("lint-imports", "--no-logo"),
        "sizes": ("python", "scripts/check_sizes.py"),
        "documents": ("python", "scripts/generate_documents.py", "--check"),
    }
    for name, (program, *arguments) in commands.items():
        yield Layer(
            name=name,
            kind=Kind.COMMAND,
            command=(str(BIN / program), *arguments),
            deadline_s=LINT_S,
        )


def _native(*, full: bool) -> Iterator[Layer]:
    yield Layer(
        name="native",
        kind=Kind.CARGO,
        command=("cargo", "test", "--workspace", "--locked", "--quiet"),
        deadline_s=NATIVE_S * (FULL_FACTOR if full else 1),
        environment={
            "CARGO_TERM_COLOR": "never",
            **({"PGBASTION_SEEDS": str(ENGINE_SEEDS_FULL)} if full else {}),
        },
        needs=(_has("native", "the native crates are not in this tree"), _cargo),
    )


def _fuzz(name: str) -> Layer:
    """Return the layer of a fuzzer: the engine's in Rust, the proxy's in Python."""
    return Layer(
        name=name,
        kind=Kind.CARGO,
        command=(f"../scripts/{name}", str(FUZZ_S)),
        deadline_s=FUZZ_ALL_S,
        environment={"CARGO_TERM_COLOR": "never"},
        needs=_FUZZERS[name],
    )


def _portable() -> Layer:
    """Return the guard's tests once more, on the platform that Linux is not."""
    usual = _tests("component", full=True)
    old, new = "component.xml", "portable.xml"
    guards = sorted(str(path) for path in Path("tests/component").glob("test_guard_*"))
    at = usual.command.index("tests/component")
    command = (*usual.command[:at], *guards, *usual.command[at + 1 :])
    return replace(
        usual,
        name="portable",
        command=tuple(word.replace(old, new) for word in command),
        environment={**usual.environment, "PGBASTION_PLATFORM": "portable"},
    )


def _tests(name: str, *, full: bool) -> Layer:
    folder = f"tests/{name}"
    return Layer(
        name=name,
        kind=Kind.PYTEST,
        command=(
            *_wrapper(name),
            str(BIN / "python"),
            "-m",
            "pytest",
            folder,
            "--quiet",
            "-rfE",
            f"--junit-xml=test-results/{name}.xml",
        ),
        deadline_s=_DEADLINES_S[name] * (FULL_FACTOR if full else 1),
        environment={FULL_VARIABLE: "1"} if full else {},
        needs=(_has_tests(folder), *_NEEDS.get(name, ())),
    )


def _has(path: str, reason: str) -> Callable[[], str | None]:
    return lambda: None if Path(path).exists() else reason


def _has_tests(folder: str) -> Callable[[], str | None]:
    def need() -> str | None:
        found = any(Path(folder).rglob("test_*.py"))
        return None if found else f"there are no tests in {folder}"

    return need


def _cargo() -> str | None:
    return None if shutil.which("cargo") else "cargo is not installed"


def _cpp() -> str | None:
    return None if shutil.which("c++") else "a C++ compiler is missing (package g++)"


def _namespaces() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the program ip is missing (package iproute2)"
    return _refused_namespaces("--net", "--mount")


def _refused_namespaces(*kinds: str) -> str | None:
    """Return why this machine gives us no namespaces of ``kinds``; None: it does."""
    tried = subprocess.run(
        ["unshare", *kinds, "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        return f"this machine allows no namespaces: {tried.stderr.strip()}"
    return None


def _wrapper(name: str) -> tuple[str, ...]:
    """Return what gives a layer with servers or namespaces mounts of its own."""
    if name not in _WITH_SERVERS or os.geteuid() != 0:
        return ()
    private = _refused_namespaces("--mount") is None
    return ("scripts/in_private_mounts",) if private else ()


_FUZZERS: Final = {
    "fuzz": (_has("native", "the native crates are not in this tree"), _cargo, _cpp),
    "fuzz-proxy": (),
}
_WITH_SERVERS: Final = frozenset({"component", "postgres", "netns", "chaos"})
_NEEDS: Final = {"netns": (_namespaces,), "chaos": (_namespaces,)}
