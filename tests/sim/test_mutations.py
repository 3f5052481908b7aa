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
from support.mutations import MUTATIONS, Mutation


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_rule_that_is_left_out_breaks_a_promise(
    mutation: Mutation, tmp_path: Path
) -> None:
    original = Path(pgbastion.__file__).parent
    copy = tmp_path / "pgbastion"
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    mutation.apply(copy)

    played = subprocess.run(
        [sys.executable, "-m", "pgbastion.testing.sim", "--script", mutation.script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    said = played.stdout.splitlines()[-1] if played.stdout else played.stderr
    assert said.startswith(f"{mutation.script}: {mutation.promise}: "), played.stderr
    assert played.returncode == 1
