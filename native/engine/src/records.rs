//! The log's records and what they leave when they are read back in order.
//!
//! A record is a type byte and a blob. An entry replaces everything from its index on;
//! a base replaces everything up to its own index.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeType, Entry, EntryType, HardState};

use crate::bytes::{Malformed, Put, Take};
use crate::members::{conf_change, Members};

const HARD_STATE: u8 = 1;
const ENTRY: u8 = 2;
const BASE: u8 = 3;

/// The state that the log starts from: a snapshot, or nothing at index 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Base {
    pub index: u64,
    pub term: u64,
    pub members: Members,
    /// The host's state at `index`.
    pub data: Vec<u8>,
}

impl Base {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 64);
        out.put_u64(self.index);
        out.put_u64(self.term);
        self.members.encode(&mut out);
        out.put_blob(&self.data);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take(bytes);
        let (index, term) = (take.u64()?, take.u64()?);
        let members = Members::decode(&mut take)?;
        let data = take.blob()?.to_vec();
        take.end()?;
        Ok(Self { index, term, members, data })
    }
}

fn put_record(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.put_u8(kind);
    out.put_blob(body);
}

pub fn put_hard_state(out: &mut Vec<u8>, state: &HardState) {
    let mut body = Vec::with_capacity(24);
    body.put_u64(state.term);
    body.put_u64(state.vote);
    body.put_u64(state.commit);
    put_record(out, HARD_STATE, &body);
}

pub fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let mut body = Vec::with_capacity(entry.data.len() + entry.context.len() + 32);
    body.put_u64(entry.index);
    body.put_u64(entry.term);
    body.put_u8(match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    });
    body.put_blob(&entry.context);
    body.put_blob(&entry.data);
    put_record(out, ENTRY, &body);
}

pub fn put_base(out: &mut Vec<u8>, base: &Base) {
    put_record(out, BASE, &base.encode());
}

/// Tell whether these records begin with a base, and so need nothing before them.
pub fn stands_alone(records: &[u8]) -> bool {
    records.first() == Some(&BASE)
}

/// What the log says, read back.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub base: Base,
    pub hard_state: HardState,
    /// Contiguous from `base.index + 1`.
    pub entries: Vec<Entry>,
}

impl Recovered {
    /// Take more records, in the order in which they were written.
    pub fn read(&mut self, records: &[u8]) -> Result<(), Malformed> {
        let mut take = Take(records);
        while !take.is_empty() {
            let kind = take.u8()?;
            let body = take.blob()?;
            match kind {
                HARD_STATE => self.hard_state = read_hard_state(body)?,
                ENTRY => self.append(read_entry(body)?)?,
                BASE => self.rebase(Base::decode(body)?),
                _ => return Err(Malformed),
            }
        }
        Ok(())
    }

    pub fn last_index(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    fn append(&mut self, entry: Entry) -> Result<(), Malformed> {
        if entry.index <= self.base.index || entry.index > self.last_index() + 1 {
            return Err(Malformed);
        }
        self.entries.truncate((entry.index - self.base.index - 1) as usize);
        self.entries.push(entry);
        Ok(())
    }

    fn rebase(&mut self, base: Base) {
        // What follows the base is written after it, so that nothing before counts.
        self.entries.clear();
        self.base = base;
    }
}

fn read_hard_state(body: &[u8]) -> Result<HardState, Malformed> {
    let mut take = Take(body);
    let (term, vote, commit) = (take.u64()?, take.u64()?, take.u64()?);
    let state = HardState { term, vote, commit, ..HardState::default() };
    take.end()?;
    Ok(state)
}

fn read_entry(body: &[u8]) -> Result<Entry, Malformed> {
    let mut take = Take(body);
    let (index, term) = (take.u64()?, take.u64()?);
    let mut entry = Entry { index, term, ..Entry::default() };
    entry.set_entry_type(match take.u8()? {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(Malformed),
    });
    entry.context = take.blob()?.to_vec().into();
    entry.data = take.blob()?.to_vec().into();
    take.end()?;
    Ok(entry)
}

/// The first records of a member that joins: nothing, until a leader sends the log.
pub fn joining() -> Vec<u8> {
    let mut out = Vec::new();
    put_base(&mut out, &Base::default());
    put_hard_state(&mut out, &HardState::default());
    out
}

/// The first records of a cluster with these first voters. Membership begins with
/// entries of the log, so that a joiner learns all of it from there.
pub fn founding(voters: &[(u64, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_base(&mut out, &Base::default());
    for (position, (id, address)) in voters.iter().enumerate() {
        let change = conf_change(ConfChangeType::AddNode, *id, address);
        let index = position as u64 + 1;
        let mut entry = Entry { index, term: 1, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.data =
            change.write_to_bytes().expect("a change has no required field").into();
        put_entry(&mut out, &entry);
    }
    let commit = voters.len() as u64;
    let state = HardState { term: 1, commit, ..HardState::default() };
    put_hard_state(&mut out, &state);
    out
}
