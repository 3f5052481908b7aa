//! Whom a member calls, and when.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use _engine::link::Notice;
use _engine::peers::Peers;
use _engine::wire::Class;

const SOON: Duration = Duration::from_secs(20);

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.31.7.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

#[test]
fn a_member_that_greets_is_called_at_once() {
    let (greets, silent) = (2, 3);
    let addresses = BTreeMap::from([(greets, nobody()), (silent, nobody())]);
    let (failed, failures) = channel();
    let failed = Mutex::new(failed);
    let tell = move |member, class, notice| {
        if let (Class::Raft, Notice::Failed(_)) = (class, notice) {
            let _ = failed.lock().expect("no holder panics").send(member);
        }
    };
    let mut peers = Peers::new(
        (b"cluster".to_vec(), 1),
        (Arc::new(b"secret".to_vec()), None),
        "127.31.7.1:0".parse().expect("an address"),
        addresses.clone(),
        Arc::new(tell),
    );

    let mut calls = BTreeMap::from([(greets, 0), (silent, 0)]);
    while calls[&silent] < 4 {
        let member = failures.recv_timeout(SOON).expect("it is called again and again");
        *calls.get_mut(&member).expect("one of the two") += 1;
        if member == greets {
            peers.introduced(greets, addresses[&greets].clone());
        }
    }

    // Both wait alike where nobody greets.
    assert!(calls[&greets] > 2 * calls[&silent], "{calls:?}");
}
