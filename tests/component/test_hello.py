"""What a postmaster says to a new connection, and what says nothing of it."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pgbastion.postgres.connection import Address
from pgbastion.postgres.hello import Hello, hello, knock

pytestmark = pytest.mark.anyio

NO_FORK = b"Ecould not fork new process for connection: Cannot allocate memory\n\0"


def address(directory: Path) -> Address:
    return Address(host=str(directory), port=5442, user="postgres", password="")


@asynccontextmanager
async def answering(directory: Path, answer: bytes) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, directory / ".s.PGSQL.5442")
    async with server:
        yield


async def test_a_postmaster_that_cannot_fork_is_alive_with_a_reason(
    tmp_path: Path,
) -> None:
    """Rule 76: it says so as protocol 2 did, without a length and a SQLSTATE."""
    async with answering(tmp_path, NO_FORK):
        answer = await hello(address(tmp_path), deadline_s=5)
    assert answer == Hello(
        sqlstate="53000",
        message="could not fork new process for connection: Cannot allocate memory",
    )


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E" * 20])
async def test_what_no_server_says_is_no_answer(tmp_path: Path, said: bytes) -> None:
    async with answering(tmp_path, said):
        assert await hello(address(tmp_path), deadline_s=5) is None


async def test_a_socket_that_is_not_there_is_told_from_silence(tmp_path: Path) -> None:
    assert await hello(address(tmp_path), deadline_s=5) is None
    with pytest.raises(FileNotFoundError):
        await knock(address(tmp_path), deadline_s=5)


async def test_a_daemon_without_a_descriptor_has_asked_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that a whole machine may have open can run out."""

    async def refuse(_: Path) -> None:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(asyncio, "open_unix_connection", refuse)
    with pytest.raises(OSError, match="Too many"):
        await knock(address(tmp_path), deadline_s=5)
    assert await hello(address(tmp_path), deadline_s=5) is None
