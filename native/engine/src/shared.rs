//! What the threads of a member share, and what they ask of the Raft thread.

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use pgbastion_lease::{Granter, Hold};

use crate::core::{Change, CoreStatus};
use crate::home::Identity;
use crate::inbox::Inbox;
use crate::link::Notice;
use crate::outbox::Outbox;
use crate::talk::Askers;
use crate::wire::Class;
use crate::writer::Room;

/// What the host, or a thread of the engine, asks of the Raft thread.
pub enum Command {
    Settle {
        identity: Identity,
        records: Vec<u8>,
        reply: SyncSender<Result<(), String>>,
    },
    Propose {
        token: u64,
        data: Vec<u8>,
        deadline_ns: i64,
    },
    ReadIndex {
        token: u64,
        deadline_ns: i64,
    },
    Change {
        token: u64,
        change: Change,
        member: u64,
        address: String,
        deadline_ns: i64,
    },
    Transfer {
        token: u64,
        member: u64,
        deadline_ns: i64,
    },
    Request {
        token: u64,
        member: u64,
        kind: u32,
        payload: Vec<u8>,
        deadline_ns: i64,
    },
    Broadcast {
        kind: u32,
        payload: Vec<u8>,
    },
    Answer {
        id: u64,
        payload: Vec<u8>,
    },
    Ages {
        token: u64,
        deadline_ns: i64,
    },
    Applied {
        index: u64,
    },
    Hold {
        hold: Option<Hold>,
    },
    Pace {
        tick_ms: u64,
        heartbeat_ticks: usize,
    },
    /// The host lives, and says so again within so long.
    Lives {
        within_ms: u64,
    },
    Compact {
        index: u64,
        data: Vec<u8>,
    },
    GuestAsks {
        id: u64,
        kind: u32,
        payload: Vec<u8>,
    },
    Link {
        member: u64,
        class: Class,
        notice: Notice,
    },
    /// What the core wanted on disk under this token is there.
    Written {
        token: u64,
        room: Room,
    },
    Stop,
}

/// What the Raft thread and everybody else share.
#[derive(Default)]
pub struct Shared {
    pub inbox: Inbox<Command>,
    pub outbox: Outbox,
    pub askers: Askers,
    pub status: Mutex<Option<CoreStatus>>,
    pub identity: Mutex<Option<(Vec<u8>, u64)>>,
    pub granter: Mutex<Option<Arc<Mutex<Granter>>>>,
    pub tokens: AtomicU64,
    /// What the host has said that it has applied, before the thread hears of it.
    pub host_applied: AtomicU64,
}
