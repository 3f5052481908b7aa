"""Makes directories, with their modes whatever the umask is."""

from pathlib import Path
from typing import Final

PASSABLE: Final = 0o755


def make_directory(path: Path, mode: int) -> None:
    """Make the directory ``path`` and what is missing above it.

    One that is there stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    make_parents(path)
    _make(path, mode)


def make_parents(path: Path) -> None:
    """Make the directories above ``path`` that are missing; everybody may pass them.

    The log of consensus and PostgreSQL's data often lie side by side, and PostgreSQL
    runs as another user.

    Raises:
        OSError: One cannot be made.
    """
    for parent in reversed(path.parents):
        _make(parent, PASSABLE)


def _make(path: Path, mode: int) -> None:
    if path.is_dir():
        return
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_dir():  # another node on this machine made it meanwhile
            return
        raise
    path.chmod(mode)
