//! What the engine tells the host.

use crate::members::Members;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Nobody knows whether it happened.
    Timeout,
    /// No leader was known until the deadline: it surely did not happen.
    NoLeader,
    /// This node is not the leader.
    NotLeader,
    Refused,
    TooLarge,
    /// The engine was stopped.
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Timeout => "timeout",
            Status::NoLeader => "no_leader",
            Status::NotLeader => "not_leader",
            Status::Refused => "refused",
            Status::TooLarge => "too_large",
            Status::Stopped => "stopped",
        }
    }
}

/// A voter's answer to the question of ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoterAge {
    pub member: u64,
    pub term: u64,
    pub age_ns: i64,
    pub receipt_ns: i64,
}

/// What comes with an outcome.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    Nothing,
    Index(u64),
    Read { index: u64, sent_ns: i64 },
    Bytes(Vec<u8>),
    Reason(&'static str),
    Ages(Vec<VoterAge>),
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Empty data: the leader's own first entry, or a change of members.
    Committed {
        index: u64,
        term: u64,
        id: Vec<u8>,
        data: Vec<u8>,
    },
    Members {
        index: u64,
        members: Members,
    },
    Snapshot {
        index: u64,
        data: Vec<u8>,
    },
    /// The log has become long: the host should compact it.
    BaseWanted,
    Leader {
        term: u64,
        leader: u64,
    },
    Done {
        token: u64,
        status: Status,
        payload: Payload,
    },
    /// `id` 0: a broadcast, which wants no answer; `from` 0: a guest.
    Request {
        id: u64,
        from: u64,
        kind: u32,
        payload: Vec<u8>,
    },
    Granted {
        epoch: i64,
        expiry_ns: i64,
    },
    Denied {
        epoch: i64,
        reason: &'static str,
    },
    Log {
        level: Level,
        event: &'static str,
        fields: Vec<(&'static str, String)>,
    },
}
