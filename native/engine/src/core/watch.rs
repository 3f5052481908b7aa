//! The watch over the log's disk and over the host: who has one that does not answer
//! leads nobody.

use pgbastion_lease::NS_PER_MS;
use raft::StateRole;

use super::ready::Flush;
use super::{Core, Output};
use crate::event::{Event, Level};

/// A leader that has nothing to write has its disk answer this often, in election
/// time-outs, and gives it as long: nobody waits for what it writes then.
const PULSE_ELECTIONS: usize = 4;
/// So many writes in a row that were slower than those of the others, and leadership
/// goes to one of them.
const SLOW_MAX: usize = 3;

/// What is known of the disk.
#[derive(Default)]
pub(super) struct Watch {
    /// When a write was on disk last.
    answered_ns: i64,
    /// Token of a write of nothing that is under way, and since when.
    pulse: Option<(u64, i64)>,
    slow: usize,
    silence_told: bool,
    /// The disk is full: the log has what is left of its segment.
    full: bool,
    /// Index of the base in whose place another one was wanted.
    outdated_base: Option<u64>,
    /// How many more ticks the host may be silent; `None`: it has promised nothing.
    host_ticks: Option<u64>,
}

impl Core {
    /// Since when a write has been under way; `None`: the disk owes nothing.
    pub(super) fn writing_since(&self) -> Option<i64> {
        let pulse = self.watch.pulse.map(|(_, since_ns)| since_ns);
        self.flush.as_ref().map(|flush| flush.since_ns).or(pulse)
    }

    /// Tell whether the disk has owed a write for an election time-out. Until it
    /// answers, nothing leaves that a write has to come before: others elect.
    pub(super) fn disk_silent(&self, now_ns: i64) -> bool {
        let elections = if self.flush.is_some() { 1 } else { PULSE_ELECTIONS };
        let most_ns = self.ticks_ns(elections * self.settings.election_ticks);
        self.log_is_silent_for(most_ns, now_ns)
    }

    pub(super) fn log_is_silent_for(&self, most_ns: i64, now_ns: i64) -> bool {
        self.writing_since().is_some_and(|since| now_ns - since >= most_ns)
    }

    /// Give leadership up while the disk is silent. Messages are dropped, as the network
    /// may do: they could not leave, and must not pile up.
    pub(super) fn heed_disk(&mut self, now_ns: i64) {
        if !self.disk_silent(now_ns) {
            return;
        }
        self.step_down();
        self.node.raft.msgs.clear();
        if !self.watch.silence_told {
            self.watch.silence_told = true;
            let since_ns = self.writing_since().unwrap_or(now_ns);
            self.tell_of_disk(Level::Warning, "log_disk_silent", now_ns - since_ns);
        }
    }

    /// The host lives, and says so again within so long.
    pub fn host_lives(&mut self, within_ms: u64) {
        if self.host_silent() {
            self.tell_of_host(Level::Info, "host_lives");
        }
        self.watch.host_ticks = Some((within_ms / self.settings.tick_ms).max(1));
    }

    /// Tell whether the host is silent for longer than it has promised.
    pub(super) fn host_silent(&self) -> bool {
        self.watch.host_ticks == Some(0)
    }

    /// Give leadership up while the host is silent: it decides nothing for the cluster.
    /// Ticks count, not time: whoever was paused along with it has waited for nothing.
    pub(super) fn heed_host(&mut self) {
        if self.watch.host_ticks == Some(1) {
            self.tell_of_host(Level::Warning, "host_silent");
        }
        self.watch.host_ticks = self.watch.host_ticks.map(|ticks| ticks.saturating_sub(1));
        if self.host_silent() {
            self.step_down();
        }
    }

    /// Lead no longer, unless there is nobody to take over.
    fn step_down(&mut self) {
        let alone = self.members.voters == [self.settings.member];
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && !(alone && self.members.learners.is_empty()) {
            let term = raft.term;
            raft.become_follower(term, 0);
        }
    }

    /// Have the disk of an idle leader answer, so that its failure is not first found
    /// by the write that matters.
    pub(super) fn pulse(&mut self, now_ns: i64) {
        let every_ns = self.ticks_ns(PULSE_ELECTIONS * self.settings.election_ticks);
        let leads = self.node.raft.state == StateRole::Leader;
        let idle = self.flush.is_none() && self.watch.pulse.is_none();
        if leads && idle && now_ns - self.watch.answered_ns >= every_ns {
            let token = self.fresh_token();
            self.watch.pulse = Some((token, now_ns));
            self.outputs.push(Output::Persist { token, records: Vec::new() });
        }
    }

    /// The disk has answered a write of nothing.
    pub(super) fn pulse_answered(&mut self, token: u64, now_ns: i64) {
        if let Some((_, since_ns)) = self.watch.pulse.take_if(|pulse| pulse.0 == token) {
            self.watch.answered_ns = now_ns;
            self.tell_of_answer(now_ns - since_ns);
        }
    }

    fn tell_of_answer(&mut self, took_ns: i64) {
        if std::mem::take(&mut self.watch.silence_told) {
            self.tell_of_disk(Level::Info, "log_disk_answers", took_ns);
        }
    }

    /// The disk has answered a write, whose last entry had this index.
    pub(super) fn disk_answered(&mut self, flush: &Flush, now_ns: i64) {
        self.watch.answered_ns = now_ns;
        let took_ns = now_ns - flush.since_ns;
        self.tell_of_answer(took_ns);
        let Some(last) = flush.last_index else { return };
        let slow_ns = self.ticks_ns(self.settings.election_ticks) / 2;
        if took_ns < slow_ns || !self.others_have(last) {
            self.watch.slow = 0;
            return;
        }
        self.watch.slow += 1;
        if self.watch.slow >= SLOW_MAX {
            self.watch.slow = 0;
            self.tell_of_disk(Level::Warning, "log_disk_slow", took_ns);
            self.give_way();
        }
    }

    /// Hear whether the log has room beyond its segment, whatever others do to the disk,
    /// and whether a base should take its place. Who has no room gives leadership to
    /// somebody with a disk to write to.
    pub fn disk_has(&mut self, reserved: bool, wants_base: bool) {
        let base = Some(self.node.store().base().index);
        if wants_base && self.watch.outdated_base != base {
            self.watch.outdated_base = base;
            self.event(Event::BaseWanted);
        }
        let full = !reserved;
        if self.watch.full == full {
            return;
        }
        self.watch.full = full;
        let (level, event) = if full {
            (Level::Warning, "log_disk_full")
        } else {
            (Level::Info, "log_disk_has_room")
        };
        self.event(Event::Log { level, event, fields: Vec::new() });
        if full && self.node.raft.state == StateRole::Leader {
            self.give_way();
        }
    }

    /// Tell whether a majority without this leader has acknowledged the entry: then the
    /// others' disks are faster, and they are not all alike.
    fn others_have(&self, index: u64) -> bool {
        let raft = &self.node.raft;
        let voters = &self.members.voters;
        let having = self.other_voters().filter(|(_, matched)| *matched >= index).count();
        raft.state == StateRole::Leader && 2 * having > voters.len()
    }

    fn other_voters(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let prs = self.node.raft.prs();
        let others = self.members.voters.iter().filter(|id| **id != self.settings.member);
        others.map(move |id| (*id, prs.get(*id).map_or(0, |progress| progress.matched)))
    }

    /// Hand leadership to the voter that has most of the log.
    fn give_way(&mut self) {
        let best = self.other_voters().max_by_key(|(id, matched)| (*matched, *id));
        if let Some((id, _)) = best {
            self.node.transfer_leader(id);
        }
    }

    fn tell_of_host(&mut self, level: Level, event: &'static str) {
        self.event(Event::Log { level, event, fields: Vec::new() });
    }

    fn tell_of_disk(&mut self, level: Level, event: &'static str, took_ns: i64) {
        let fields = vec![("took_ms", (took_ns / NS_PER_MS).to_string())];
        self.event(Event::Log { level, event, fields });
    }
}
