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

/// Start a thread of the engine. Its panic is a broken rule of ours and ends the
/// process: the guard then fences.
pub fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    Builder::new().name(name.chars().take(15).collect()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            die(format!("thread {label} panicked"));
        }
    })
}
