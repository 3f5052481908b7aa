"""Clocks of a node that are set while its programs run.

A small library, built where it is needed, stands before the C library and shifts what
it says of the time by what a file holds, which can be changed at any moment: the wall
clock, as where somebody sets it, or all clocks, as on a machine that was paused
together with its clocks. Waits that end at an instant are shifted back, so that they
end when they should. A node reads the library's name from an /etc of its own: so it
stands before every program of the node, also before those that get a clean environment.
"""

import mmap
import shutil
import subprocess
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.errors import CannotRun

_BUILD_S: Final = 60.0
_WALL: Final = 0
_SINCE_BOOT: Final = 1
_BYTES: Final = 16
_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define SECOND 1000000000LL

static const int64_t none[2];
static const volatile int64_t *shifts = none; /* of the wall clock; of all others */

__attribute__((constructor)) static void open_shifts(void)
{
    int file = open(SHIFTS, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *map = mmap(0, sizeof none, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        shifts = map;
}

static int64_t shift_of(clockid_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return shifts[0];
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        return shifts[1];
    default:
        return 0;
    }
}

static struct timespec moved(const struct timespec *at, int64_t by)
{
    int64_t all = at->tv_sec * SECOND + at->tv_nsec + by;
    if (all < 0)
        all = 0;
    return (struct timespec){.tv_sec = all / SECOND, .tv_nsec = all % SECOND};
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static __typeof__(&clock_gettime) real;
    if (!real)
        real = REAL(clock_gettime);
    int result = real(clock, now);
    if (result == 0)
        *now = moved(now, shift_of(clock));
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

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until,
                    struct timespec *rest)
{
    struct timespec at = *until;
    if (flags & TIMER_ABSTIME)
        at = moved(until, -shift_of(clock));
    return REAL(clock_nanosleep)(clock, flags, &at, rest);
}

int sem_clockwait(sem_t *restrict it, clockid_t clock,
                  const struct timespec *restrict until)
{
    struct timespec at = moved(until, -shift_of(clock));
    return REAL(sem_clockwait)(it, clock, &at);
}

int sem_timedwait(sem_t *restrict it, const struct timespec *restrict until)
{
    struct timespec at = moved(until, -shift_of(CLOCK_REALTIME));
    return REAL(sem_timedwait)(it, &at);
}

int pthread_cond_clockwait(pthread_cond_t *restrict it, pthread_mutex_t *restrict lock,
                           clockid_t clock, const struct timespec *restrict until)
{
    struct timespec at = moved(until, -shift_of(clock));
    return REAL(pthread_cond_clockwait)(it, lock, clock, &at);
}

int pthread_cond_timedwait(pthread_cond_t *restrict it, pthread_mutex_t *restrict lock,
                           const struct timespec *restrict until)
{
    /* Which clock it goes by was said at its making: no machine is 30 years up. */
    int since_boot = until->tv_sec < 1000000000;
    struct timespec at =
        moved(until, -shift_of(since_boot ? CLOCK_MONOTONIC : CLOCK_REALTIME));
    return REAL(pthread_cond_timedwait)(it, lock, &at);
}

/* Rust's standard library waits by this call. */
long syscall(long number, ...)
{
    va_list list;
    long a[6];
    struct timespec at;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && a[3] &&
        (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
        int wall = a[1] & FUTEX_CLOCK_REALTIME;
        at = moved((const struct timespec *)a[3],
                   -shift_of(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC));
        a[3] = (long)&at;
    }
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""
_OWN_ETC: Final = (
    'mount -t overlay overlay -o "lowerdir=$0:/etc" /etc || exit 70; exec "$@"'
)


class SteeredClocks:
    """The clocks of one node, which are right until they are set."""

    def __init__(self, directory: Path, name: str) -> None:
        """Build the library; its files go below ``directory``.

        Raises:
            CannotRun: There is no C compiler, or this user may not mount.
        """
        self._etc = directory / f"{name}-etc"
        self._etc.mkdir(mode=0o755)
        shifts = directory / f"{name}.clocks"
        shifts.write_bytes(bytes(_BYTES))
        with shifts.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), _BYTES)).cast("q")
        library = directory / f"{name}-clocks.so"
        _build(library, shifts)
        (self._etc / "ld.so.preload").write_text(f"{library}\n")
        self._try()

    def command(self) -> list[str]:
        """Return what to put before a command so that it goes by these clocks."""
        return [
            *("unshare", "--mount", "--propagation", "slave"),
            *("sh", "-c", _OWN_ETC, str(self._etc)),
        ]

    def set_wall(self, by_s: float) -> None:
        """Let the wall clock be off by so much from now on, in seconds."""
        self._words[_WALL] = round(by_s * 1e9)

    def skip(self, ns: int) -> None:
        """Let all clocks be as if the last ``ns`` nanoseconds had not been."""
        self._words[_SINCE_BOOT] -= ns
        self._words[_WALL] -= ns

    def _try(self) -> None:
        tried = subprocess.run(
            [*self.command(), "true"],
            capture_output=True,
            text=True,
            timeout=_BUILD_S,
            check=False,
        )
        if tried.returncode != 0:
            raise CannotRun(f"no clocks of a node's own: {tried.stderr.strip()}")


def _build(library: Path, shifts: Path) -> None:
    if shutil.which("cc") is None:
        raise CannotRun("no C compiler for the clocks of a node")
    options = ["-shared", "-fPIC", "-O1", f'-DSHIFTS="{shifts}"']
    built = subprocess.run(
        ["cc", *options, "-x", "c", "-", "-o", str(library), "-ldl", "-pthread"],
        input=_SOURCE,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    if built.returncode != 0:
        raise CannotRun(f"the clocks of a node do not build: {built.stderr}")
