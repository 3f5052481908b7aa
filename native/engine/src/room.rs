//! Files whose space is there before it is needed.

use std::fs::{File, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Long enough for what is written to see that a disk answers.
const PULSE_BYTES: u64 = 4_096;

/// Open an empty file.
pub fn open_new(path: &Path) -> io::Result<File> {
    let file = open_for_writing(path)?;
    file.set_len(0)?;
    Ok(file)
}

pub fn open_for_writing(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Let a file of this length say nothing: what was in it would look like a torn write.
pub fn clear(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    if bytes.iter().any(|byte| *byte != 0) {
        bytes.fill(0);
        file.write_all_at(&bytes, 0)?;
    }
    Ok(())
}

/// Open a short file with its room, so that a full disk does not stop its writes.
pub fn open_pulse(dir: &Path, name: &str) -> io::Result<File> {
    let file = open_for_writing(&dir.join(name))?;
    if file.metadata()?.len() < PULSE_BYTES {
        reserve_space(&file, PULSE_BYTES)?;
        file.sync_all()?;
        sync_dir(dir)?;
    }
    Ok(file)
}

/// Have the disk give a file this much room.
#[cfg(not(target_os = "linux"))]
pub fn reserve_space(file: &File, bytes: u64) -> io::Result<()> {
    // Elsewhere a full disk is met when it is written to.
    file.set_len(bytes)
}

/// Have the disk give a file this much room.
#[cfg(target_os = "linux")]
pub fn reserve_space(file: &File, bytes: u64) -> io::Result<()> {
    loop {
        let length = bytes as libc::off_t;
        // SAFETY: the descriptor is open for as long as `file` lives.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
            0 => return Ok(()),
            // On some file systems any signal ends it, a stop that goes on too.
            libc::EINTR => {}
            code => return Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// Make names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
