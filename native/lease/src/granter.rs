//! The leader's side: which renewals may be answered.

use crate::{Renewal, NS_PER_MS};

/// Who may be answered, as the replicated state says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    pub member: u64,
    pub epoch: i64,
    pub incarnation: i64,
    pub lease_ms: i64,
}

/// Why a renewal gets no lease. It proves nothing to the holder: no denial ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Nobody is answered now: released, revoked, or about to be decided.
    Closed,
    /// Another member holds, or another epoch is current.
    NotHolder,
    /// An older daemon of the holder asks.
    Incarnation,
}

impl Denial {
    pub fn word(self) -> &'static str {
        match self {
            Denial::Closed => "closed",
            Denial::NotHolder => "not_holder",
            Denial::Incarnation => "incarnation",
        }
    }
}

/// What the leader answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted { lease_ns: i64 },
    Denied(Denial),
}

/// A renewal that waits for the confirmation of this leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub from: u64,
    pub renewal: Renewal,
    /// The ReadIndex begun *after* the renewal arrived; `None`: not begun yet.
    pub read: Option<u64>,
    /// Where the log stood, as a majority has confirmed since.
    pub confirmed_index: Option<u64>,
}

/// Renewals of one leadership; more than members can send.
const PENDING_MAX: usize = 64;

/// Answers renewals on the leader.
#[derive(Debug, Default)]
pub struct Granter {
    leased: Option<Leased>,
    last_answer_ns: i64,
    pending: Vec<Pending>,
}

impl Granter {
    /// Set who may be answered from now on, and return the instant of the last answer,
    /// 0 if there was none since the leadership began.
    pub fn lease(&mut self, leased: Option<Leased>) -> i64 {
        self.leased = leased;
        self.last_answer_ns
    }

    pub fn last_answer_ns(&self) -> i64 {
        self.last_answer_ns
    }

    /// A leadership has begun: what an older one answered is not this one's.
    pub fn elected(&mut self) {
        self.last_answer_ns = 0;
        self.pending.clear();
    }

    /// A leadership has ended: nothing that waited is answered any more.
    pub fn deposed(&mut self) {
        self.pending.clear();
    }

    /// Keep a renewal that has arrived. One that an older one of the same member waits
    /// for stays beside it: either may be confirmed first.
    pub fn arrived(&mut self, from: u64, renewal: Renewal) {
        if self.pending.len() == PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push(Pending { from, renewal, read: None, confirmed_index: None });
    }

    /// Tell whether a renewal waits for a ReadIndex to begin.
    pub fn wants_read(&self) -> bool {
        self.pending.iter().any(|p| p.read.is_none())
    }

    /// ReadIndex `read` begins now: it serves every renewal that is here already.
    pub fn read_begun(&mut self, read: u64) {
        for pending in self.pending.iter_mut().filter(|p| p.read.is_none()) {
            pending.read = Some(read);
        }
    }

    /// A majority has confirmed the leadership after ReadIndex `read` began.
    pub fn read_confirmed(&mut self, read: u64, index: u64) {
        for pending in self.pending.iter_mut().filter(|p| p.read == Some(read)) {
            pending.confirmed_index = Some(index);
        }
    }

    /// Answer what may be answered at `now_ns` with a state applied up to `applied`,
    /// and note the instant: from it the leader counts the lease.
    pub fn answers(&mut self, now_ns: i64, applied: u64) -> Vec<(u64, Renewal, Answer)> {
        let ready = |p: &Pending| p.confirmed_index.is_some_and(|index| applied >= index);
        let mut answers = Vec::new();
        for pending in self.pending.iter().filter(|p| ready(p)) {
            let answer = judge(self.leased.as_ref(), pending.from, &pending.renewal);
            if matches!(answer, Answer::Granted { .. }) {
                self.last_answer_ns = now_ns;
            }
            answers.push((pending.from, pending.renewal, answer));
        }
        self.pending.retain(|p| !ready(p));
        answers
    }
}

fn judge(leased: Option<&Leased>, from: u64, renewal: &Renewal) -> Answer {
    let Some(leased) = leased else {
        return Answer::Denied(Denial::Closed);
    };
    if leased.member != from || leased.epoch != renewal.epoch {
        return Answer::Denied(Denial::NotHolder);
    }
    if leased.incarnation != renewal.incarnation {
        return Answer::Denied(Denial::Incarnation);
    }
    Answer::Granted { lease_ns: leased.lease_ms * NS_PER_MS }
}
