//! What happens to those who were let in: members' packets go to the Raft thread, a
//! guest's question to the host, whose answer is waited for here.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::event::{Event, Level};
use crate::guest::decode_question;
use crate::handshake::Refusal;
use crate::inbox::Received;
use crate::listener::{Host, Visitor};
use crate::net::{read_frame, write_frame};
use crate::shared::{Command, Shared};
use crate::talk::Asker;
use crate::wire::{Class, Packet, GUEST_MAX};

/// How long a guest is kept waiting for the host's answer.
const GUEST_WAIT: Duration = Duration::from_secs(20);
/// Refusals that are told in the life of a process.
const TOLD_MAX: usize = 1_024;
/// Why a connection ends whose other side has proven itself.
const FORGED: &str = "a frame of it is too long, changed or repeated";
const SENSELESS: &str = "a frame of it makes no sense";

/// Takes what comes in through the listener.
pub struct Desk {
    shared: Arc<Shared>,
    /// Refusals that were told, each once.
    told: Mutex<BTreeSet<(IpAddr, u64, &'static str)>>,
}

impl Desk {
    pub fn new(shared: Arc<Shared>) -> Desk {
        Desk { shared, told: Mutex::default() }
    }

    fn serve_member(&self, visitor: &mut Visitor) {
        let (from, class) = (visitor.hello.from, visitor.hello.class);
        while let Some(frame) = self.frame(visitor) {
            let packet = Packet::decode(&frame).ok().filter(|p| p.class() == class);
            let Some(packet) = packet else {
                return self.tell_refused(visitor.address, from, SENSELESS);
            };
            if !self.shared.inbox.receive(Received { from, packet }) {
                return;
            }
        }
    }

    /// Read the next frame; `None`: the connection is over.
    fn frame(&self, visitor: &mut Visitor) -> Option<Vec<u8>> {
        let most = visitor.hello.class.frame_max();
        let tags = &mut visitor.keys.from_caller;
        match read_frame(&mut visitor.stream, tags, most) {
            Ok(frame) => Some(frame),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    self.tell_refused(visitor.address, visitor.hello.from, FORGED);
                }
                None
            }
        }
    }

    fn serve_guest(&self, visitor: &mut Visitor) {
        let _ = visitor.stream.set_read_timeout(Some(crate::net::OPEN_MAX));
        let Some(frame) = self.frame(visitor) else { return };
        let Ok((kind, payload)) = decode_question(&frame) else {
            return self.tell_refused(visitor.address, 0, SENSELESS);
        };
        let (answer, answered) = sync_channel(1);
        let id = self.shared.askers.add(Asker::Guest(answer));
        self.shared.inbox.command(Command::GuestAsks { id, kind, payload });
        if let Ok(answer) = answered.recv_timeout(GUEST_WAIT) {
            if answer.len() <= GUEST_MAX {
                let tags = &mut visitor.keys.from_listener;
                // A guest that is gone asks again.
                let _ = write_frame(&mut visitor.stream, tags, &answer);
            }
        }
        self.shared.askers.take(id);
    }
}

impl Host for Desk {
    fn serve(&self, visitor: &mut Visitor) {
        if visitor.hello.class == Class::Guest {
            self.serve_guest(visitor);
        } else {
            self.serve_member(visitor);
        }
    }

    fn refused(&self, address: SocketAddr, member: u64, refusal: Refusal) {
        self.tell_refused(address, member, refusal.word());
    }

    fn dropped(&self, address: SocketAddr, why: &'static str) {
        self.tell_refused(address, 0, why);
    }
}

impl Desk {
    fn tell_refused(&self, address: SocketAddr, member: u64, reason: &'static str) {
        let mut told = self.told.lock().expect("no holder panics");
        // Who calls from ever new addresses is not told of for ever.
        if told.len() >= TOLD_MAX || !told.insert((address.ip(), member, reason)) {
            return;
        }
        self.shared.outbox.push(Event::Log {
            level: Level::Warning,
            event: "connection_refused",
            fields: vec![
                ("address", address.ip().to_string()),
                ("member", member.to_string()),
                ("reason", reason.to_owned()),
            ],
        });
    }
}
