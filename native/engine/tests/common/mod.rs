//! Cores joined by queues: the test says what is delivered, written and applied, when.

#![allow(dead_code)]

use std::collections::BTreeMap;

use _engine::core::{Core, Output, Settings};
use _engine::event::{Event, Payload, Status};
use _engine::records::{founding, Recovered};
use _engine::wire::Packet;

pub const MS: i64 = 1_000_000;
pub const TICK_MS: i64 = 10;

pub struct Member {
    pub core: Core,
    /// What is on its disk.
    pub disk: Vec<Vec<u8>>,
    /// Writes that have not reached the disk.
    pub writing: Vec<(u64, Vec<u8>)>,
    pub events: Vec<Event>,
    pub sent: Vec<(u64, Packet)>,
    pub up: bool,
    /// Writes reach the disk at once.
    pub disk_works: bool,
    /// Committed entries are applied at once.
    pub host_works: bool,
}

pub struct Cluster {
    pub now_ns: i64,
    pub members: BTreeMap<u64, Member>,
    /// Pairs (from, to) whose packets are lost.
    pub cut: Vec<(u64, u64)>,
    starts: u64,
}

fn address(id: u64) -> String {
    format!("n{id}:1")
}

impl Cluster {
    /// A cluster whose first log names all of these as voters.
    pub fn new(size: u64) -> Cluster {
        let voters: Vec<_> = (1..=size).map(|id| (id, address(id))).collect();
        let mut cluster = Cluster {
            now_ns: 1_000 * MS,
            members: BTreeMap::new(),
            cut: Vec::new(),
            starts: 0,
        };
        for id in 1..=size {
            cluster.start(id, vec![founding(&voters)]);
        }
        cluster
    }

    pub fn start(&mut self, id: u64, disk: Vec<Vec<u8>>) {
        self.starts += 1;
        let mut recovered = Recovered::default();
        for records in &disk {
            recovered.read(records).expect("the log follows the format");
        }
        let settings = Settings {
            member: id,
            tick_ms: TICK_MS as u64,
            heartbeat_ticks: 2,
            election_ticks: 10,
            seed: 7,
            nonce: self.starts,
            lock_ns: self.now_ns,
        };
        let core = Core::new(settings, recovered).expect("the log can be used");
        let member = Member {
            core,
            disk,
            writing: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            up: true,
            disk_works: true,
            host_works: true,
        };
        self.members.insert(id, member);
        self.settle();
    }

    /// Start again with what had reached the disk.
    pub fn restart(&mut self, id: u64) {
        let disk = self.member(id).disk.clone();
        self.start(id, disk);
    }

    pub fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("a member")
    }

    /// Carry out what the cores want, and deliver, until nothing more happens.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                quiet &= !self.carry_out(id);
            }
            quiet &= !self.deliver();
            if quiet {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Take the outputs of one core; tell whether there were any.
    pub fn carry_out(&mut self, id: u64) -> bool {
        let now_ns = self.now_ns;
        let member = self.member(id);
        let outputs = member.core.outputs();
        let some = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Send { to, frame, .. } => {
                    let packet = Packet::decode(&frame).expect("our own frame");
                    member.sent.push((to, packet));
                }
                Output::Persist { token, records } => member.writing.push((token, records)),
                Output::Event(event) => {
                    if let Event::Committed { index, .. } | Event::Snapshot { index, .. } =
                        event
                    {
                        if member.host_works {
                            member.core.applied(index, now_ns);
                        }
                    }
                    member.events.push(event);
                }
                Output::Expiry { epoch, expiry_ns } => {
                    member.events.push(Event::Granted { epoch, expiry_ns });
                }
                Output::Peers(_) => {}
            }
        }
        some | (member.disk_works && self.write(id))
    }

    /// Let the writes of a member reach its disk.
    pub fn write(&mut self, id: u64) -> bool {
        let now_ns = self.now_ns;
        let member = self.member(id);
        let writing = std::mem::take(&mut member.writing);
        let some = !writing.is_empty();
        for (token, records) in writing {
            member.disk.push(records);
            member.core.persisted(token, now_ns);
        }
        some
    }

    fn deliver(&mut self) -> bool {
        let mut some = false;
        for from in self.members.keys().copied().collect::<Vec<_>>() {
            for (to, packet) in std::mem::take(&mut self.member(from).sent) {
                some = true;
                let lost = self.cut.contains(&(from, to));
                let now_ns = self.now_ns;
                let Some(member) = self.members.get_mut(&to) else { continue };
                if member.up && !lost {
                    member.core.receive(from, packet, now_ns);
                }
            }
        }
        some
    }

    /// Let time pass.
    pub fn pass(&mut self, ms: i64) {
        for _ in 0..ms / TICK_MS {
            self.now_ns += TICK_MS * MS;
            let now_ns = self.now_ns;
            for member in self.members.values_mut().filter(|member| member.up) {
                member.core.tick(now_ns);
            }
            self.settle();
        }
    }

    /// Nothing goes to or from this member.
    pub fn isolate(&mut self, id: u64) {
        for other in self.members.keys().copied().collect::<Vec<_>>() {
            self.cut.push((id, other));
            self.cut.push((other, id));
        }
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |member: &Member| member.core.status().role == "leader";
        let mut leaders: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.up && leads(member))
            .map(|(id, member)| (member.core.status().term, *id))
            .collect();
        leaders.sort_unstable();
        leaders.last().map(|(_, id)| *id)
    }

    /// Wait for a leader whose first entry is applied.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..500 {
            self.pass(TICK_MS);
            if let Some(id) = self.leader() {
                let status = self.member(id).core.status();
                if status.own_index.is_some_and(|own| status.applied >= own) {
                    return id;
                }
            }
        }
        panic!("no leader within five seconds");
    }

    /// Give an order to one member; `act` gets the core, the token and the instant.
    pub fn order(&mut self, id: u64, token: u64, act: impl FnOnce(&mut Core, u64, i64)) {
        let now_ns = self.now_ns;
        act(&mut self.member(id).core, token, now_ns);
        self.settle();
    }

    pub fn propose(&mut self, id: u64, token: u64, data: &[u8]) {
        let data = data.to_vec();
        self.order(id, token, |core, token, now_ns| {
            core.propose(token, data, now_ns + 2_000 * MS, now_ns);
        });
    }

    pub fn outcome(&mut self, id: u64, token: u64) -> Option<(Status, Payload)> {
        self.member(id).events.iter().find_map(|event| match event {
            Event::Done { token: of, status, payload } if *of == token => {
                Some((*status, payload.clone()))
            }
            _ => None,
        })
    }

    /// The data of all entries that the host of this member was given.
    pub fn applied(&mut self, id: u64) -> Vec<Vec<u8>> {
        let committed = |event: &Event| match event {
            Event::Committed { data, .. } if !data.is_empty() => Some(data.clone()),
            _ => None,
        };
        self.member(id).events.iter().filter_map(committed).collect()
    }
}
