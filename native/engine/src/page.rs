//! The shared page: words of eight bytes, each with one writer (architecture.md).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;
use std::sync::atomic::{AtomicI64, Ordering};

use pgbastion_lease::PageWords;

const SIZE: usize = 4_096;
const MAGIC: i64 = 0x5047_4241_5354_0001;

const MAGIC_WORD: usize = 0;
const GENERATION: usize = 1;
const EXPIRY_NS: usize = 2;
const EPOCH: usize = 3;
const EVIDENCE_NS: usize = 4;
const PAUSE_REVISION: usize = 5;
const PAUSED: usize = 6;
const RELEASED_EPOCH: usize = 7;
const POLICY_REVISION: usize = 8;
const ASKED_NS: usize = 16;
const ENDED_EPOCH: usize = 18;

/// A mapped page and the generation in whose name it is written.
pub struct Page {
    words: *mut libc::c_void,
    generation: i64,
}

// SAFETY: the mapping belongs to this value alone and is used through atomics only.
unsafe impl Send for Page {}

impl Page {
    /// Map the page at `path`.
    pub fn open(path: &str, generation: i64) -> Result<Page, String> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|e| format!("{path}: cannot open the shared page: {e}"))?;
        let length = file.metadata().map_err(|e| format!("{path}: {e}"))?.len();
        if length != SIZE as u64 {
            return Err(format!("{path}: {length} bytes, not a shared page"));
        }
        let words = map(&file).map_err(|e| format!("{path}: cannot map: {e}"))?;
        let page = Page { words, generation };
        match page.word(MAGIC_WORD).load(Ordering::Relaxed) {
            MAGIC => Ok(page),
            other => Err(format!("{path}: layout {other:#x}, not {MAGIC:#x}")),
        }
    }

    fn word(&self, index: usize) -> &AtomicI64 {
        // SAFETY: the mapping is 4096 bytes long, aligned to a page, and lives as long
        // as `self`; other processes write words whole.
        unsafe { &*self.words.cast::<AtomicI64>().add(index) }
    }

    fn read(&self, index: usize) -> i64 {
        self.word(index).load(Ordering::SeqCst)
    }

    /// Read what a renewal depends on.
    pub fn words(&self) -> PageWords {
        PageWords {
            evidence_ns: self.read(EVIDENCE_NS),
            asked_ns: self.read(ASKED_NS),
            released_epoch: self.read(RELEASED_EPOCH),
            ended_epoch: self.read(ENDED_EPOCH),
            pause_revision: self.read(PAUSE_REVISION),
            paused: self.read(PAUSED),
            policy_revision: self.read(POLICY_REVISION),
        }
    }

    /// Write until when the lease of `epoch` runs; tell whether it was ours to write.
    ///
    /// A reader that sees the new epoch never sees with it the expiry of the old one.
    pub fn expire_at(&self, epoch: i64, expiry_ns: i64) -> bool {
        let released = self.read(RELEASED_EPOCH).max(self.read(ENDED_EPOCH));
        if self.read(GENERATION) != self.generation || released >= epoch {
            return false;
        }
        if self.read(EPOCH) != epoch {
            self.word(EXPIRY_NS).store(0, Ordering::SeqCst);
            self.word(EPOCH).store(epoch, Ordering::SeqCst);
        }
        self.word(EXPIRY_NS).store(expiry_ns, Ordering::SeqCst);
        true
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this size and is not used again.
        unsafe { libc::munmap(self.words, SIZE) };
    }
}

fn map(file: &File) -> io::Result<*mut libc::c_void> {
    // SAFETY: a fresh shared mapping of a file that is SIZE bytes long.
    let words = unsafe {
        libc::mmap(
            ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if words == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(words)
}
