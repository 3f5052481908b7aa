"""What is wrong with a server or its disks, told apart by what does not answer."""

from enum import StrEnum
from typing import Final


class Trouble(StrEnum):
    """Why there is no evidence that a server and its disks live."""

    POSTMASTER_SILENT = "postmaster_silent"
    BACKENDS_SILENT = "backends_silent"
    SERVER_SILENT = "server_silent"
    DISK_SILENT = "disk_silent"
    DISK_FAILED = "disk_failed"
    DISK_FULL = "disk_full"

    @property
    def sentence(self) -> str:
        """The trouble as a clause for people."""
        return _SENTENCES[self]


_SENTENCES = {
    Trouble.POSTMASTER_SILENT: "sessions answer, but no new connection is taken",
    Trouble.BACKENDS_SILENT: "new connections are greeted, but no session answers",
    Trouble.SERVER_SILENT: "neither sessions nor new connections are answered",
    Trouble.DISK_SILENT: "an fsync of a small file does not return",
    Trouble.DISK_FAILED: "its files are gone, or none can be written beside them",
    Trouble.DISK_FULL: "less than one WAL segment is free",
}

SILENCE: Final = frozenset(
    {Trouble.POSTMASTER_SILENT, Trouble.BACKENDS_SILENT, Trouble.SERVER_SILENT}
)
"""What no client is served in."""
