//! What the core says about itself.

use std::collections::BTreeMap;

use raft::StateRole;

use super::Core;

#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub address: String,
    /// Newest index that it is known to have; the leader alone knows.
    pub matched: u64,
    /// When it was last heard of; 0: never.
    pub heard_ns: i64,
}

#[derive(Clone, Debug)]
pub struct CoreStatus {
    pub member: u64,
    /// Where the others call it; empty: the log has not told yet.
    pub address: String,
    pub role: &'static str,
    pub term: u64,
    pub leader: u64,
    pub committed: u64,
    /// What the host has applied.
    pub applied: u64,
    pub last_index: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub configurations: Vec<Vec<u64>>,
    /// Index of the first entry of this leadership.
    pub own_index: Option<u64>,
    pub lock_ns: i64,
    pub elected_ns: i64,
    pub last_answer_ns: i64,
    pub pending_change: bool,
    /// Since when the log's disk has owed a write; `None`: it owes nothing.
    pub writing_since_ns: Option<i64>,
    pub peers: BTreeMap<u64, PeerStatus>,
}

impl Core {
    pub fn status(&self) -> CoreStatus {
        let raft = &self.node.raft;
        let leadership = self.leadership.as_ref();
        let change = self.commands.change_pending() || raft.has_pending_conf();
        CoreStatus {
            member: self.settings.member,
            address: self.address(),
            role: self.role(),
            term: raft.term,
            leader: raft.leader_id,
            committed: raft.raft_log.committed,
            applied: self.host_applied,
            last_index: raft.raft_log.last_index(),
            voters: self.members.voters.clone(),
            learners: self.members.learners.clone(),
            configurations: leadership.map_or(Vec::new(), |l| l.configurations.clone()),
            own_index: leadership.map(|l| l.own_index),
            lock_ns: self.settings.lock_ns,
            elected_ns: leadership.map_or(0, |l| l.elected_ns),
            last_answer_ns: self.granter.lock().expect("no holder panics").last_answer_ns(),
            pending_change: leadership.is_some() && change,
            writing_since_ns: self.writing_since(),
            peers: self.peers(),
        }
    }

    fn address(&self) -> String {
        self.members.addresses.get(&self.settings.member).cloned().unwrap_or_default()
    }

    fn role(&self) -> &'static str {
        let me = self.settings.member;
        if self.members.learners.contains(&me) {
            return "learner";
        }
        if !self.members.voters.contains(&me) {
            return "none";
        }
        match self.node.raft.state {
            StateRole::Leader => "leader",
            StateRole::Follower => "follower",
            StateRole::Candidate => "candidate",
            StateRole::PreCandidate => "precandidate",
        }
    }

    fn peers(&self) -> BTreeMap<u64, PeerStatus> {
        let progress = |id: &u64| self.node.raft.prs().get(*id).map(|p| p.matched);
        let leads = self.leadership.is_some();
        self.members
            .addresses
            .iter()
            .filter(|(id, _)| **id != self.settings.member)
            .map(|(id, address)| {
                let status = PeerStatus {
                    address: address.clone(),
                    matched: progress(id).filter(|_| leads).unwrap_or(0),
                    heard_ns: self.heard_ns.get(id).copied().unwrap_or(0),
                };
                (*id, status)
            })
            .collect()
    }
}
