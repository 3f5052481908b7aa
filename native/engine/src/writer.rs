//! The thread that writes the log, so that a disk that does not answer holds up nothing
//! but what has to wait for it: the lease is renewed, the host is answered, time passes.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{channel, sync_channel, Receiver, Sender, SyncSender};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::DiskLog;
use crate::loud;

/// At its end the engine waits so long for a write that is under way. The directory
/// stays locked until that write has ended.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// What a write has left.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The log can grow by a segment, whatever others do to the disk.
    pub reserved: bool,
    /// The host's state should take the place of what was written.
    pub wants_base: bool,
}

struct Write {
    token: u64,
    records: Vec<u8>,
}

/// Writes in the order in which it was asked, one at a time.
pub struct Writer {
    writes: Option<Sender<Write>>,
    ended: Receiver<()>,
}

impl Writer {
    /// Write to `log` from now on and tell which write is on disk; `lock` is given back when
    /// nothing is written any more.
    pub fn start(
        dir: &Path,
        log: DiskLog,
        lock: Arc<File>,
        tell: impl Fn(u64, Room) + Send + 'static,
    ) -> std::io::Result<Writer> {
        let (writes, to_write) = channel();
        let (end, ended) = sync_channel(1);
        let dir = dir.to_owned();
        loud::spawn("raft-log", move || {
            write_all(&dir, log, &to_write, tell);
            let_go(lock, &end);
        })?;
        Ok(Writer { writes: Some(writes), ended })
    }

    /// Put these records on disk; the core asks for one write at a time.
    pub fn write(&self, token: u64, records: Vec<u8>) {
        if let Some(writes) = &self.writes {
            // It ends before its writer only by ending the process.
            let _ = writes.send(Write { token, records });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.writes = None;
        // A disk that does not answer keeps its thread, and the lock with it.
        let _ = self.ended.recv_timeout(STOP_WAIT);
    }
}

fn write_all(
    dir: &Path,
    mut log: DiskLog,
    to_write: &Receiver<Write>,
    tell: impl Fn(u64, Room),
) {
    for Write { token, records } in to_write {
        if let Err(error) = log.append(&records) {
            let dir = dir.display();
            loud::die(format!("{dir}: the consensus log cannot be written: {error}"));
        }
        let room = Room { reserved: log.has_reserve(), wants_base: log.wants_base() };
        tell(token, room);
    }
}

fn let_go(lock: Arc<File>, end: &SyncSender<()>) {
    drop(lock);
    // Who started this thread may not have waited.
    let _ = end.try_send(());
}
