//! The node's clock: CLOCK_BOOTTIME, which also counts while the machine is suspended.

/// Now, in nanoseconds. Means something on this node only, until it boots again.
pub fn boottime_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours; the call fails for no clock that Linux has.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME cannot be read");
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
