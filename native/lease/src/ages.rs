//! What a voter remembers of the leaders that it confirmed.
//!
//! Source: docs/explanation/lease.md, "Assigning another node".

/// When this voter last confirmed a leader, kept apart for the newest term and for all
/// terms before it.
///
/// To confirm is to answer a heartbeat or an append positively in that leader's own
/// term, or to have been that leader, counted from the stepping down.
#[derive(Clone, Copy, Debug)]
pub struct Confirmations {
    /// When this process took the exclusive lock on its Raft directory: a process
    /// before it may have confirmed anybody up to then.
    lock_ns: i64,
    newest_term: u64,
    newest_ns: i64,
    /// Newest confirmation of any term before `newest_term`.
    older_ns: i64,
}

impl Confirmations {
    pub fn new(lock_ns: i64) -> Self {
        Self { lock_ns, newest_term: 0, newest_ns: lock_ns, older_ns: lock_ns }
    }

    /// A leader of `term` was confirmed at `now_ns`, or this node was it until then.
    pub fn confirmed(&mut self, term: u64, now_ns: i64) {
        if term > self.newest_term {
            self.older_ns = self.newest_ns;
            self.newest_term = term;
        } else if term < self.newest_term {
            self.older_ns = self.older_ns.max(now_ns);
            return;
        }
        self.newest_ns = self.newest_ns.max(now_ns);
    }

    /// How long ago a leader of a term before `asked_term` was last confirmed.
    ///
    /// An asker of an older term than the newest confirmed one is no leader any more;
    /// it gets the youngest confirmation, which can only make it wait longer.
    pub fn age_ns(&self, asked_term: u64, now_ns: i64) -> i64 {
        let last_ns = if asked_term == self.newest_term {
            self.older_ns
        } else {
            self.newest_ns.max(self.older_ns)
        };
        (now_ns - last_ns.max(self.lock_ns)).max(0)
    }
}
