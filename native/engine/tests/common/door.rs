//! A listener, those who call it, and what it tells of them.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use _engine::channel::{Channel, Tls};
use _engine::handshake::{Refusal, Spoken, SPOKEN};
use _engine::listener::{Doorplate, Host, Listener, Visitor};
use _engine::net::{connect, read_frame, Call, CallError, Keys};
use _engine::wire::Class;

pub const SECRET: &[u8] = b"a secret of the cluster";
pub const CLUSTER: &[u8] = b"cluster";
pub const SOON: Duration = Duration::from_secs(5);

/// Tells the test what the listener did.
pub struct Watcher {
    frames: Sender<Result<Vec<u8>, ()>>,
    refused: Sender<(u64, Refusal)>,
    dropped: Sender<&'static str>,
    served: Sender<u64>,
}

impl Host for Watcher {
    fn serve(&self, visitor: &mut Visitor) {
        let _ = self.served.send(visitor.hello.from);
        loop {
            let most = 1_024;
            let keys = &mut visitor.keys.from_caller;
            let frame = read_frame(&mut visitor.stream, keys, most).map_err(|_| ());
            let over = frame.is_err();
            if self.frames.send(frame).is_err() || over {
                return;
            }
        }
    }

    fn refused(&self, _address: SocketAddr, member: u64, refusal: Refusal) {
        let _ = self.refused.send((member, refusal));
    }

    fn dropped(&self, _address: SocketAddr, why: &'static str) {
        let _ = self.dropped.send(why);
    }
}

pub struct Door {
    pub listener: Listener<Watcher>,
    pub frames: Receiver<Result<Vec<u8>, ()>>,
    pub refused: Receiver<(u64, Refusal)>,
    pub dropped: Receiver<&'static str>,
    /// Who was let in, each time.
    pub served: Receiver<u64>,
}

/// Member 1 of the cluster listens; member 9 was removed.
pub fn door_with(tls: Tls) -> Door {
    door_that_speaks(SPOKEN, tls)
}

pub fn door_that_speaks(spoken: Spoken, tls: Tls) -> Door {
    let (frames, frames_seen) = channel();
    let (refused, refused_seen) = channel();
    let (dropped, dropped_seen) = channel();
    let (served, served_seen) = channel();
    let plate = Doorplate {
        identity: Some((CLUSTER.to_vec(), 1)),
        removed: BTreeSet::from([9]),
        addresses: BTreeMap::from([(2, "127.31.9.2:8300".to_owned())]),
        spoken,
    };
    let listener = Listener::start(
        "127.31.9.1:0",
        Arc::new(SECRET.to_vec()),
        tls,
        Arc::new(Mutex::new(plate)),
        Watcher { frames, refused, dropped, served },
    )
    .expect("a free port");
    Door {
        listener,
        frames: frames_seen,
        refused: refused_seen,
        dropped: dropped_seen,
        served: served_seen,
    }
}

pub fn call() -> Call<'static> {
    Call {
        class: Class::Raft,
        secret: SECRET,
        cluster: Some(CLUSTER),
        from: 2,
        to: 1,
        spoken: SPOKEN,
    }
}

impl Door {
    pub fn connect(&self) -> TcpStream {
        connect(&self.listener.address.to_string(), None).expect("it listens")
    }

    pub fn try_in(&self, call: &Call) -> Result<(Channel, Keys), CallError> {
        self.try_with(call, &None)
    }

    pub fn try_with(&self, call: &Call, tls: &Tls) -> Result<(Channel, Keys), CallError> {
        call.open(&self.listener.address.to_string(), None, tls)
    }

    pub fn refusal(&self, call: &Call) -> (Refusal, (u64, Refusal)) {
        let Err(CallError::Refused(heard)) = self.try_in(call) else {
            panic!("it was not refused");
        };
        (heard, self.refused.recv_timeout(SOON).expect("the listener says so"))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.listener.stop();
    }
}
