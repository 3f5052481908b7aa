//! A process that has no descriptor left for whoever calls. It is a process of its own:
//! the limit is the whole process's.

#[path = "common/door.rs"]
mod common;

use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use common::{call, door_with, Door};
use socket2::{Domain, Socket, Type};

fn limit(soft: libc::rlim_t) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the structure alone.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits), 0);
        limits.rlim_cur = soft.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limits), 0);
    }
}

/// The processor time of this process so far.
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the structure alone.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn wait_at_the_door(door: &Door) -> TcpStream {
    let caller = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    // Below the lowest free descriptor: the caller has its own already.
    limit(3);
    caller.connect(&door.listener.address.into()).expect("the kernel lets it wait");
    caller.into()
}

#[test]
fn who_cannot_be_let_in_takes_no_processor() {
    let door = door_with(None);
    let waiting = wait_at_the_door(&door);
    let before = used();

    sleep(Duration::from_secs(1));

    let spent = used() - before;
    limit(1_024);
    assert!(spent < Duration::from_millis(300), "{spent:?} within a second");
    drop(waiting);
    assert!(door.try_in(&call()).is_ok(), "it is let in once there is room");
}
