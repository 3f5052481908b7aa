//! Ends of the process that nobody can overlook.

use std::fmt::Display;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::{Builder, JoinHandle};

/// End the process at once: a failed write or fsync of the log is never retried, since
/// the kernel may have dropped what it could not write.
pub fn die(what: impl Display) -> ! {
    eprintln!("pgbastion: fatal: {what}");
    std::process::abort();
}

/// Start a thread of the engine, which goes first where its creator does: a daemon sees
/// to it that what it starts does not. Its panic is a broken rule of ours and ends the
/// process: the guard then fences.
pub fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    let nice = nice();
    Builder::new().name(name.chars().take(15).collect()).spawn(move || {
        go_as(nice);
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            die(format!("thread {label} panicked"));
        }
    })
}

/// The nice value of this thread, which is a thread's own on Linux; nice(2).
fn nice() -> libc::c_int {
    // SAFETY: It takes numbers alone.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

fn go_as(nice: libc::c_int) {
    // SAFETY: It takes numbers alone. Where it is refused, the thread has its turn as
    // others have.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}
