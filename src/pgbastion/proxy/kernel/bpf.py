"""The system call bpf(2): maps, programs, and a map that is shared memory.

Source: bpf(2); linux/bpf.h, union bpf_attr.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import re
import struct
import sys
from enum import IntEnum
from typing import Final

from pgbastion.errors import ProxyError

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}
# A log that does not fit makes the load fail; it has a line for each instruction.
_LOG_BYTES: Final = 1 << 21
_LOADS_MAX: Final = 10
_MMAPABLE: Final = 1 << 10
_ANY: Final = 0


# Before this a program that cuts bytes off a piece may bring the kernel down: it held
# the piece twice meanwhile ("bpf, sockmap: Fix panic when calling skb_linearize").
_CUTTING_SINCE: Final = (6, 16)


class Command(IntEnum):
    """What bpf(2) is asked for."""

    MAP_CREATE = 0
    MAP_UPDATE = 2
    MAP_DELETE = 3
    PROG_LOAD = 5
    PROG_ATTACH = 8


class MapType(IntEnum):
    """The kinds of maps in use here."""

    HASH = 1
    ARRAY = 2
    SOCKHASH = 18
    RINGBUF = 27


_PROGRAM_SK_SKB: Final = 14
_ATTACH_STREAM_VERDICT: Final = 5

_KEY_VALUE: Final = struct.Struct("@I4xQQQ")
_MAP_CREATE: Final = struct.Struct("@IIIII")
_ATTACH: Final = struct.Struct("@IIII")
_LOAD: Final = struct.Struct("@IIQQIIQ")


def _bpf(command: Command, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"bpf(2) on {platform.machine()} is not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_int(command),
        ctypes.c_char_p(attributes),
        ctypes.c_uint(len(attributes)),
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({command.name}): {os.strerror(code)}")
    return result


class Map:
    """One map; keys and values are bytes of the sizes given."""

    def __init__(
        self,
        kind: MapType,
        *,
        key_bytes: int,
        value_bytes: int,
        entries: int,
        flags: int = 0,
    ) -> None:
        """Create the map.

        Raises:
            OSError: The kernel refused; EPERM where CAP_BPF is missing.
        """
        self.fd = _bpf(
            Command.MAP_CREATE,
            _MAP_CREATE.pack(kind, key_bytes, value_bytes, entries, flags),
        )

    def update(self, key: bytes, value: bytes) -> None:
        """Put ``value`` under ``key``."""
        key_buffer = ctypes.create_string_buffer(key, len(key))
        value_buffer = ctypes.create_string_buffer(value, len(value))
        addresses = ctypes.addressof(key_buffer), ctypes.addressof(value_buffer)
        _bpf(Command.MAP_UPDATE, _KEY_VALUE.pack(self.fd, *addresses, _ANY))

    def delete(self, key: bytes) -> None:
        """Remove ``key``.

        Raises:
            FileNotFoundError: It is not there.
        """
        buffer = ctypes.create_string_buffer(key, len(key))
        address = ctypes.addressof(buffer)
        _bpf(Command.MAP_DELETE, _KEY_VALUE.pack(self.fd, address, 0, 0))

    def close(self) -> None:
        """Give the map up; the kernel keeps it while a program uses it."""
        os.close(self.fd)


class SharedWords:
    """An array map that is mapped into this process: 64-bit words, no system calls.

    Aligned words are read and written whole on every machine in `_SYSCALL`.
    """

    def __init__(self, entries: int, words_per_entry: int) -> None:
        self.map = Map(
            MapType.ARRAY,
            key_bytes=4,
            value_bytes=8 * words_per_entry,
            entries=entries,
            flags=_MMAPABLE,
        )
        try:
            self._memory = mmap.mmap(self.map.fd, entries * words_per_entry * 8)
        except OSError:
            self.map.close()
            raise
        self.words = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        """Unmap it and give the map up."""
        self.words.release()
        self._memory.close()
        self.map.close()


class Ring:
    """A map that takes 64-bit numbers from programs, for this process to read.

    Its descriptor is readable while there are any.

    Source: Linux documentation, "BPF ring buffer".
    """

    # Each number follows a header: its length, with this bit while it is written.
    _BYTES_A_NUMBER: Final = 16
    _BUSY: Final = 1 << 31

    def __init__(self, numbers_max: int) -> None:
        """Create it for at least ``numbers_max`` numbers that were not read yet."""
        page = mmap.PAGESIZE
        size = page
        while size < numbers_max * self._BYTES_A_NUMBER:
            size *= 2
        self._size = size
        self.map = Map(MapType.RINGBUF, key_bytes=0, value_bytes=0, entries=size)
        try:
            # First our position, then the programs' one, then the numbers, twice.
            self._own = mmap.mmap(self.map.fd, page)
            self._theirs = mmap.mmap(
                self.map.fd, page + 2 * size, prot=mmap.PROT_READ, offset=page
            )
        except OSError:
            self.map.close()
            raise
        self._position = memoryview(self._own).cast("Q")
        self._words = memoryview(self._theirs).cast("Q")

    def read(self) -> list[int]:
        """Return the numbers that came since the last time."""
        numbers = []
        first = mmap.PAGESIZE // 8
        at, end = self._position[0], self._words[0]
        while at < end:
            place = first + at % self._size // 8
            if self._words[place] & self._BUSY:
                break
            numbers.append(self._words[place + 1])
            at += self._BYTES_A_NUMBER
        self._position[0] = at
        return numbers

    def close(self) -> None:
        """Unmap it and give the map up."""
        self._position.release()
        self._words.release()
        self._own.close()
        self._theirs.close()
        self.map.close()


def may_cut_pieces() -> bool:
    """Tell whether this kernel lets programs cut bytes off a piece safely."""
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return numbers is not None and (
        (int(numbers[1]), int(numbers[2])) >= _CUTTING_SINCE
    )


def load_verdict_program(instructions: bytes) -> int:
    """Load a program of type SK_SKB; return its descriptor.

    Raises:
        ProxyError: The kernel's verifier refused it; the message ends with its log.
    """
    log = ctypes.create_string_buffer(_LOG_BYTES)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    # No helper in use is reserved for programs under the GPL.
    licence = ctypes.create_string_buffer(b"MIT")
    attributes = _LOAD.pack(
        _PROGRAM_SK_SKB,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        1,
        _LOG_BYTES,
        ctypes.addressof(log),
    )
    try:
        for _ in range(_LOADS_MAX):
            # The verifier gives way to anything that wants this thread's attention.
            with contextlib.suppress(BlockingIOError):
                return _bpf(Command.PROG_LOAD, attributes)
    except OSError as exc:
        lines = log.value.decode(errors="replace").splitlines()
        raise ProxyError(f"the kernel refuses the program: {lines[-3:]}") from exc
    raise ProxyError("the kernel's verifier was interrupted again and again")


def attach_verdict_program(program_fd: int, sockets: Map) -> None:
    """Let the program judge what arrives at any socket in ``sockets``."""
    attributes = _ATTACH.pack(sockets.fd, program_fd, _ATTACH_STREAM_VERDICT, 0)
    _bpf(Command.PROG_ATTACH, attributes)
