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
CHUNK_BYTES: Final = 1 << 16
LAST_WORDS_S: Final = 0.1
"""How long its last words are waited for; they come with its end."""
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
    ours, theirs = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=asyncio.subprocess.STDOUT,
            env={**own, **environment},
            cwd="/",
            start_new_session=True,
        )
    except OSError as exc:
        os.close(ours)
        return f"{program} cannot be started: {exc.strerror}"
    finally:
        os.close(theirs)
    said = bytearray()
    listening = asyncio.create_task(_listen(ours, said))
    try:
        async with asyncio.timeout(limit_s):
            # Not for the end of what it says: what it leaves behind may hold that open.
            await process.wait()
    except TimeoutError:
        return f"it did not end within {limit_s:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await asyncio.wait({listening}, timeout=LAST_WORDS_S)
        listening.cancel()
    if process.returncode == 0:
        return None
    text = said.decode(errors="replace").strip()
    return f"exit code {process.returncode}: {text}"


async def _listen(pipe: int, said: bytearray) -> None:
    """Keep the beginning of what a program says, and read the rest away."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb")
    )
    try:
        while chunk := await stream.read(CHUNK_BYTES):
            said += chunk[: OUTPUT_BYTES - len(said)]
    finally:
        transport.close()
