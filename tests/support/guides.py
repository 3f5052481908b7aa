"""The guides' blocks, and a shell that runs those marked for it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDES = (
    "INSTALL.md",
    "OPERATIONS.md",
    "docs/tutorial/first-cluster.md",
    "docs/howto/backup-and-restore.md",
    "docs/howto/migrate-from-patroni.md",
    "docs/howto/replace-a-node.md",
    "docs/howto/switch-over.md",
)
_BLOCK = re.compile(r"^```sh(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(guide: str, mark: str | None = None) -> list[str]:
    """Return a guide's shell blocks: all, or those with this mark."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    return [
        body
        for info, body in _BLOCK.findall(text)
        if mark is None or info.strip() == mark
    ]


def environment(bin_dir: Path, **more: str) -> dict[str, str]:
    """Return what an operator's shell has: our program, PostgreSQL's, and no more."""
    usual = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PGB"))}
    path = f"{Path(sys.executable).parent}:{bin_dir}:{os.environ['PATH']}"
    return {**usual, "PATH": path, **more}


def run_blocks(
    scripts: list[str], env: Mapping[str, str], *, prefix: list[str] | None = None
) -> str:
    """Run blocks one after the other in one shell; return what they said.

    Raises:
        AssertionError: One of their commands failed.
    """
    assert scripts, "the guide has no such block"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [*(prefix or []), bash, "-euxo", "pipefail", "-c", "\n".join(scripts)],
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
