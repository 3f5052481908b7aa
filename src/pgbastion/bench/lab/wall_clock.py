"""A wall clock that is wrong, for the programs that are told so.

A small library, built where it is needed, stands before the C library and shifts what
it says about CLOCK_REALTIME; every other clock stays as it is, as on a machine whose
time was set by hand.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.errors import CannotRun

OFFSET_VARIABLE: Final = "LAB_CLOCK_OFF_S"
_BUILD_S: Final = 60.0
_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t offset(void)
{
    const char *text = getenv("LAB_CLOCK_OFF_S");
    return text ? (time_t)atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


def wrong_clock(directory: Path, off_s: int) -> dict[str, str]:
    """Return the variables under which a program's wall clock is ``off_s`` off.

    Raises:
        CannotRun: There is no C compiler, or it cannot build the library.
    """
    library = directory / "wall_clock.so"
    if not library.exists():
        _build(library)
    return {"LD_PRELOAD": str(library), OFFSET_VARIABLE: str(off_s)}


def _build(library: Path) -> None:
    if shutil.which("cc") is None:
        raise CannotRun("no C compiler for the wrong wall clock")
    built = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"],
        input=_SOURCE,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    if built.returncode != 0:
        raise CannotRun(f"the wrong wall clock does not build: {built.stderr}")
