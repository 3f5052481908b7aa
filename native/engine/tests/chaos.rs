//! Clusters under random faults, one seed each: messages are lost, repeated, delayed and
//! reordered, links cut one way, disks frozen, members paused and crashed on both sides of
//! every write, removed and replaced, logs compacted, leadership handed over, a lease renewed.
//!
//! Checked all the time: one leader a term; the same entries everywhere; what was
//! acknowledged stays; reads are not older than what was acknowledged before them; who
//! leads has a disk that answers; and no lease granted by an older leader outlasts the wait that the ages allow a new one.

use std::collections::{BTreeMap, BTreeSet};

use _engine::core::{mix, Change, Core, Output, Settings};
use _engine::event::{Event, Payload, Status};
use _engine::records::{founding, joining, Recovered};
use _engine::wire::Packet;
use pgbastion_lease::{Answer, Hold, Leased, PageWords};

const MS: i64 = 1_000_000;
const TICK_MS: i64 = 10;
const ELECTION_TICKS: i64 = 10;
const LEASE_MS: i64 = 400;
const FAULTS_MS: i64 = 12_000;
const CALM_MS: i64 = 6_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

struct Member {
    core: Core,
    next_tick_ns: i64,
    paused_until_ns: i64,
    frozen_until_ns: i64,
    /// Token, records, when the disk has it.
    writing: Vec<(u64, Vec<u8>, i64)>,
    /// Index and digest of what the host has applied.
    applied: (u64, u64),
    sent_renewals: BTreeMap<u64, i64>,
}

/// Where a member goes on after a crash.
struct Crashed {
    until_ns: i64,
}

struct Flying {
    at_ns: i64,
    from: u64,
    to: u64,
    packet: Packet,
}

enum Asked {
    Proposal { data: Vec<u8> },
    Read { acknowledged: u64 },
    Ages { term: u64 },
}

#[derive(Default)]
struct Counts {
    elections: usize,
    acknowledged: usize,
    reads: usize,
    grants: usize,
    waits: usize,
    crashes: usize,
    changes: usize,
    snapshots: usize,
    frozen: usize,
}

struct World {
    seed: u64,
    random: Random,
    now_ns: i64,
    members: BTreeMap<u64, Member>,
    crashed: BTreeMap<u64, Crashed>,
    disks: BTreeMap<u64, Vec<Vec<u8>>>,
    flying: Vec<Flying>,
    cuts: BTreeMap<(u64, u64), i64>,
    tokens: u64,
    asked: BTreeMap<(u64, u64), Asked>,
    leaders: BTreeMap<u64, u64>,
    committed: BTreeMap<u64, (u64, Vec<u8>, Vec<u8>)>,
    digests: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// Term of the leader that granted, and the lease's end.
    grants: Vec<(u64, i64)>,
    /// Term of the leader that waits, and until when.
    waits: Vec<(u64, i64)>,
    gone: BTreeSet<u64>,
    next_id: u64,
    counts: Counts,
}

fn address(id: u64) -> String {
    format!("n{id}:1")
}

impl World {
    fn new(seed: u64, size: u64) -> World {
        let mut world = World {
            seed,
            random: Random(mix(seed)),
            now_ns: 1_000 * MS,
            members: BTreeMap::new(),
            crashed: BTreeMap::new(),
            disks: BTreeMap::new(),
            flying: Vec::new(),
            cuts: BTreeMap::new(),
            tokens: 0,
            asked: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            digests: BTreeMap::from([(0, 0)]),
            acknowledged: BTreeMap::new(),
            grants: Vec::new(),
            waits: Vec::new(),
            gone: BTreeSet::new(),
            next_id: size + 1,
            counts: Counts::default(),
        };
        let voters: Vec<_> = (1..=size).map(|id| (id, address(id))).collect();
        for id in 1..=size {
            world.disks.insert(id, vec![founding(&voters)]);
            world.start(id);
        }
        world
    }

    fn start(&mut self, id: u64) {
        let mut recovered = Recovered::default();
        for records in &self.disks[&id] {
            recovered.read(records).expect("the log follows the format");
        }
        let settings = Settings {
            member: id,
            tick_ms: TICK_MS as u64,
            heartbeat_ticks: 2,
            election_ticks: ELECTION_TICKS as usize,
            seed: self.seed,
            nonce: self.random.below(u64::MAX),
            lock_ns: self.now_ns,
        };
        let mut core = Core::new(settings, recovered).expect("the log can be used");
        let leased = Leased { member: 1, epoch: 1, incarnation: 1, lease_ms: LEASE_MS };
        core.granter().lock().unwrap().lease(Some(leased));
        if id == 1 {
            let hold = Hold {
                epoch: 1,
                incarnation: 1,
                renew_ns: 60 * MS,
                deadline_ns: 90 * MS,
                evidence_max_ns: i64::MAX / 4,
                asked_max_ns: 0,
            };
            core.set_page(PageWords { evidence_ns: 1, ..PageWords::default() });
            core.hold(Some(hold), self.now_ns);
        }
        let member = Member {
            core,
            next_tick_ns: self.now_ns + TICK_MS * MS,
            paused_until_ns: 0,
            frozen_until_ns: 0,
            writing: Vec::new(),
            applied: (0, 0),
            sent_renewals: BTreeMap::new(),
        };
        self.members.insert(id, member);
        self.carry_out(id);
    }

    /// Crash a member: each write that was under way is on disk or not, in order.
    fn crash(&mut self, id: u64, down_ms: i64) {
        let Some(member) = self.members.remove(&id) else { return };
        for (_, records, _) in member.writing {
            if self.random.one_in(2) {
                break;
            }
            self.disks.get_mut(&id).expect("its disk").push(records);
        }
        self.asked.retain(|(asker, _), _| *asker != id);
        self.counts.crashes += 1;
        self.crashed.insert(id, Crashed { until_ns: self.now_ns + down_ms * MS });
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}, at {} ms: {what}", self.seed, self.now_ns / MS);
    }

    fn carry_out(&mut self, id: u64) {
        while let Some(member) = self.members.get_mut(&id) {
            let outputs = member.core.outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Send { to, frame, .. } => self.send(id, to, &frame),
                    Output::Persist { token, records } => self.persist(id, token, records),
                    Output::Expiry { expiry_ns, .. } => self.granted(id, expiry_ns),
                    Output::Peers(_) => {}
                    Output::Event(event) => self.told(id, event),
                }
            }
        }
    }

    fn send(&mut self, from: u64, to: u64, frame: &[u8]) {
        let packet = Packet::decode(frame).expect("our own frame");
        let now_ns = self.now_ns;
        match &packet {
            Packet::Renewal(renewal) => {
                let member = self.members.get_mut(&from).expect("it sends");
                member.sent_renewals.insert(renewal.number, now_ns);
            }
            Packet::Answer { number, answer: Answer::Granted { lease_ns }, .. } => {
                // The holder may hear of it at any time, or never.
                let term = self.members[&from].core.status().term;
                let sent = self.members.get(&to).and_then(|m| m.sent_renewals.get(number));
                if let Some(sent_ns) = sent {
                    let expiry_ns = sent_ns + lease_ns;
                    self.grants.push((term, expiry_ns));
                }
            }
            _ => {}
        }
        let copies = if self.random.one_in(40) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = if self.random.one_in(30) { 300 } else { 6 };
            let at_ns = now_ns + self.random.below(slow * MS as u64) as i64;
            self.flying.push(Flying { at_ns, from, to, packet: packet.clone() });
        }
    }

    fn granted(&mut self, id: u64, expiry_ns: i64) {
        self.counts.grants += 1;
        let status = self.members[&id].core.status();
        if status.role == "leader" {
            self.grants.push((status.term, expiry_ns));
        }
    }

    fn persist(&mut self, id: u64, token: u64, records: Vec<u8>) {
        let slow = if self.random.one_in(20) { 60 } else { 4 };
        let at_ns = self.now_ns + self.random.below(slow * MS as u64) as i64;
        let member = self.members.get_mut(&id).expect("it writes");
        member.writing.push((token, records, at_ns.max(member.frozen_until_ns)));
    }

    fn told(&mut self, id: u64, event: Event) {
        match event {
            Event::Committed { index, term, id: of, data } => {
                self.applied(id, index, (term, of, data));
            }
            Event::Snapshot { index, data } => {
                let digest = u64::from_le_bytes(data.try_into().expect("a digest"));
                if self.digests.get(&index) != Some(&digest) {
                    self.fail("a snapshot differs from the log");
                }
                self.counts.snapshots += 1;
                let member = self.members.get_mut(&id).expect("it tells");
                member.applied = (index, digest);
                let now_ns = self.now_ns;
                member.core.applied(index, now_ns);
            }
            Event::Done { token, status, payload } => {
                if let Some(asked) = self.asked.remove(&(id, token)) {
                    self.done(asked, status, payload);
                }
            }
            _ => {}
        }
    }

    fn applied(&mut self, id: u64, index: u64, entry: (u64, Vec<u8>, Vec<u8>)) {
        let member = self.members.get_mut(&id).expect("it tells");
        let (before, digest) = member.applied;
        if index != before + 1 {
            self.fail(&format!("member {id} was given {index} after {before}"));
        }
        let digest =
            entry.2.iter().fold(mix(digest ^ entry.0), |d, byte| mix(d ^ u64::from(*byte)));
        member.applied = (index, digest);
        let now_ns = self.now_ns;
        member.core.applied(index, now_ns);
        let first = self.committed.entry(index).or_insert_with(|| entry.clone());
        if *first != entry {
            self.fail(&format!("member {id} has another entry at {index}"));
        }
        self.digests.insert(index, digest);
    }

    fn done(&mut self, asked: Asked, status: Status, payload: Payload) {
        match (asked, status, payload) {
            (Asked::Proposal { data }, Status::Ok, Payload::Index(index)) => {
                if self.committed.get(&index).is_none_or(|entry| entry.2 != data) {
                    self.fail("another entry stands where a proposal was acknowledged");
                }
                self.counts.acknowledged += 1;
                self.acknowledged.insert(index, data);
            }
            (Asked::Read { acknowledged }, Status::Ok, Payload::Read { index, .. }) => {
                if index < acknowledged {
                    self.fail("a read is older than what was acknowledged before it");
                }
                self.counts.reads += 1;
            }
            (Asked::Ages { term }, Status::Ok, Payload::Ages(ages)) => {
                let mut ends: Vec<i64> = ages
                    .iter()
                    .map(|age| age.receipt_ns + LEASE_MS * MS - age.age_ns)
                    .collect();
                ends.sort_unstable();
                // The set of voters is the same all the while: see `change`.
                let voters = self.voters_of(term);
                if let Some(end_ns) = voters.and_then(|count| ends.get(count / 2)) {
                    self.counts.waits += 1;
                    self.waits.push((term, *end_ns));
                }
            }
            _ => {}
        }
    }

    fn voters_of(&self, term: u64) -> Option<usize> {
        let leader = self.members.get(self.leaders.get(&term)?)?;
        let status = leader.core.status();
        let settled = status.own_index.is_some_and(|own| status.applied >= own);
        let same = status.configurations.windows(2).all(|pair| pair[0] == pair[1]);
        (status.term == term && settled && same).then_some(status.voters.len())
    }

    fn step(&mut self) {
        self.now_ns += MS;
        let now_ns = self.now_ns;
        self.cuts.retain(|_, until| *until > now_ns);
        let back: Vec<u64> = self
            .crashed
            .iter()
            .filter(|(_, c)| c.until_ns <= now_ns)
            .map(|(id, _)| *id)
            .collect();
        for id in back {
            self.crashed.remove(&id);
            self.start(id);
        }
        self.deliver();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.run(id);
        }
        self.check();
    }

    fn deliver(&mut self) {
        let now_ns = self.now_ns;
        let flying = std::mem::take(&mut self.flying);
        for one in flying {
            let paused =
                self.members.get(&one.to).is_some_and(|m| m.paused_until_ns > now_ns);
            if one.at_ns > now_ns || paused {
                self.flying.push(one);
                continue;
            }
            let lost =
                self.cuts.contains_key(&(one.from, one.to)) || self.random.one_in(50);
            // The door refuses who was removed.
            if lost || self.gone.contains(&one.from) {
                continue;
            }
            if let Some(member) = self.members.get_mut(&one.to) {
                member.core.receive(one.from, one.packet, now_ns);
                self.carry_out(one.to);
            }
        }
    }

    fn run(&mut self, id: u64) {
        let now_ns = self.now_ns;
        let member = self.members.get_mut(&id).expect("it runs");
        if member.paused_until_ns > now_ns {
            return;
        }
        let (ready, writing): (Vec<_>, Vec<_>) =
            std::mem::take(&mut member.writing).into_iter().partition(|w| w.2 <= now_ns);
        member.writing = writing;
        for (token, records, _) in ready {
            self.disks.get_mut(&id).expect("its disk").push(records);
            let member = self.members.get_mut(&id).expect("it runs");
            member.core.persisted(token, now_ns);
            self.carry_out(id);
        }
        let member = self.members.get_mut(&id).expect("it runs");
        if member.next_tick_ns <= now_ns {
            member.next_tick_ns = now_ns + TICK_MS * MS;
            member.core.tick(now_ns);
            self.carry_out(id);
        }
    }

    fn check(&mut self) {
        let mut found = Vec::new();
        for (id, member) in &self.members {
            let status = member.core.status();
            if status.role == "leader" {
                found.push((status.term, *id));
                self.check_disk(member, status.writing_since_ns);
            }
        }
        for (term, id) in found {
            match self.leaders.insert(term, id) {
                None => {
                    self.counts.elections += 1;
                    self.ask_ages(id, term);
                }
                Some(other) if other != id => self.fail("two leaders in one term"),
                Some(_) => {}
            }
        }
    }

    /// Whoever runs and leads has a disk that has answered within four election time-outs;
    /// who has something to write, within one: see the tests of the core.
    fn check_disk(&self, leader: &Member, writing_since_ns: Option<i64>) {
        let Some(since_ns) = writing_since_ns else { return };
        let running_ns = self.now_ns - leader.paused_until_ns.max(since_ns);
        if running_ns > (4 * ELECTION_TICKS + 1) * TICK_MS * MS {
            self.fail("a member leads whose disk does not answer");
        }
    }

    fn token(&mut self, id: u64, asked: Asked) -> u64 {
        self.tokens += 1;
        self.asked.insert((id, self.tokens), asked);
        self.tokens
    }

    fn ask_ages(&mut self, id: u64, term: u64) {
        let token = self.token(id, Asked::Ages { term });
        let now_ns = self.now_ns;
        let member = self.members.get_mut(&id).expect("it leads");
        member.core.ages(token, now_ns + 300 * MS, now_ns);
        self.carry_out(id);
    }

    fn leader(&self) -> Option<u64> {
        let (_, id) = self.leaders.last_key_value()?;
        let leads = |member: &Member| member.core.status().role == "leader";
        self.members.get(id).is_some_and(leads).then_some(*id)
    }

    /// Some member that runs.
    fn anybody(&mut self) -> Option<u64> {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        if ids.is_empty() {
            return None;
        }
        let chosen = self.random.below(ids.len() as u64) as usize;
        Some(ids[chosen])
    }

    fn work(&mut self) {
        let Some(id) = self.anybody() else { return };
        let now_ns = self.now_ns;
        if self.random.one_in(3) {
            let acknowledged = self.acknowledged.last_key_value().map_or(0, |(at, _)| *at);
            let token = self.token(id, Asked::Read { acknowledged });
            let core = &mut self.members.get_mut(&id).expect("it runs").core;
            core.read_index(token, now_ns + 500 * MS, now_ns);
        } else {
            let data = self.tokens.to_be_bytes().to_vec();
            let token = self.token(id, Asked::Proposal { data: data.clone() });
            let core = &mut self.members.get_mut(&id).expect("it runs").core;
            core.propose(token, data, now_ns + 1_000 * MS, now_ns);
        }
        self.carry_out(id);
    }

    fn hurt(&mut self) {
        let Some(id) = self.anybody() else { return };
        let now_ns = self.now_ns;
        let length_ms = 20 + self.random.below(600) as i64;
        match self.random.below(9) {
            0 | 1 => self.crash(id, length_ms),
            2 => {
                let member = self.members.get_mut(&id).expect("it runs");
                member.paused_until_ns = now_ns + length_ms * MS;
            }
            3 | 4 => {
                for other in self.disks.keys().copied().collect::<Vec<_>>() {
                    let pair =
                        if self.random.one_in(2) { (id, other) } else { (other, id) };
                    self.cuts.insert(pair, now_ns + length_ms * MS);
                }
            }
            5 => {
                let core = &mut self.members.get_mut(&id).expect("it runs").core;
                let to = core.status().leader % 3 + 1;
                core.transfer(u64::MAX, to, now_ns + 100 * MS, now_ns);
                self.carry_out(id);
            }
            6 => {
                let (index, digest) = self.members[&id].applied;
                let core = &mut self.members.get_mut(&id).expect("it runs").core;
                core.compact(index, digest.to_le_bytes().to_vec(), now_ns);
                self.carry_out(id);
            }
            7 => self.freeze(id, 3 * length_ms),
            _ => self.change(),
        }
    }

    /// Nothing that is being written, or will be, reaches the disk for so long.
    fn freeze(&mut self, id: u64, length_ms: i64) {
        let until_ns = self.now_ns + length_ms * MS;
        let member = self.members.get_mut(&id).expect("it runs");
        member.frozen_until_ns = until_ns;
        for (_, _, at_ns) in &mut member.writing {
            *at_ns = until_ns.max(*at_ns);
        }
        self.counts.frozen += 1;
    }

    /// Replace a member, or go on replacing one: first in, then promoted, then out.
    fn change(&mut self) {
        let Some(leader) = self.leader() else { return };
        let now_ns = self.now_ns;
        let status = self.members[&leader].core.status();
        let all = status.voters.len() + status.learners.len();
        let (change, id) = if let Some(learner) = status.learners.first() {
            (Change::Promote, *learner)
        } else if all < 4 {
            let id = self.next_id;
            self.next_id += 1;
            self.disks.insert(id, vec![joining()]);
            self.start(id);
            (Change::AddLearner, id)
        } else {
            // The holder stays.
            let victim = status.voters.iter().copied().find(|id| *id != leader && *id != 1);
            (Change::Remove, victim.expect("there are four"))
        };
        let core = &mut self.members.get_mut(&leader).expect("it leads").core;
        core.change(u64::MAX, change, (id, &address(id)), now_ns + 500 * MS, now_ns);
        self.carry_out(leader);
        self.counts.changes += 1;
    }

    /// Those that left for good stop running.
    fn bury(&mut self) {
        let Some(leader) = self.leader() else { return };
        let status = self.members[&leader].core.status();
        for id in self.disks.keys().copied().collect::<Vec<_>>() {
            let inside = status.voters.contains(&id) || status.learners.contains(&id);
            let fresh = id + 1 >= self.next_id;
            if !inside && !fresh && self.applied_everything(leader) {
                self.gone.insert(id);
                self.members.remove(&id);
                self.crashed.remove(&id);
                self.disks.remove(&id);
                self.asked.retain(|(asker, _), _| *asker != id);
            }
        }
    }

    fn applied_everything(&self, id: u64) -> bool {
        let status = self.members[&id].core.status();
        let own = status.own_index.is_some_and(|own| status.applied >= own);
        own && status.applied == status.last_index
    }

    fn run_all(mut self) -> Counts {
        for ms in 0..FAULTS_MS {
            self.step();
            if ms % 17 == 0 {
                self.work();
            }
            if self.random.one_in(150) {
                self.hurt();
            }
            if ms % 100 == 0 {
                self.bury();
            }
        }
        self.end_faults();
        self.compare_leases();
        self.counts
    }

    /// When faults end, what was acknowledged is there, and more is accepted.
    fn end_faults(&mut self) {
        self.cuts.clear();
        for crashed in self.crashed.values_mut() {
            crashed.until_ns = self.now_ns;
        }
        for member in self.members.values_mut() {
            member.paused_until_ns = 0;
            member.frozen_until_ns = 0;
        }
        let before = self.counts.acknowledged;
        for ms in 0..CALM_MS {
            self.step();
            if ms % 100 == 0 && ms > CALM_MS / 2 {
                self.work();
            }
        }
        if self.counts.acknowledged == before {
            self.fail("nothing is accepted although the faults have ended");
        }
        for (index, data) in &self.acknowledged {
            if self.committed.get(index).is_none_or(|entry| entry.2 != *data) {
                self.fail("an acknowledged entry is lost");
            }
        }
    }

    fn compare_leases(&self) {
        for (waiting, end_ns) in &self.waits {
            for (granting, expiry_ns) in &self.grants {
                if granting < waiting && expiry_ns > end_ns {
                    self.fail(&format!(
                        "a lease of term {granting} ends {} ms after the wait of term {waiting}",
                        (expiry_ns - end_ns) / MS
                    ));
                }
            }
        }
    }
}

#[test]
fn clusters_under_random_faults_keep_every_promise() {
    let seeds =
        std::env::var("PGBASTION_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let first =
        std::env::var("PGBASTION_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut all = Counts::default();
    for seed in first..first + seeds {
        let counts = World::new(seed, 3 + 2 * (seed % 2)).run_all();
        all.elections += counts.elections;
        all.acknowledged += counts.acknowledged;
        all.reads += counts.reads;
        all.grants += counts.grants;
        all.waits += counts.waits;
        all.crashes += counts.crashes;
        all.changes += counts.changes;
        all.snapshots += counts.snapshots;
        all.frozen += counts.frozen;
    }
    let reached = [
        all.elections,
        all.acknowledged,
        all.reads,
        all.grants,
        all.waits,
        all.crashes,
        all.changes,
        all.snapshots,
        all.frozen,
    ];
    println!(
        "elections, acknowledged, reads, grants, waits, crashes, changes, snapshots, frozen:"
    );
    println!("{reached:?}");
    assert!(reached.iter().all(|count| *count > 0), "a kind of event never happened");
}
