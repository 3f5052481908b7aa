"""Each deliberate mutation breaks the promise that is named for it.

The unchanged source passes the same scripts: see test_scripts.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pgbastion
from support.mutations import MUTATIONS, NATIVE_MUTATIONS, Mutation

FULL = bool(os.environ.get("PGBASTION_TEST_FULL"))
# A race between two instants is hit by chance: a rule that is missing loses some.
TRIES = 40
PACKAGE = Path(pgbastion.__file__).parent
NATIVE = Path(__file__).parents[2] / "native"


def copy_package(folder: Path) -> Path:
    """Copy the package into this folder; return where it is."""
    copy = folder / "pgbastion"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def check_that_it_breaks(mutation: Mutation, folder: Path) -> None:
    """Play the mutation's script on the copy in this folder."""
    played = subprocess.run(
        [
            *(sys.executable, "-m", "pgbastion.testing.sim"),
            *("--script", mutation.script, "--tries", str(TRIES)),
        ],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    said = played.stdout.splitlines()[-1] if played.stdout else played.stderr
    assert said.startswith(f"{mutation.script}: {mutation.promise}: "), played.stderr
    assert played.returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_rule_that_is_left_out_breaks_a_promise(
    mutation: Mutation, tmp_path: Path
) -> None:
    mutation.apply(copy_package(tmp_path))

    check_that_it_breaks(mutation, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not FULL, reason="each needs a build of the engine: test-full")
@pytest.mark.parametrize("mutation", NATIVE_MUTATIONS, ids=lambda m: m.name)
def test_a_rule_of_the_engine_that_is_left_out_breaks_a_promise(
    mutation: Mutation, tmp_path: Path
) -> None:
    native = tmp_path / "native"
    shutil.copytree(NATIVE, native, ignore=shutil.ignore_patterns("target"))
    mutation.apply(native)
    features = ("--features", "python,pyo3/extension-module")
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet", *features],
        cwd=native / "engine",
        env={**os.environ, "CARGO_TARGET_DIR": str(tmp_path / "target")},
        check=True,
    )
    extension = copy_package(tmp_path) / "consensus" / "_engine.abi3.so"
    shutil.copy(tmp_path / "target" / "release" / "lib_engine.so", extension)

    check_that_it_breaks(mutation, tmp_path)
