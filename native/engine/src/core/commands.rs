//! Proposals, changes of members and transfers: from the host's word to its outcome.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::ConfChangeType;
use raft::StateRole;

use super::{Core, PROPOSAL_MAX};
use crate::event::{Payload, Status};
use crate::members::{conf_change, ADDRESS_MAX};

/// Commands under way at once.
const PENDING_MAX: usize = 4_096;
/// A learner may become a voter when it lacks no more entries than these.
const CAUGHT_UP_ENTRIES: u64 = 64;

struct Proposal {
    token: u64,
    deadline_ns: i64,
    id: Vec<u8>,
    data: Vec<u8>,
    /// When it was last given to a leader; `None`: surely it is in no log.
    sent_ns: Option<i64>,
    due: bool,
}

/// A change of members on its way.
struct PendingChange {
    id: u64,
    token: u64,
    deadline_ns: i64,
}

/// An entry of ours that the host has been told of.
struct Handed {
    index: u64,
    token: u64,
    deadline_ns: i64,
}

struct Transfer {
    token: u64,
    to: u64,
    deadline_ns: i64,
    asked: bool,
}

/// What the host has asked for and not been answered yet, by the counter of its id.
#[derive(Default)]
pub(super) struct Commands {
    proposals: BTreeMap<u64, Proposal>,
    change: Option<PendingChange>,
    transfer: Option<Transfer>,
    handed: VecDeque<Handed>,
}

impl Commands {
    /// The host has been told of the entry with this id.
    pub(super) fn handed(&mut self, id: u64, index: u64) {
        let change = self.change.take_if(|change| change.id == id);
        let waiting =
            change.map(|change| (change.token, change.deadline_ns)).or_else(|| {
                self.proposals
                    .remove(&id)
                    .map(|proposal| (proposal.token, proposal.deadline_ns))
            });
        if let Some((token, deadline_ns)) = waiting {
            self.handed.push_back(Handed { index, token, deadline_ns });
        }
    }

    pub(super) fn change_pending(&self) -> bool {
        self.change.is_some()
    }

    /// The old leader may have lost what it was given. Whoever has it twice in the log
    /// finds the same id twice, and the host applies the first.
    pub(super) fn leader_changed(&mut self) {
        for proposal in self.proposals.values_mut() {
            proposal.due = true;
        }
    }
}

/// A change of members, as the host names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    AddLearner,
    Promote,
    Remove,
}

impl Change {
    pub fn of(word: &str) -> Option<Change> {
        match word {
            "add_learner" => Some(Change::AddLearner),
            "promote" => Some(Change::Promote),
            "remove" => Some(Change::Remove),
            _ => None,
        }
    }
}

impl Core {
    /// Put `data` into the log. Done when the host has applied the entry here; while no
    /// leader is known it waits. It is sent anew, under the same id, when it may be lost;
    /// once it was sent, its outcome may stay unknown.
    pub fn propose(&mut self, token: u64, data: Vec<u8>, deadline_ns: i64, now_ns: i64) {
        if data.is_empty() || data.len() > PROPOSAL_MAX {
            return self.done(token, Status::TooLarge, Payload::Nothing);
        }
        if self.commands.proposals.len() >= PENDING_MAX {
            return self.done(token, Status::Refused, Payload::Reason("busy"));
        }
        let (counter, id) = self.fresh_id();
        let proposal = Proposal { token, deadline_ns, id, data, sent_ns: None, due: true };
        self.commands.proposals.insert(counter, proposal);
        self.turn(now_ns);
    }

    /// Change the members, one at a time.
    pub fn change(
        &mut self,
        token: u64,
        change: Change,
        (member, address): (u64, &str),
        deadline_ns: i64,
        now_ns: i64,
    ) {
        if self.node.raft.state != StateRole::Leader {
            return self.done(token, Status::NotLeader, Payload::Nothing);
        }
        if let Some(reason) = self.change_refused(change, member, address, now_ns) {
            return self.done(token, Status::Refused, Payload::Reason(reason));
        }
        let kind = match change {
            Change::AddLearner => ConfChangeType::AddLearnerNode,
            Change::Promote => ConfChangeType::AddNode,
            Change::Remove => ConfChangeType::RemoveNode,
        };
        let (counter, id) = self.fresh_id();
        if self.node.propose_conf_change(id, conf_change(kind, member, address)).is_err() {
            return self.done(token, Status::Refused, Payload::Reason("busy"));
        }
        self.commands.change = Some(PendingChange { id: counter, token, deadline_ns });
        self.turn(now_ns);
    }

    fn change_refused(
        &self,
        change: Change,
        member: u64,
        address: &str,
        now_ns: i64,
    ) -> Option<&'static str> {
        let members = &self.members;
        // A change before the leader's own entry is committed could meet one of an
        // older leader half-way: Ongaro, "bug in single-server membership changes".
        let settled = self.node.raft.commit_to_current_term();
        if self.commands.change_pending() || self.node.raft.has_pending_conf() || !settled {
            return Some("pending");
        }
        let reason = match change {
            Change::AddLearner if members.removed.contains(&member) => "removed",
            Change::AddLearner if members.contains(member) => "member",
            Change::AddLearner if member == 0 => "id",
            Change::AddLearner if address.is_empty() || address.len() > ADDRESS_MAX => {
                "address"
            }
            Change::Promote if !members.learners.contains(&member) => "not_learner",
            Change::Promote if !self.caught_up(member, now_ns) => "behind",
            Change::Remove if !members.contains(member) => "not_member",
            Change::Remove if member == self.settings.member => "leader",
            Change::Remove if !self.majority_without(member, now_ns) => "majority",
            _ => return None,
        };
        Some(reason)
    }

    /// A voter that does not answer could cost the majority: it has written something
    /// of the log, nearly all of it, and was heard of just now.
    fn caught_up(&self, member: u64, now_ns: i64) -> bool {
        let raft = &self.node.raft;
        let matched = raft.prs().get(member).map_or(0, |progress| progress.matched);
        matched > 0
            && matched + CAUGHT_UP_ENTRIES >= raft.raft_log.last_index()
            && self.answers(member, now_ns)
    }

    /// Tell whether most of the voters that stay once this one is gone are heard of.
    fn majority_without(&self, member: u64, now_ns: i64) -> bool {
        let mut stay: Vec<u64> = self.members.voters.clone();
        stay.retain(|id| *id != member);
        let alive = stay.iter().filter(|id| self.answers(**id, now_ns)).count();
        stay.len() == self.members.voters.len() || 2 * alive > stay.len()
    }

    fn answers(&self, member: u64, now_ns: i64) -> bool {
        let heard_ns = self.heard_ns.get(&member).copied().unwrap_or(i64::MIN / 2);
        member == self.settings.member
            || now_ns - heard_ns <= self.ticks_ns(self.settings.election_ticks)
    }

    /// Hand leadership to a voter.
    pub fn transfer(&mut self, token: u64, to: u64, deadline_ns: i64, now_ns: i64) {
        if !self.members.voters.contains(&to) {
            return self.done(token, Status::Refused, Payload::Reason("not_voter"));
        }
        if self.commands.transfer.is_some() {
            return self.done(token, Status::Refused, Payload::Reason("pending"));
        }
        self.commands.transfer = Some(Transfer { token, to, deadline_ns, asked: false });
        self.turn(now_ns);
    }

    /// Send what could not be sent yet, end what has become true.
    pub(super) fn advance_commands(&mut self, now_ns: i64) {
        let lost_before_ns = now_ns - 2 * self.ticks_ns(self.settings.election_ticks);
        let leader = self.node.raft.leader_id;
        if leader == 0 {
            return;
        }
        for proposal in self.commands.proposals.values_mut() {
            if !proposal.due && proposal.sent_ns.is_none_or(|at| at > lost_before_ns) {
                continue;
            }
            // Refused while leadership is handed over: the next turn tries again.
            if self.node.propose(proposal.id.clone(), proposal.data.clone()).is_err() {
                break;
            }
            proposal.due = false;
            proposal.sent_ns = Some(now_ns);
        }
        let Some(mut transfer) = self.commands.transfer.take() else { return };
        if transfer.to == leader {
            return self.done(transfer.token, Status::Ok, Payload::Nothing);
        }
        if !transfer.asked {
            transfer.asked = true;
            self.node.transfer_leader(transfer.to);
        }
        self.commands.transfer = Some(transfer);
    }

    /// End the commands whose entries the host has applied.
    pub(super) fn complete_commands(&mut self) {
        let applied = self.host_applied;
        while self.commands.handed.front().is_some_and(|handed| handed.index <= applied) {
            let handed = self.commands.handed.pop_front().expect("it was there");
            self.done(handed.token, Status::Ok, Payload::Index(handed.index));
        }
    }

    /// End what is past its deadline.
    pub(super) fn expire(&mut self, now_ns: i64) {
        let mut ended = Vec::new();
        self.commands.proposals.retain(|_, proposal| {
            let over = proposal.deadline_ns <= now_ns;
            if over {
                let unsent = proposal.sent_ns.is_none();
                ended.push((proposal.token, unsent));
            }
            !over
        });
        if let Some(change) = self.commands.change.take_if(|c| c.deadline_ns <= now_ns) {
            ended.push((change.token, false));
        }
        self.commands.handed.retain(|handed| {
            let over = handed.deadline_ns <= now_ns;
            if over {
                ended.push((handed.token, false));
            }
            !over
        });
        if let Some(transfer) = self.commands.transfer.take_if(|t| t.deadline_ns <= now_ns)
        {
            ended.push((transfer.token, !transfer.asked));
        }
        self.reads.expire(now_ns, &mut ended);
        for (token, unsent) in ended {
            let status = if unsent { Status::NoLeader } else { Status::Timeout };
            self.done(token, status, Payload::Nothing);
        }
    }
}
