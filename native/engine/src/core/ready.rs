//! What the Raft library wants done: to disk first, then out, then applied.

use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use raft::eraftpb::{HardState, Message};
use raft::{StateRole, Storage as _};

use protobuf::Message as _;

use super::{Core, Output, HANDED_MAX};
use crate::event::Event;
use crate::members::Members;
use crate::records::{put_base, put_entry, put_hard_state, Base};
use crate::wire::Packet;

/// What is on its way to the disk, and what waits for it.
pub(super) struct Flush {
    token: u64,
    /// The library's number of the ready; `None`: our own write.
    ready: Option<u64>,
    hard_state: HardState,
    held: Vec<Message>,
    /// Index of the last entry among it.
    pub(super) last_index: Option<u64>,
    /// A snapshot is among it: the library has not heard yet that it is applied.
    restores: bool,
    pub(super) since_ns: i64,
}

impl Flush {
    /// A write of our own, for which no message waits.
    pub(super) fn own(hard_state: HardState, now_ns: i64) -> Flush {
        Flush {
            token: 0,
            ready: None,
            hard_state,
            held: Vec::new(),
            last_index: None,
            restores: false,
            since_ns: now_ns,
        }
    }
}

impl Core {
    /// Take everything that is ready, as far as the disk lets us; tell whether there
    /// was anything.
    pub(super) fn pump(&mut self, now_ns: i64) -> bool {
        let mut some = false;
        while self.flush.is_none() {
            self.apply(now_ns);
            if self.flush.is_some() || !self.node.has_ready() {
                break;
            }
            self.take_ready(now_ns);
            self.observe(now_ns);
            some = true;
        }
        some
    }

    fn take_ready(&mut self, now_ns: i64) {
        let mut ready = self.node.ready();
        let hard_state = self.node.raft.hard_state();
        let mut held = ready.take_persisted_messages();
        let early = ready.take_messages();
        if (hard_state.term, hard_state.vote) == (self.durable.term, self.durable.vote) {
            // A leader may replicate while its own disk writes: thesis, 10.2.1. Its
            // term is on disk already, unless nobody else had to vote for it.
            self.post(early);
        } else {
            held.splice(..0, early);
        }
        for read in ready.take_read_states() {
            self.read_confirmed(&read.request_ctx, read.index);
        }
        let mut records = Vec::new();
        let restores = !ready.snapshot().is_empty();
        if restores {
            self.restore(ready.snapshot().get_data(), &mut records);
        }
        for entry in ready.entries() {
            put_entry(&mut records, entry);
        }
        self.node.mut_store().append(ready.entries());
        self.node.mut_store().set_hard_state(hard_state.clone());
        self.committed.extend(ready.take_committed_entries());
        let (number, must_sync) = (ready.number(), ready.must_sync());
        let last_index = ready.entries().last().map(|entry| entry.index);
        self.node.advance_append_async(ready);
        if must_sync {
            put_hard_state(&mut records, &hard_state);
            let own = Flush::own(hard_state, now_ns);
            self.start_flush(
                records,
                Flush { ready: Some(number), held, last_index, restores, ..own },
            );
        } else {
            self.post(held);
            self.node.on_persist_ready(number);
        }
    }

    pub(super) fn start_flush(&mut self, records: Vec<u8>, flush: Flush) {
        let token = self.fresh_token();
        self.outputs.push(Output::Persist { token, records });
        self.flush = Some(Flush { token, ..flush });
    }

    pub(super) fn fresh_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// The disk has it: now may leave what depended on it.
    pub(super) fn flushed(&mut self, token: u64, now_ns: i64) {
        let Some(flush) = self.flush.take_if(|flush| flush.token == token) else {
            return;
        };
        self.disk_answered(&flush, now_ns);
        self.durable = flush.hard_state;
        self.post(flush.held);
        if let Some(number) = flush.ready {
            self.node.on_persist_ready(number);
        }
        if self.node.raft.raft_log.applied < self.applied {
            // A snapshot was restored: it counts as applied from now on.
            self.node.advance_apply_to(self.applied);
        }
    }

    /// Tell whether a snapshot is on its way to the disk. Until it is there this member
    /// must not campaign: the library would look in the log for changes of members that
    /// it has not applied, and they are gone.
    pub(super) fn restoring(&self) -> bool {
        self.flush.as_ref().is_some_and(|flush| flush.restores)
    }

    fn post(&mut self, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            let packet = Packet::Raft(Box::new(message));
            let class = packet.class();
            self.outputs.push(Output::Send { to, class, frame: packet.encode() });
        }
    }

    /// A leader's snapshot takes the place of our log.
    fn restore(&mut self, data: &[u8], records: &mut Vec<u8>) {
        let base = Base::decode(data).expect("a member's snapshot follows the format");
        put_base(records, &base);
        self.committed.clear();
        self.history.clear();
        self.applied = base.index;
        self.handed = base.index;
        self.members = base.members.clone();
        self.outputs.push(Output::Peers(base.members.clone()));
        self.event(Event::Snapshot { index: base.index, data: base.data.clone() });
        self.event(Event::Members { index: base.index, members: base.members.clone() });
        self.node.mut_store().restore(base);
    }

    /// Let committed entries take effect on the membership.
    fn apply(&mut self, now_ns: i64) {
        while let Some(entry) = self.committed.front() {
            let changes = entry.get_entry_type() != EntryType::EntryNormal;
            if changes && self.durable.commit < entry.index {
                // After a crash the node must know that this change was committed, or
                // it could campaign with the members that it had before: alone, if it
                // was the first one.
                let hard_state = self.node.raft.hard_state();
                let mut records = Vec::new();
                put_hard_state(&mut records, &hard_state);
                self.start_flush(records, Flush::own(hard_state, now_ns));
                return;
            }
            let entry = self.committed.pop_front().expect("it was there");
            if changes {
                self.apply_change(&entry);
            }
            self.applied = entry.index;
            self.node.advance_apply_to(entry.index);
        }
    }

    fn apply_change(&mut self, entry: &Entry) {
        let Some(change) = read_change(entry) else { return };
        let returns = change.get_change_type() != ConfChangeType::RemoveNode
            && self.members.removed.contains(&change.node_id);
        if returns {
            return;
        }
        // The library refuses what would leave no voter, on every node alike.
        let Ok(conf) = self.node.apply_conf_change(&change) else { return };
        self.members.follow(&change, &conf);
        self.history.insert(entry.index, self.members.clone());
        if let Some(leadership) = &mut self.leadership {
            leadership.configurations.push(self.members.voters.clone());
        }
        self.outputs.push(Output::Peers(self.members.clone()));
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !self.members.voters.contains(&raft.id) {
            // Elected while an older leader's removal of this node was on its way. The
            // library would go on leading, and panic at the next acknowledgement.
            let term = raft.term;
            raft.become_follower(term, 0);
        }
    }

    /// Give the host what is applied here, as much as it has room for.
    pub(super) fn hand_out(&mut self) {
        while self.handed < self.applied && self.handed < self.host_applied + HANDED_MAX {
            let index = self.handed + 1;
            let entry = self.node.store().entry(index).expect("applied entries are kept");
            let normal = entry.get_entry_type() == EntryType::EntryNormal;
            let (term, id) = (entry.term, entry.context.to_vec());
            let data = if normal { entry.data.to_vec() } else { Vec::new() };
            self.handed = index;
            self.event(Event::Committed { index, term, id: id.clone(), data });
            if let Some(members) = self.history.get(&index).cloned() {
                self.event(Event::Members { index, members });
            }
            if let Some(id) = self.own_id(&id) {
                self.commands.handed(id, index);
            }
        }
    }

    /// Let the log up to `index` go: `data` is the host's state there. Senseless or
    /// outdated wishes are dropped: the host has newer ones.
    pub fn compact(&mut self, index: u64, data: Vec<u8>, now_ns: i64) {
        self.compaction = Some((index, data));
        self.turn(now_ns);
    }

    pub(super) fn start_compaction(&mut self, now_ns: i64) {
        if self.flush.is_some() {
            return;
        }
        let Some((index, data)) = self.compaction.take() else { return };
        let store = self.node.store();
        if index <= store.base().index || index > self.host_applied {
            return;
        }
        let term = store.term(index).expect("applied entries are kept");
        let base = Base { index, term, members: self.members_at(index), data };
        let mut records = Vec::new();
        put_base(&mut records, &base);
        for entry in store.after(index) {
            put_entry(&mut records, entry);
        }
        let hard_state = store.hard_state().clone();
        put_hard_state(&mut records, &hard_state);
        self.history.retain(|at, _| *at > index);
        self.node.mut_store().compact(base);
        self.start_flush(records, Flush::own(hard_state, now_ns));
    }

    fn members_at(&self, index: u64) -> Members {
        let newest = self.history.range(..=index).next_back();
        let base = &self.node.store().base().members;
        newest.map_or(base, |(_, members)| members).clone()
    }
}

/// Read a change of one member. Joint changes are never proposed, so never read.
fn read_change(entry: &Entry) -> Option<ConfChange> {
    if entry.get_entry_type() != EntryType::EntryConfChange {
        return None;
    }
    ConfChange::parse_from_bytes(&entry.data).ok()
}
