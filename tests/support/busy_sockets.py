"""A socket that is in use: some call has its lock, and whatever arrives has to queue.

The call is a send from memory that is not there yet. The kernel takes the socket's
lock, misses the page, and waits for userfaultfd(2) to bring it.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SYSCALL = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "ppc64le": 364}
# linux/userfaultfd.h
_API, _REGISTER, _ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04
_VERSION = 0xAA
_MISSING = 1
_MESSAGE_BYTES = 32
_WAIT_S = 10.0


@contextmanager
def in_use(connection: socket.socket) -> Iterator[None]:
    """Hold the lock of ``connection``; afterwards its peer gets one zero byte.

    Nobody else may ask the kernel about the socket meanwhile: they would wait.
    """
    faults = _userfaultfd()
    page = mmap.mmap(-1, mmap.PAGESIZE)
    start = ctypes.c_char.from_buffer(page)
    where = struct.pack("@QQ", ctypes.addressof(start), mmap.PAGESIZE)
    sending = threading.Thread(target=connection.send, args=(memoryview(page)[:1],))
    try:
        fcntl.ioctl(faults, _API, struct.pack("@QQQ", _VERSION, 0, 0))
        fcntl.ioctl(faults, _REGISTER, where + struct.pack("@QQ", _MISSING, 0))
        sending.start()
        missed, _, _ = select.select([faults], [], [], _WAIT_S)
        assert missed, "the send did not wait for its page"
        os.read(faults, _MESSAGE_BYTES)
        yield
    finally:
        fcntl.ioctl(faults, _ZEROPAGE, where + struct.pack("@Qq", 0, 0))
        sending.join(_WAIT_S)
        os.close(faults)
        del start


def _userfaultfd() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_SYSCALL[platform.machine()])
    descriptor: int = libc.syscall(number, ctypes.c_int(os.O_CLOEXEC | os.O_NONBLOCK))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "userfaultfd")
    return descriptor
