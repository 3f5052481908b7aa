"""Run PostgreSQL's programs: as ``os_user``, without capabilities, under a deadline."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pgbastion.errors import PostgresError
from pgbastion.postgres.layout import Account, PgPaths
from pgbastion.postgres.parse import ServerVersion, parse_version

# What a program may leave in memory; of a longer output the end is kept.
OUTPUT_MAX_BYTES: Final = 1 << 20
# How much of the output an error message shows.
SHOWN_CHARACTERS: Final = 600
CHUNK_BYTES: Final = 1 << 16
VERSION_DEADLINE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a program wrote; the ends, where it wrote a lot."""

    stdout: str
    stderr: str


class ProgramError(PostgresError):
    """A program ended with an error or was ended at its deadline."""

    def __init__(self, message: str, *, output: Output, timed_out: bool) -> None:
        super().__init__(message)
        self.output = output
        self.timed_out = timed_out


Listener = Callable[[str], None]


class Programs:
    """Runs programs for one account."""

    def __init__(self, paths: PgPaths) -> None:
        self._paths = paths

    async def run(
        self,
        name: str,
        *args: str,
        deadline_s: float,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        on_error_text: Listener | None = None,
        keep_bytes: int = OUTPUT_MAX_BYTES,
        line_bytes: int = OUTPUT_MAX_BYTES,
    ) -> Output:
        """Run a program of ``bin_dir`` and return what it wrote.

        Args:
            name: The program's name.
            *args: Its arguments; never a secret, they can be read by everybody.
            deadline_s: When it is killed, with everything it started.
            stdin: What it reads.
            env: Variables besides the fixed ones.
            on_error_text: Is told of each piece of its standard error.
            keep_bytes: How much of the end of each output is kept.
            line_bytes: How much of the beginning of each line of its standard output.

        Raises:
            ProgramError: It failed or was not done in time.
            PostgresError: It cannot be started.
        """
        path = self._paths.program(name)
        process = await self._start([str(path), *args], env or {})
        tails = (
            _Tail(keep_bytes, line_bytes=line_bytes),
            _Tail(keep_bytes, on_error_text),
        )
        timed_out = False
        try:
            async with asyncio.timeout(deadline_s):
                await _converse(process, stdin, tails)
        except TimeoutError:
            timed_out = True
        finally:
            await _end(process)
        output = Output(stdout=tails[0].text(), stderr=tails[1].text())
        if timed_out:
            message = f"{name} was not done after {deadline_s:g} s"
            raise ProgramError(message, output=output, timed_out=True)
        if process.returncode != 0:
            said = (output.stderr.strip() or output.stdout.strip())[-SHOWN_CHARACTERS:]
            message = f"{name} failed ({_describe(process.returncode)}): {said}"
            raise ProgramError(message, output=output, timed_out=False)
        return output

    async def version(self) -> ServerVersion:
        """Return the version of the programs in ``bin_dir``."""
        output = await self.run("postgres", "--version", deadline_s=VERSION_DEADLINE_S)
        return parse_version(output.stdout)

    async def setting(self, name: str) -> str:
        """Return a setting as the stopped server would start with it."""
        output = await self.run(
            "postgres",
            *self._paths.server_options(),
            "-C",
            name,
            deadline_s=VERSION_DEADLINE_S,
        )
        return output.stdout.strip()

    async def _start(
        self, command: list[str], env: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        account = self._paths.account
        try:
            return await asyncio.create_subprocess_exec(
                *unprivileged(account),
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**fixed_environment(account), **env},
                cwd="/",
                start_new_session=True,
            )
        except OSError as exc:
            raise PostgresError(f"cannot start {command[0]}: {exc}") from exc


def unprivileged(account: Account) -> tuple[str, ...]:
    """Return the words before a command that give it the account and nothing else.

    The parent-death signal ends a program whose daemon died: the next daemon must not
    find a rewind of the last one still at work.
    """
    user: tuple[str, ...] = ()
    if account.is_other:
        user = (
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            "--init-groups",
        )
    return (
        "setpriv",
        *user,
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--no-new-privs",
        "--pdeathsig=KILL",
        "--",
    )


def fixed_environment(account: Account) -> dict[str, str]:
    """Return every program's variables: no translations, no defaults of libpq."""
    kept = {k: v for k in ("PATH", "LD_LIBRARY_PATH", "TZ") if (v := os.environ.get(k))}
    return {
        "PATH": os.defpath,
        **kept,
        "LC_ALL": "C",
        "LANG": "C",
        "HOME": "/",
        "USER": account.name,
        "PGSYSCONFDIR": "/nonexistent",
        "PGPASSFILE": "/nonexistent",
    }


class _Tail:
    """The last bytes of an output."""

    def __init__(
        self,
        keep_bytes: int,
        listener: Listener | None = None,
        *,
        line_bytes: int = OUTPUT_MAX_BYTES,
    ) -> None:
        self._keep_bytes = keep_bytes
        self._listener = listener
        self._line_bytes = self._line_left = line_bytes
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        begun, *others = chunk.split(b"\n")
        self._bytes += begun[: self._line_left]
        self._line_left = max(self._line_left - len(begun), 0)
        for line in others:
            self._bytes += b"\n"
            self._bytes += line[: self._line_bytes]
            self._line_left = max(self._line_bytes - len(line), 0)
        if len(self._bytes) > 2 * self._keep_bytes:
            del self._bytes[: -self._keep_bytes]
        if self._listener is not None:
            self._listener(chunk.decode(errors="replace"))

    def text(self) -> str:
        return bytes(self._bytes[-self._keep_bytes :]).decode(errors="replace")


async def _converse(
    process: asyncio.subprocess.Process, stdin: str, tails: tuple[_Tail, _Tail]
) -> None:
    assert process.stdin and process.stdout and process.stderr  # noqa: PT018
    await asyncio.gather(
        _feed(process.stdin, stdin),
        _collect(process.stdout, tails[0]),
        _collect(process.stderr, tails[1]),
    )
    await process.wait()


async def _feed(stream: asyncio.StreamWriter, text: str) -> None:
    # RuntimeError: uvloop's word for a pipe whose reader has ended already.
    with suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        stream.write(text.encode())
        await stream.drain()
    with suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        stream.close()
        await stream.wait_closed()


async def _collect(stream: asyncio.StreamReader, tail: _Tail) -> None:
    while chunk := await stream.read(CHUNK_BYTES):
        tail.add(chunk)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the program's whole session; a no-op where it has ended by itself.

    It leads a process group of its own, which also holds what it started. One that
    hangs in the kernel is left to asyncio's child watcher.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await process.wait()


def _describe(returncode: int | None) -> str:
    if returncode is None:
        return "it does not end"
    if returncode < 0:
        return f"signal {-returncode}"
    return f"exit code {returncode}"
