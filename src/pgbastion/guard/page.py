"""The page that daemon, engine and guard share: one writer a word.

Words are native signed integers of eight bytes at offsets that are multiples of eight,
read and written whole: a `memoryview` cast to ``q`` moves each with one instruction,
where `struct.pack_into` would write zeroes first and let a reader see half a value.
The file belongs on tmpfs; a write to a mapped page of a frozen disk blocks.
The same layout in Rust: ``native``, module ``page``.
"""

import mmap
import os
import sys

SIZE = 4096
# The low 16 bits are the layout's version.
MAGIC = 0x5047_4241_5354_0001

MAGIC_WORD = 0
GENERATION = 1
EXPIRY_NS = 2
EPOCH = 3
EVIDENCE_NS = 4
PAUSE_REVISION = 5
PAUSED = 6
RELEASED_EPOCH = 7
POLICY_REVISION = 8
LEAD_NS = 9
LEAVING = 10
ASKED_NS = 16
ARMED_EPOCH = 17
ENDED_EPOCH = 18
POSTMASTER_PID = 19
GUARD_BEAT_NS = 20
WRITER_PID = 21
WRITER_START = 22

WORDS = {
    "magic": MAGIC_WORD,
    "generation": GENERATION,
    "expiry_ns": EXPIRY_NS,
    "epoch": EPOCH,
    "evidence_ns": EVIDENCE_NS,
    "pause_revision": PAUSE_REVISION,
    "paused": PAUSED,
    "released_epoch": RELEASED_EPOCH,
    "policy_revision": POLICY_REVISION,
    "lead_ns": LEAD_NS,
    "leaving": LEAVING,
    "asked_ns": ASKED_NS,
    "armed_epoch": ARMED_EPOCH,
    "ended_epoch": ENDED_EPOCH,
    "postmaster_pid": POSTMASTER_PID,
    "guard_beat_ns": GUARD_BEAT_NS,
    "writer_pid": WRITER_PID,
    "writer_start": WRITER_START,
}


class PageError(Exception):
    """The page cannot be used; the message names the file and what is wrong."""


class Page:
    """A mapped page; ``page[EXPIRY_NS]`` reads a word, assigning writes it.

    Args:
        path: The file, as `create` or `obtain` left it.

    Raises:
        PageError: It is no page of this layout, or not ours alone.
    """

    __slots__ = ("_map", "_words", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            stat = os.fstat(fd)
            if stat.st_size != SIZE:
                raise PageError(f"{path}: {stat.st_size} bytes, not {SIZE}")
            if stat.st_mode & 0o077 or stat.st_uid != os.geteuid():
                raise PageError(f"{path}: others than its writers may write it")
            self._map = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("q")
        found = self._words[MAGIC_WORD]
        if found != MAGIC:
            self.close()
            raise PageError(f"{path}: layout {found:#x}, not {MAGIC:#x}")

    def __getitem__(self, word: int) -> int:
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._words[word] = value

    def words(self) -> dict[str, int]:
        """Return every named word. Words are read one after the other, not at once."""
        return {name: self._words[index] for name, index in WORDS.items()}

    def close(self) -> None:
        """Unmap the page."""
        self._words.release()
        self._map.close()


def create(path: str) -> Page:
    """Make a page of zeroes with its magic word, mode 0600, and map it.

    The file appears under ``path`` only when it is whole. An existing one is replaced:
    processes that have mapped it keep the old one, so this is for an absent page only.

    Raises:
        OSError: The file cannot be made.
    """
    scratch = f"{path}.{os.getpid()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(scratch, flags, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, MAGIC.to_bytes(8, sys.byteorder) + bytes(SIZE - 8))
        os.rename(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
    finally:
        os.close(fd)
    return Page(path)


def obtain(path: str) -> Page:
    """Map the page at ``path``, made first if it is absent.

    What an earlier guard latched there is kept.

    Raises:
        PageError: There is a file, but no page of this layout.
        OSError: The file cannot be made or mapped.
    """
    try:
        return Page(path)
    except FileNotFoundError:
        return create(path)
