//! The Raft thread: it owns the core, the log and the connections, and never waits for
//! the interpreter or the network.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbastion_lease::NS_PER_MS;

use crate::channel::Tls;
use crate::clock::boottime_ns;
use crate::core::{Core, Output, Settings};
use crate::desk::Desk;
use crate::disk::{Cut, DiskLog};
use crate::event::{Event, Level, Payload, Status};
use crate::handshake::fresh_number;
use crate::home::{Home, Identity};
use crate::inbox::{Batch, Received};
use crate::link::Notice;
use crate::listener::{Doorplate, Listener};
use crate::members::Members;
use crate::page::Page;
use crate::peers::Peers;
use crate::records::Recovered;
use crate::shared::{Command, Shared};
use crate::talk::{Asker, Questions};
use crate::wire::{Class, Packet, TALK_MAX};
use crate::writer::Writer;

/// After a pause of the whole process the sockets' readers get this long to bring what
/// has arrived meanwhile, before time passes for Raft.
const SETTLE: Duration = Duration::from_millis(3);
/// Lines of the log that are remembered as said.
const SAID_MAX: usize = 1_024;

#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub dir: PathBuf,
    pub listen: String,
    pub secret: Vec<u8>,
    pub tick_ms: u64,
    pub heartbeat_ticks: usize,
    pub election_ticks: usize,
    /// Empty: a node without PostgreSQL, which never holds the lease.
    pub page_path: String,
    pub generation: i64,
    /// 0: drawn from the system.
    pub seed: u64,
}

/// What there is once this node is a member.
struct Membership {
    core: Core,
    writer: Writer,
    peers: Peers,
    next_tick_ns: i64,
}

pub struct Driver {
    settings: NodeSettings,
    home: Home,
    page: Option<Page>,
    shared: Arc<Shared>,
    doorplate: Arc<Mutex<Doorplate>>,
    listener: Listener<Desk>,
    secret: Arc<Vec<u8>>,
    tls: Tls,
    member: Option<Membership>,
    questions: Questions,
    said: BTreeSet<String>,
}

impl Driver {
    pub fn new(
        settings: NodeSettings,
        home: Home,
        page: Option<Page>,
        shared: Arc<Shared>,
        doorplate: Arc<Mutex<Doorplate>>,
        listener: Listener<Desk>,
        (secret, tls): (Arc<Vec<u8>>, Tls),
    ) -> Driver {
        Driver {
            settings,
            home,
            page,
            shared,
            doorplate,
            listener,
            secret,
            tls,
            member: None,
            questions: Questions::default(),
            said: BTreeSet::new(),
        }
    }

    /// Run Raft from now on.
    pub fn become_member(
        &mut self,
        identity: Identity,
        log: DiskLog,
        recovered: Recovered,
    ) -> Result<(), String> {
        let nonce = fresh_number();
        let settings = Settings {
            member: identity.member,
            tick_ms: self.settings.tick_ms,
            heartbeat_ticks: self.settings.heartbeat_ticks,
            election_ticks: self.settings.election_ticks,
            seed: if self.settings.seed == 0 { nonce } else { self.settings.seed },
            nonce,
            lock_ns: self.home.lock_ns,
        };
        let core = Core::new(settings, recovered)
            .map_err(|e| format!("{}: {e}", self.settings.dir.display()))?;
        let who = (identity.cluster.clone(), identity.member);
        *self.shared.granter.lock().expect("no holder panics") = Some(core.granter());
        *self.shared.identity.lock().expect("no holder panics") = Some(who.clone());
        {
            let mut plate = self.doorplate.lock().expect("no holder panics");
            plate.identity = Some(who.clone());
            plate.addresses = identity.addresses();
        }
        let inbox = Arc::clone(&self.shared);
        let tell = move |member, class, notice| {
            inbox.inbox.command(Command::Link { member, class, notice });
        };
        let peers = Peers::new(
            who,
            (Arc::clone(&self.secret), self.tls.clone()),
            self.listener.address,
            identity.addresses(),
            Arc::new(tell),
        );
        let writer = self.write_to(log)?;
        let next_tick_ns = boottime_ns() + self.tick_ns();
        self.member = Some(Membership { core, writer, peers, next_tick_ns });
        self.carry_out();
        Ok(())
    }

    fn write_to(&self, log: DiskLog) -> Result<Writer, String> {
        let dir = &self.settings.dir;
        let inbox = Arc::clone(&self.shared);
        let tell = move |token, room| inbox.inbox.command(Command::Written { token, room });
        Writer::start(dir, log, Arc::clone(&self.home.lock), tell)
            .map_err(|e| format!("{}: cannot start the log's thread: {e}", dir.display()))
    }

    pub fn log_was_cut(&mut self, cut: &Cut) {
        let fields = vec![
            ("file", cut.file.display().to_string()),
            ("offset", cut.offset.to_string()),
        ];
        self.say(Level::Warning, "log_tail_cut", fields);
    }

    pub fn run(mut self) {
        loop {
            let batch = self.shared.inbox.take(self.wait());
            let late_ns = self.late_ns();
            if !self.take(batch) {
                break;
            }
            if late_ns > self.tick_ns() {
                let batch = self.shared.inbox.take(SETTLE);
                if !self.take(batch) {
                    break;
                }
            }
            self.tick();
        }
        self.shared.inbox.close();
        self.listener.stop();
        self.shared.outbox.close();
    }

    fn tick_ns(&self) -> i64 {
        self.settings.tick_ms as i64 * NS_PER_MS
    }

    fn late_ns(&self) -> i64 {
        self.member.as_ref().map_or(0, |member| boottime_ns() - member.next_tick_ns)
    }

    fn wait(&self) -> Duration {
        let ns = match &self.member {
            Some(_) => (-self.late_ns()).max(0),
            None => self.tick_ns(),
        };
        Duration::from_nanos(ns as u64)
    }

    /// Let one tick pass if it is time, and never more than one at a wake-up: who was
    /// paused hears the others before it campaigns.
    fn tick(&mut self) {
        let now_ns = boottime_ns();
        let tick_ns = self.tick_ns();
        for token in self.questions.expired(now_ns) {
            self.done(token, Status::Timeout, Payload::Nothing);
        }
        let Some(member) = &mut self.member else { return };
        if now_ns < member.next_tick_ns {
            return;
        }
        member.next_tick_ns += tick_ns;
        if member.next_tick_ns <= now_ns {
            member.next_tick_ns = now_ns + tick_ns;
        }
        if let Some(page) = &self.page {
            member.core.set_page(page.words());
        }
        member.core.tick(now_ns);
        self.carry_out();
    }

    /// Take what has come in; false: stop.
    fn take(&mut self, batch: Batch<Command>) -> bool {
        if let (Some(member), Some(page)) = (&mut self.member, &self.page) {
            member.core.set_page(page.words());
        }
        for Received { from, packet } in batch.raft {
            self.receive(from, packet);
        }
        for command in batch.commands {
            if matches!(command, Command::Stop) {
                return false;
            }
            self.command(command);
        }
        for Received { from, packet } in batch.talk {
            self.receive(from, packet);
        }
        self.carry_out();
        true
    }

    fn receive(&mut self, from: u64, packet: Packet) {
        match packet {
            Packet::Request { number, kind, payload } => {
                let id = self.shared.askers.add(Asker::Member { member: from, number });
                self.shared.outbox.push(Event::Request { id, from, kind, payload });
            }
            Packet::Reply { number, payload } => {
                if self.questions.answered(number, from) {
                    self.done(number, Status::Ok, Payload::Bytes(payload));
                }
            }
            Packet::Broadcast { kind, payload } => {
                self.shared.outbox.push(Event::Request { id: 0, from, kind, payload });
            }
            Packet::Introduce { address } => {
                if let Some(member) = &mut self.member {
                    member.peers.introduced(from, address);
                }
            }
            packet => {
                if let Some(member) = &mut self.member {
                    member.core.receive(from, packet, boottime_ns());
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Settle { identity, records, reply } => {
                // Who asked may be gone; what was settled is settled.
                let _ = reply.send(self.settle(identity, &records));
            }
            Command::Answer { id, payload } => self.answer(id, payload),
            Command::GuestAsks { id, kind, payload } => {
                self.shared.outbox.push(Event::Request { id, from: 0, kind, payload });
            }
            Command::Link { member, class, notice } => self.noticed(member, class, notice),
            command => self.member_command(command),
        }
    }

    fn settle(&mut self, identity: Identity, records: &[u8]) -> Result<(), String> {
        if self.member.is_some() {
            return Err("this node is a member already".into());
        }
        let (log, recovered) = self.home.settle(&identity, records)?;
        self.become_member(identity, log, recovered)
    }

    fn member_command(&mut self, command: Command) {
        let now_ns = boottime_ns();
        let Some(member) = &mut self.member else {
            return self.not_a_member(command);
        };
        let core = &mut member.core;
        match command {
            Command::Propose { token, data, deadline_ns } => {
                core.propose(token, data, deadline_ns, now_ns);
            }
            Command::ReadIndex { token, deadline_ns } => {
                core.read_index(token, deadline_ns, now_ns);
            }
            Command::Change { token, change, member, address, deadline_ns } => {
                core.change(token, change, (member, &address), deadline_ns, now_ns);
            }
            Command::Transfer { token, member, deadline_ns } => {
                core.transfer(token, member, deadline_ns, now_ns);
            }
            Command::Ages { token, deadline_ns } => core.ages(token, deadline_ns, now_ns),
            Command::Applied { index } => core.applied(index, now_ns),
            Command::Hold { hold } => core.hold(hold, now_ns),
            Command::Pace { tick_ms, heartbeat_ticks } => {
                self.settings.tick_ms = tick_ms;
                core.pace(tick_ms, heartbeat_ticks);
            }
            Command::Lives { within_ms } => core.host_lives(within_ms),
            Command::Compact { index, data } => core.compact(index, data, now_ns),
            Command::Written { token, room } => {
                core.disk_has(room.reserved, room.wants_base);
                core.persisted(token, now_ns);
            }
            Command::Request { token, member, kind, payload, deadline_ns } => {
                self.request(token, member, (kind, payload), deadline_ns);
            }
            Command::Broadcast { kind, payload } => {
                let frame = Packet::Broadcast { kind, payload }.encode();
                for id in member.peers.ids() {
                    member.peers.send(id, Class::Talk, frame.clone());
                }
            }
            _ => {}
        }
    }

    /// Nothing can be asked of a node that is no member.
    fn not_a_member(&mut self, command: Command) {
        match command {
            Command::Propose { token, .. }
            | Command::ReadIndex { token, .. }
            | Command::Request { token, .. } => {
                self.done(token, Status::NoLeader, Payload::Nothing);
            }
            Command::Change { token, .. }
            | Command::Transfer { token, .. }
            | Command::Ages { token, .. } => {
                self.done(token, Status::NotLeader, Payload::Nothing);
            }
            _ => {}
        }
    }

    fn request(
        &mut self,
        token: u64,
        to: u64,
        (kind, payload): (u32, Vec<u8>),
        deadline_ns: i64,
    ) {
        let Some(member) = &self.member else { return };
        if payload.len() > TALK_MAX {
            return self.done(token, Status::TooLarge, Payload::Nothing);
        }
        let myself = self.shared.identity.lock().expect("no holder panics").clone();
        self.questions.asked(token, to, deadline_ns);
        if myself.is_some_and(|(_, me)| me == to) {
            let id = self.shared.askers.add(Asker::Own(token));
            self.shared.outbox.push(Event::Request { id, from: to, kind, payload });
            return;
        }
        let frame = Packet::Request { number: token, kind, payload }.encode();
        // A question that does not get through ends at its deadline.
        member.peers.send(to, Class::Talk, frame);
    }

    fn answer(&mut self, id: u64, payload: Vec<u8>) {
        if payload.len() > TALK_MAX {
            return self.say(Level::Error, "answer_too_large", Vec::new());
        }
        match self.shared.askers.take(id) {
            Some(Asker::Guest(guest)) => {
                // A guest that is gone asks again.
                let _ = guest.try_send(payload);
            }
            Some(Asker::Member { member: to, number }) => {
                if let Some(member) = &self.member {
                    let frame = Packet::Reply { number, payload }.encode();
                    member.peers.send(to, Class::Talk, frame);
                }
            }
            Some(Asker::Own(token)) => {
                let me = self.shared.identity.lock().expect("no holder panics").clone();
                if self.questions.answered(token, me.map_or(0, |(_, member)| member)) {
                    self.done(token, Status::Ok, Payload::Bytes(payload));
                }
            }
            None => {}
        }
    }

    fn noticed(&mut self, id: u64, class: Class, notice: Notice) {
        let now_ns = boottime_ns();
        let Some(member) = &mut self.member else { return };
        match (class, notice) {
            (Class::Raft, Notice::Up) => {
                self.said
                    .retain(|line| !line.starts_with(&format!("peer_unreachable {id} ")));
            }
            (Class::Raft, Notice::Lost) => member.core.unreachable(id, now_ns),
            (Class::Raft, Notice::Failed(why)) => {
                let fields = vec![("member", id.to_string()), ("why", why)];
                self.say(Level::Warning, "peer_unreachable", fields);
            }
            (Class::Snapshot, Notice::Written) => {
                member.core.snapshot_sent(id, true, now_ns)
            }
            (Class::Snapshot, Notice::Lost | Notice::Failed(_)) => {
                member.core.snapshot_sent(id, false, now_ns);
            }
            _ => {}
        }
    }

    /// Do what the core wants done, in its order, until it wants nothing more. Who
    /// hears of an event finds a status that is at least as new.
    fn carry_out(&mut self) {
        let mut events = Vec::new();
        while let Some(member) = &mut self.member {
            let outputs = member.core.outputs();
            if outputs.is_empty() {
                let status = member.core.status();
                *self.shared.status.lock().expect("no holder panics") = Some(status);
                break;
            }
            for output in outputs {
                self.carry_out_one(output, &mut events);
            }
        }
        for event in events {
            self.shared.outbox.push(event);
        }
    }

    fn carry_out_one(&mut self, output: Output, events: &mut Vec<Event>) {
        let Some(member) = &mut self.member else { return };
        match output {
            Output::Send { to, class, frame } => {
                if !member.peers.send(to, class, frame) && class == Class::Snapshot {
                    member.core.snapshot_sent(to, false, boottime_ns());
                }
            }
            Output::Persist { token, records } => member.writer.write(token, records),
            Output::Expiry { epoch, expiry_ns } => {
                let page = self.page.as_ref();
                if page.is_some_and(|page| page.expire_at(epoch, expiry_ns)) {
                    events.push(Event::Granted { epoch, expiry_ns });
                }
            }
            Output::Peers(members) => self.follow(members),
            Output::Event(event) => events.push(event),
        }
    }

    fn follow(&mut self, members: Members) {
        let gone = {
            let mut plate = self.doorplate.lock().expect("no holder panics");
            let gone: Vec<u64> =
                members.removed.difference(&plate.removed).copied().collect();
            plate.removed.clone_from(&members.removed);
            plate.addresses.extend(members.addresses.clone());
            gone
        };
        for id in gone {
            self.listener.expel(id);
        }
        if let Some(member) = &mut self.member {
            member.peers.follow(members);
        }
    }

    fn done(&self, token: u64, status: Status, payload: Payload) {
        self.shared.outbox.push(Event::Done { token, status, payload });
    }

    /// Log a line, unless the same was said before.
    fn say(
        &mut self,
        level: Level,
        event: &'static str,
        fields: Vec<(&'static str, String)>,
    ) {
        let mut line = event.to_owned();
        for (_, value) in &fields {
            line.push(' ');
            line.push_str(value);
        }
        if self.said.len() >= SAID_MAX {
            self.said.clear();
        }
        if self.said.insert(line) {
            self.shared.outbox.push(Event::Log { level, event, fields });
        }
    }
}
