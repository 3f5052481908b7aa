"""Runs an operator's program: a process of its own with a time limit.

It gets what it needs to find other programs, and nothing that may be a secret. Its
whole session is ended with it, so that nothing of it outlives its time.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

OUTPUT_BYTES: Final = 500
_PASSED_ON: Final = ("PATH", "LANG", "TZ", "HOME")


async def run_program(
    program: Path,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    limit_s: float,
) -> str | None:
    """Run a program once; return what went wrong, None: exit code 0 in time."""
    own = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**own, **environment},
            cwd="/",
            start_new_session=True,
        )
    except OSError as exc:
        return f"{program} cannot be started: {exc.strerror}"
    try:
        async with asyncio.timeout(limit_s):
            said, _ = await process.communicate()
    except TimeoutError:
        return f"it did not end within {limit_s:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode == 0:
        return None
    text = said[:OUTPUT_BYTES].decode(errors="replace").strip()
    return f"exit code {process.returncode}: {text}"
