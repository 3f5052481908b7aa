//! The node's clock: CLOCK_BOOTTIME, which also counts while the machine is suspended.
//! On macOS CLOCK_MONOTONIC does that (clock_gettime(3) there). The daemon and the guard
//! read the same one: `pgbastion/platform/clock.py`.

use pgbastion_lease::NS_PER_MS;

#[cfg(target_os = "linux")]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// Now, in nanoseconds. Means something on this node only, until it boots again.
pub fn boottime_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours; the call fails for no clock that the system has.
    let result = unsafe { libc::clock_gettime(CLOCK, &mut now) };
    assert_eq!(result, 0, "the clock cannot be read");
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// The instant at which a command that may take so long is over.
pub fn deadline_ns(timeout_ms: u64) -> i64 {
    boottime_ns()
        + i64::try_from(timeout_ms).unwrap_or(i64::MAX / 2 / NS_PER_MS) * NS_PER_MS
}
