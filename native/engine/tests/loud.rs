//! A broken rule in a thread of the engine ends the process, and says so.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

const PLAYS: &str = "PGBASTION_TEST_PANICS";

#[test]
fn a_panic_in_a_thread_ends_the_process_loudly() {
    if std::env::var_os(PLAYS).is_some() {
        let thread = _engine::loud::spawn("raft", || panic!("a broken rule"));
        drop(thread);
        std::thread::sleep(Duration::from_secs(20));
        return;
    }
    let itself = std::env::current_exe().expect("this test");
    let name = "a_panic_in_a_thread_ends_the_process_loudly";

    let ended = Command::new(itself)
        .args([name, "--exact", "--nocapture"])
        .env(PLAYS, "1")
        .output()
        .expect("it starts");

    assert_eq!(ended.status.signal(), Some(6));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("pgbastion: fatal: thread raft panicked"), "{said}");
}
