//! Something that a poll can wait on and another thread can set off.
//!
//! An eventfd on Linux; elsewhere a pair of sockets, of which one end is read.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

    pub struct Signal {
        fd: OwnedFd,
    }

    impl Signal {
        pub fn new() -> io::Result<Signal> {
            // SAFETY: the call takes no pointers; its descriptor is owned by the result.
            let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: a descriptor that nobody else has.
            Ok(Signal { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
        }

        pub fn set(&self) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight bytes of ours. It fails only when it is set already.
            let _ = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), 8) };
        }

        pub fn clear(&self) {
            let mut count = [0u8; 8];
            let into = count.as_mut_ptr().cast();
            // SAFETY: eight bytes of ours. It fails only when it was not set.
            let _ = unsafe { libc::read(self.fd.as_raw_fd(), into, 8) };
        }
    }

    impl AsRawFd for Signal {
        fn as_raw_fd(&self) -> RawFd {
            self.fd.as_raw_fd()
        }
    }
}

#[cfg(any(test, not(target_os = "linux")))]
#[cfg_attr(target_os = "linux", allow(dead_code))]
mod portable {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;

    pub struct Signal {
        read: UnixStream,
        write: UnixStream,
    }

    impl Signal {
        pub fn new() -> io::Result<Signal> {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            write.set_nonblocking(true)?;
            Ok(Signal { read, write })
        }

        pub fn set(&self) {
            // It fails only when so much is there already that it is set.
            let _ = (&self.write).write(&[1]);
        }

        pub fn clear(&self) {
            let mut set = [0u8; 64];
            while matches!((&self.read).read(&mut set), Ok(count) if count > 0) {}
        }
    }

    impl AsRawFd for Signal {
        fn as_raw_fd(&self) -> RawFd {
            self.read.as_raw_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
use portable as system;

pub struct Bell {
    signal: system::Signal,
}

impl Bell {
    pub fn new() -> io::Result<Bell> {
        Ok(Bell { signal: system::Signal::new()? })
    }

    pub fn ring(&self) {
        self.signal.set();
    }

    pub fn hush(&self) {
        self.signal.clear();
    }

    pub fn fd(&self) -> RawFd {
        self.signal.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, RawFd};
    use std::time::Duration;

    use super::{portable, system};
    use crate::net::readable;

    fn is_set(fd: RawFd) -> bool {
        readable(&[fd], Some(Duration::from_millis(1))).unwrap()[0]
    }

    #[test]
    fn a_bell_rings_until_it_is_hushed_however_often_it_was_rung() {
        let (kernel, sockets) = (system::Signal::new(), portable::Signal::new());
        let (kernel, sockets) = (kernel.unwrap(), sockets.unwrap());
        for _ in 0..2 {
            assert!(!is_set(kernel.as_raw_fd()) && !is_set(sockets.as_raw_fd()));
            for _ in 0..100_000 {
                kernel.set();
                sockets.set();
            }
            assert!(is_set(kernel.as_raw_fd()) && is_set(sockets.as_raw_fd()));
            kernel.clear();
            sockets.clear();
        }
    }
}
