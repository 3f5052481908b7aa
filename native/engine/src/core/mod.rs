//! Raft, renewals and ages without I/O: inputs carry the instant, outputs are drained.
//!
//! The driver gives every [`Output::Persist`] to the disk and says so with
//! [`Core::persisted`]; nothing that depends on it leaves before.

mod commands;
mod leases;
mod reads;
mod ready;
mod status;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use pgbastion_lease::{Confirmations, Granter, Holder, PageWords, NS_PER_MS};
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};
use slog::{o, Discard, Logger};

use crate::event::{Event, Payload, Status};
use crate::members::Members;
use crate::memlog::MemLog;
use crate::records::{Base, Recovered};
use crate::wire::{Class, Packet};

pub use commands::Change;
use commands::Commands;
use leases::AgeRound;
use reads::Reads;
use ready::Flush;
pub use status::{CoreStatus, PeerStatus};
use watch::Watch;

/// Longest data of one proposal, in bytes.
pub const PROPOSAL_MAX: usize = 256 << 10;
/// Entries handed to the host and not yet applied by it.
const HANDED_MAX: u64 = 1_024;
/// Appends on the way to one member; each is at most `APPEND_MAX` bytes.
const INFLIGHT_MAX: usize = 128;
const APPEND_MAX: u64 = 256 << 10;
const UNCOMMITTED_MAX: u64 = 16 << 20;

/// What a core needs to know before anything else.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub member: u64,
    pub tick_ms: u64,
    pub heartbeat_ticks: usize,
    pub election_ticks: usize,
    /// Where election time-outs are drawn from.
    pub seed: u64,
    /// Differs at every start, so that ids of proposals and reads never repeat.
    pub nonce: u64,
    /// When the exclusive lock on the log was taken.
    pub lock_ns: i64,
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    Send {
        to: u64,
        class: Class,
        frame: Vec<u8>,
    },
    /// Must be on disk before [`Core::persisted`] is called with the token.
    Persist {
        token: u64,
        records: Vec<u8>,
    },
    /// The lease of this node's epoch ends at this instant: for the shared page, and
    /// an event once it is there.
    Expiry {
        epoch: i64,
        expiry_ns: i64,
    },
    /// Whom to dial, and whom never to accept again.
    Peers(Members),
    Event(Event),
}

/// A leadership of this node.
#[derive(Clone, Debug)]
struct Leadership {
    term: u64,
    elected_ns: i64,
    /// Index of its first entry.
    own_index: u64,
    /// Every set of voters since the election.
    configurations: Vec<Vec<u64>>,
}

pub struct Core {
    settings: Settings,
    node: RawNode<MemLog>,
    outputs: Vec<Output>,
    /// What is on its way to the disk; until it is there, no other ready is taken.
    flush: Option<Flush>,
    watch: Watch,
    tokens: u64,
    ids: u64,
    /// Term, vote and commit as the disk has them.
    durable: HardState,
    /// Committed, and not yet applied to the membership.
    committed: VecDeque<Entry>,
    applied: u64,
    members: Members,
    /// The members after each change since the log's base.
    history: BTreeMap<u64, Members>,
    compaction: Option<(u64, Vec<u8>)>,
    handed: u64,
    host_applied: u64,
    leadership: Option<Leadership>,
    leader_seen: (u64, u64),
    campaigns: u64,
    heard_ns: BTreeMap<u64, i64>,
    commands: Commands,
    reads: Reads,
    granter: Arc<Mutex<Granter>>,
    holder: Holder,
    page: PageWords,
    withheld: Option<&'static str>,
    confirmations: Confirmations,
    age_questions: BTreeMap<u64, (u64, u64)>,
    age_round: Option<AgeRound>,
}

impl Core {
    /// Go on from what the log says.
    ///
    /// # Errors
    ///
    /// The Raft library refuses the settings or the log.
    pub fn new(settings: Settings, log: Recovered) -> raft::Result<Self> {
        let base = log.base.clone();
        let durable = log.hard_state.clone();
        let config = Config {
            id: settings.member,
            election_tick: settings.election_ticks,
            // The library's share is fixed: this is its largest, see `tick_raft`.
            heartbeat_tick: settings.election_ticks - 1,
            applied: base.index,
            max_size_per_msg: APPEND_MAX,
            max_inflight_msgs: INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: UNCOMMITTED_MAX,
            max_committed_size_per_ready: APPEND_MAX,
            ..Config::default()
        };
        let node = RawNode::new(&config, MemLog::new(log), &Logger::root(Discard, o!()))?;
        let mut core = Self {
            settings,
            node,
            outputs: Vec::new(),
            flush: None,
            watch: Watch::default(),
            tokens: 0,
            ids: mix(settings.nonce),
            durable,
            committed: VecDeque::new(),
            applied: base.index,
            members: base.members.clone(),
            history: BTreeMap::new(),
            compaction: None,
            handed: base.index,
            host_applied: base.index,
            leadership: None,
            leader_seen: (0, 0),
            campaigns: 0,
            heard_ns: BTreeMap::new(),
            commands: Commands::default(),
            reads: Reads::default(),
            granter: Arc::default(),
            holder: Holder::numbered_from(mix(settings.nonce)),
            page: PageWords::default(),
            withheld: None,
            confirmations: Confirmations::new(settings.lock_ns),
            age_questions: BTreeMap::new(),
            age_round: None,
        };
        if base.index > 0 {
            let (index, data, members) = (base.index, base.data, base.members);
            core.outputs.push(Output::Peers(members.clone()));
            core.event(Event::Snapshot { index, data });
            core.event(Event::Members { index, members });
        }
        core.turn(settings.lock_ns);
        Ok(core)
    }

    /// The leader's side of the lease, which another thread may close at once.
    pub fn granter(&self) -> Arc<Mutex<Granter>> {
        Arc::clone(&self.granter)
    }

    /// A tick lasts so long from now on, and a heartbeat comes every so many of them.
    /// An election time-out keeps its number of ticks.
    pub fn pace(&mut self, tick_ms: u64, heartbeat_ticks: usize) {
        self.settings.tick_ms = tick_ms;
        self.settings.heartbeat_ticks = heartbeat_ticks;
    }

    /// One tick of Raft's clock has passed.
    pub fn tick(&mut self, now_ns: i64) {
        self.heed_host();
        self.heed_disk(now_ns);
        if self.host_silent() {
            // It does not campaign, but has to notice that its leader is gone: until
            // then it refuses others its vote.
            self.node.raft.election_elapsed += 1;
        } else if !self.disk_silent(now_ns) && !self.restoring() {
            // Else nobody would hear its campaign, or it may not begin one.
            self.tick_raft();
        }
        self.turn(now_ns);
        self.expire(now_ns);
        self.pulse(now_ns);
        self.turn(now_ns);
    }

    fn tick_raft(&mut self) {
        let raft = &self.node.raft;
        let alone = self.members.voters == [self.settings.member];
        if alone && raft.state == StateRole::Follower {
            // Nobody else can vote: waiting for the time-out would gain nothing. What
            // keeps it from campaigning ends by itself, and then it tries again: it
            // leads at once, and the library ends the process where its log is not on
            // disk by then.
            if self.flush.is_none() && self.committed.is_empty() {
                let _ = self.node.campaign();
            }
        } else {
            if raft.state != StateRole::Leader
                && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
            {
                self.campaigns += 1;
            }
            self.node.tick();
            // The library has just sent a heartbeat of its own where this is 0.
            let elapsed = self.node.raft.heartbeat_elapsed();
            if elapsed > 0 && elapsed.is_multiple_of(self.settings.heartbeat_ticks) {
                self.node.ping();
            }
        }
    }

    /// A frame has come from a member whose identity is proven.
    pub fn receive(&mut self, from: u64, packet: Packet, now_ns: i64) {
        self.heard_ns.insert(from, now_ns);
        match packet {
            Packet::Raft(message) => self.step(from, *message, now_ns),
            Packet::Renewal(renewal) => self.renewal_arrived(from, renewal),
            Packet::Answer { epoch, number, answer } => {
                self.answered(from, epoch, number, answer, now_ns);
            }
            Packet::AskAge { term, number } => {
                self.age_questions.insert(from, (term, number));
            }
            Packet::Age { term, number, age_ns } => {
                self.age_arrived(from, term, number, age_ns, now_ns);
            }
            // The driver's own.
            Packet::Request { .. }
            | Packet::Reply { .. }
            | Packet::Broadcast { .. }
            | Packet::Introduce { .. } => {}
        }
        self.turn(now_ns);
    }

    /// What this `Persist` carried is on disk.
    pub fn persisted(&mut self, token: u64, now_ns: i64) {
        self.pulse_answered(token, now_ns);
        self.flushed(token, now_ns);
        self.turn(now_ns);
    }

    /// The host's state has everything up to `index`.
    pub fn applied(&mut self, index: u64, now_ns: i64) {
        self.host_applied = self.host_applied.max(index.min(self.handed));
        self.turn(now_ns);
    }

    /// What the shared page says now.
    pub fn set_page(&mut self, page: PageWords) {
        self.page = page;
    }

    /// Take what there is to do, in the order in which it has to be done.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// A connection to this member is gone, and with it what was on the way.
    pub fn unreachable(&mut self, member: u64, now_ns: i64) {
        self.node.report_unreachable(member);
        self.turn(now_ns);
    }

    /// The snapshot for this member was sent, or was not.
    pub fn snapshot_sent(&mut self, member: u64, arrived: bool, now_ns: i64) {
        let status = if arrived {
            raft::SnapshotStatus::Finish
        } else {
            raft::SnapshotStatus::Failure
        };
        self.node.report_snapshot(member, status);
        self.turn(now_ns);
    }

    fn step(&mut self, from: u64, message: Message, now_ns: i64) {
        if !self.admissible(from, &message) {
            return;
        }
        self.check_own_word(&message);
        let (kind, term) = (message.get_msg_type(), message.term);
        // What the library refuses is lost, as if the network had lost it.
        let _ = self.node.step(message);
        self.observe(now_ns);
        let asks = matches!(
            kind,
            MessageType::MsgHeartbeat | MessageType::MsgAppend | MessageType::MsgSnapshot
        );
        let raft = &self.node.raft;
        if asks && raft.term == term && raft.leader_id == from {
            self.confirmations.confirmed(term, now_ns);
        }
    }

    /// A leader's heartbeat tells of what is committed as far as this member has said
    /// that it has it.
    ///
    /// # Panics
    ///
    /// The log lacks some of that, which the library would end the process for as well.
    fn check_own_word(&self, message: &Message) {
        let raft = &self.node.raft;
        let heard = message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= raft.term;
        let last_index = raft.raft_log.last_index();
        assert!(
            !heard || message.commit <= last_index,
            "this member has told its leader that it has entry {}, and its log ends with \
             entry {last_index}. Was its Raft directory put back from a copy? It has \
             forgotten what others count on: move the directory away and start again, \
             then this node joins anew",
            message.commit
        );
    }

    /// Tell whether a message may reach the library, which ends the process on some
    /// senseless ones.
    fn admissible(&self, from: u64, message: &Message) -> bool {
        let forwarded_transfer = message.get_msg_type() == MessageType::MsgTransferLeader;
        if message.to != self.settings.member
            || (message.from != from && !forwarded_transfer)
            || self.members.removed.contains(&from)
        {
            return false;
        }
        match message.get_msg_type() {
            MessageType::MsgPropose => {
                !message.entries.is_empty()
                    && message.entries.iter().all(|entry| {
                        entry.get_entry_type() == EntryType::EntryNormal
                            && entry.data.len() <= PROPOSAL_MAX
                    })
            }
            MessageType::MsgTimeoutNow => !self.restoring() && !self.host_silent(),
            MessageType::MsgReadIndex => message.entries.len() == 1,
            MessageType::MsgSnapshot => {
                let snapshot = message.get_snapshot();
                Base::decode(snapshot.get_data())
                    .is_ok_and(|base| base.index == snapshot.get_metadata().index)
            }
            _ => true,
        }
    }

    /// Do all that can be done now.
    fn turn(&mut self, now_ns: i64) {
        self.heed_disk(now_ns);
        self.observe(now_ns);
        self.advance_commands(now_ns);
        self.renew(now_ns);
        loop {
            self.advance_reads(now_ns);
            self.begin_lease_read();
            if !self.pump(now_ns) {
                break;
            }
        }
        self.start_compaction(now_ns);
        self.hand_out();
        self.complete_commands();
        self.complete_reads();
        self.answer_renewals(now_ns);
        self.answer_ages(now_ns);
        self.finish_ages(now_ns);
    }

    /// Notice a change of leader or of our own role.
    fn observe(&mut self, now_ns: i64) {
        let raft = &self.node.raft;
        let (term, leader, is_leader) =
            (raft.term, raft.leader_id, raft.state == StateRole::Leader);
        if let Some(ended) =
            self.leadership.take_if(|leadership| !is_leader || leadership.term != term)
        {
            self.confirmations.confirmed(ended.term, now_ns);
            self.granter().lock().expect("no holder panics").deposed();
            self.end_age_round(Status::NotLeader);
        }
        if is_leader && self.leadership.is_none() {
            self.leadership = Some(Leadership {
                term,
                elected_ns: now_ns,
                own_index: self.node.raft.raft_log.last_index(),
                configurations: vec![self.members.voters.clone()],
            });
            self.granter().lock().expect("no holder panics").elected();
        }
        if self.leader_seen != (term, leader) {
            let had = self.leader_seen.1;
            self.leader_seen = (term, leader);
            if leader != 0 || had != 0 {
                self.event(Event::Leader { term, leader });
            }
            if leader != 0 {
                self.holder.leader_changed();
                self.reads.leader_changed();
                self.commands.leader_changed();
            }
        }
        self.draw_time_out();
    }

    /// Override the library's own draw, which nobody could repeat.
    fn draw_time_out(&mut self) {
        let Settings { seed, member, election_ticks, .. } = self.settings;
        let term = self.node.raft.term;
        let drawn = [member, term, self.campaigns]
            .into_iter()
            .fold(seed, |state, value| mix(state ^ value));
        let ticks = election_ticks + (drawn % election_ticks as u64) as usize;
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    fn event(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    fn done(&mut self, token: u64, status: Status, payload: Payload) {
        self.event(Event::Done { token, status, payload });
    }

    fn send(&mut self, to: u64, packet: &Packet) {
        self.outputs.push(Output::Send { to, class: Class::Raft, frame: packet.encode() });
    }

    /// An id that no proposal or read of any member has ever had.
    fn fresh_id(&mut self) -> (u64, Vec<u8>) {
        self.ids = self.ids.wrapping_add(1);
        let mut id = Vec::with_capacity(24);
        for part in [self.settings.member, self.settings.nonce, self.ids] {
            id.extend_from_slice(&part.to_be_bytes());
        }
        (self.ids, id)
    }

    /// The counter of an id of ours; `None`: it is another's, or of an earlier start.
    fn own_id(&self, id: &[u8]) -> Option<u64> {
        let (prefix, counter) = id.split_last_chunk::<8>()?;
        let (member, nonce) = prefix.split_first_chunk::<8>()?;
        let ours = *member == self.settings.member.to_be_bytes()
            && nonce == self.settings.nonce.to_be_bytes();
        ours.then(|| u64::from_be_bytes(*counter))
    }

    fn ticks_ns(&self, ticks: usize) -> i64 {
        ticks as i64 * self.settings.tick_ms as i64 * NS_PER_MS
    }
}

/// Steele, Lea, Flood, "Fast splittable pseudorandom number generators": the output
/// function, which scatters any counter.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
