"""Which platform this process is on."""

import errno
import functools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgbastion.platform.interface import Platform

VARIABLE = "PGBASTION_PLATFORM"
LINUX = "linux"
NO_PIDFD = "linux-no-pidfd"
PORTABLE = "portable"
NAMES = (LINUX, NO_PIDFD, PORTABLE)


class UnknownPlatformError(ValueError):
    """The environment asks for a platform that does not exist."""


def current() -> "Platform":
    """Return the platform: what the environment asks for, else what the machine is.

    Raises:
        UnknownPlatformError: The environment asks for one that does not exist.
    """
    return _platform(os.environ.get(VARIABLE) or _found())


@functools.lru_cache(maxsize=len(NAMES))
def _platform(name: str) -> "Platform":
    # The others' modules are not loaded: the guard stays small.
    if name == LINUX:
        from pgbastion.platform.linux import Linux
        from pgbastion.platform.pidfd import Pidfd

        return Linux(name, Pidfd())
    if name == NO_PIDFD:
        from pgbastion.platform import proc
        from pgbastion.platform.linux import Linux
        from pgbastion.platform.polling import Looking

        return Linux(name, Looking(proc.stat))
    if name == PORTABLE:
        from pgbastion.platform.portable import Portable

        return Portable()
    raise UnknownPlatformError(f"{VARIABLE}: {name} is none of {', '.join(NAMES)}")


@functools.cache
def _found() -> str:
    if not sys.platform.startswith("linux"):
        return PORTABLE
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        return NO_PIDFD
    except OSError as exc:
        # A kernel before 5.3 (RHEL 8).
        return NO_PIDFD if exc.errno == errno.ENOSYS else LINUX
    return LINUX
