//! Reads of the newest committed index, confirmed by a majority (ReadIndex).

use std::collections::BTreeMap;

use raft::StateRole;

use super::Core;
use crate::event::{Payload, Status};

const PENDING_MAX: usize = 1_024;

struct Read {
    deadline_ns: i64,
    /// The counter of the context that is on its way, and since when.
    sent: Option<(u64, i64)>,
    index: Option<u64>,
}

/// The host's reads by token. A context is never sent twice: what was lost is asked
/// again under a new one, and the read counts from that.
#[derive(Default)]
pub(super) struct Reads {
    reads: BTreeMap<u64, Read>,
}

impl Reads {
    pub(super) fn leader_changed(&mut self) {
        for read in self.reads.values_mut().filter(|read| read.index.is_none()) {
            read.sent = None;
        }
    }

    pub(super) fn expire(&mut self, now_ns: i64, ended: &mut Vec<(u64, bool)>) {
        self.reads.retain(|token, read| {
            let over = read.deadline_ns <= now_ns;
            if over {
                ended.push((*token, read.sent.is_none()));
            }
            !over
        });
    }
}

impl Core {
    /// Find the newest committed index; done when the host has applied that far.
    pub fn read_index(&mut self, token: u64, deadline_ns: i64, now_ns: i64) {
        if self.reads.reads.len() >= PENDING_MAX {
            return self.done(token, Status::Refused, Payload::Reason("busy"));
        }
        let read = Read { deadline_ns, sent: None, index: None };
        self.reads.reads.insert(token, read);
        self.turn(now_ns);
    }

    /// Send reads that are not on their way, and those that seem lost.
    pub(super) fn advance_reads(&mut self, now_ns: i64) {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader;
        if raft.leader_id == 0 || (leads && !raft.commit_to_current_term()) {
            return;
        }
        let lost_before_ns = now_ns - self.ticks_ns(self.settings.election_ticks);
        let due: Vec<u64> = self
            .reads
            .reads
            .iter()
            .filter(|(_, read)| read.index.is_none())
            .filter(|(_, read)| read.sent.is_none_or(|(_, at)| at <= lost_before_ns))
            .map(|(token, _)| *token)
            .collect();
        for token in due {
            let (counter, id) = self.fresh_id();
            if let Some(read) = self.reads.reads.get_mut(&token) {
                read.sent = Some((counter, now_ns));
            }
            self.node.read_index(id);
        }
    }

    /// A majority has confirmed the leader since the read of this context began.
    pub(super) fn read_confirmed(&mut self, context: &[u8], index: u64) {
        let Some(counter) = self.own_id(context) else { return };
        let read = self
            .reads
            .reads
            .values_mut()
            .find(|read| read.sent.is_some_and(|(sent, _)| sent == counter));
        match read {
            Some(read) => read.index = Some(index),
            None => self.lease_read_confirmed(counter, index),
        }
    }

    /// End the reads whose index the host has applied.
    pub(super) fn complete_reads(&mut self) {
        let applied = self.host_applied;
        let mut done = Vec::new();
        self.reads.reads.retain(|token, read| match (read.index, read.sent) {
            (Some(index), Some((_, sent_ns))) if index <= applied => {
                done.push((*token, index, sent_ns));
                false
            }
            _ => true,
        });
        for (token, index, sent_ns) in done {
            self.done(token, Status::Ok, Payload::Read { index, sent_ns });
        }
    }
}
