"""What a newcomer meets first: missing prerequisites, and the build's own version."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Machine = Callable[..., "subprocess.CompletedProcess[str]"]

PYTHON = '#!/bin/sh\ncase "$*" in *ensurepip*) exit {venv};; *) exit {new};; esac\n'
CARGO = "#!/bin/sh\necho 'cargo {version} (0000000 2026-01-01)'\n"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give a machine that has only the programs that it is told to have."""

    def look(**programs: str) -> "subprocess.CompletedProcess[str]":
        for tool in ("sh", "cut"):
            found = shutil.which(tool)
            assert found is not None
            (tmp_path / tool).symlink_to(found)
        for name, text in programs.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        return subprocess.run(
            [ROOT / "scripts" / "prerequisites", "python", "1.85"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={"PATH": str(tmp_path)},
        )

    return look


GOOD = {
    "python": PYTHON.format(venv=0, new=0),
    "cargo": CARGO.format(version="1.85.0"),
    "cc": "#!/bin/sh\n",
}


def test_a_machine_with_everything_is_fine(machine: Machine) -> None:
    done = machine(**GOOD)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", ["1.100.0", "2.0.0", "1.85.1-nightly"])
def test_newer_cargos_are_fine(machine: Machine, version: str) -> None:
    assert machine(**GOOD | {"cargo": CARGO.format(version=version)}).returncode == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"python": None}, "Python 3.11 or newer"),
        ({"python": PYTHON.format(venv=0, new=1)}, "Python 3.11 or newer"),
        ({"python": PYTHON.format(venv=1, new=0)}, "the venv module"),
        ({"cargo": None}, "cargo 1.85 or newer"),
        ({"cargo": CARGO.format(version="1.63.0")}, "cargo is 1.63.0"),
        ({"cc": None}, "a C compiler"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    machine: Machine, changed: dict[str, str | None], message: str
) -> None:
    programs = {n: t for n, t in (GOOD | changed).items() if t is not None}

    done = machine(**programs)

    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("missing: ") == 1
    assert "    install: " in done.stderr


def test_everything_that_is_missing_is_named_at_once(machine: Machine) -> None:
    assert machine().stderr.count("missing: ") == 3


def test_the_builds_version_is_what_was_asked_for(tmp_path: Path) -> None:
    """The same text twice leaves the file as it is: nothing is built again."""
    for folder in ("scripts", "src/pgbastion", "native"):
        (tmp_path / folder).mkdir(parents=True)
    script = tmp_path / "scripts" / "write_build_info.py"
    shutil.copy(ROOT / "scripts" / "write_build_info.py", script)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "native" / "Cargo.lock").write_text(
        'version = 4\n[[package]]\nname = "raft"\nversion = "0.7.9"\n'
    )

    def build(version: str) -> tuple[str, int]:
        subprocess.run([sys.executable, script, version], check=True, timeout=20)
        path = tmp_path / "src" / "pgbastion" / "_build.py"
        return path.read_text(), path.stat().st_mtime_ns

    first, again, other = build("1.2.3"), build("1.2.3"), build("")

    assert 'VERSION = "1.2.3"' in first[0]
    assert 'ENGINE = "raft 0.7.9"' in first[0]
    assert first == again
    assert 'VERSION = "0.' in other[0]


def test_the_lock_files_name_no_registry_and_have_hashes() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text
        assert "index-url" not in text
        packages = [line for line in text.splitlines() if "==" in line]
        assert len(packages) > 10
        assert all(line.endswith("\\") for line in packages), os.fspath(path)
