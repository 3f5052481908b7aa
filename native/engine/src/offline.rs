//! The directory of a member that does not run: what is in it, and a new beginning.

use std::collections::BTreeSet;
use std::path::Path;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, EntryType, HardState};

use crate::disk::{has_log, Cut, ReadBack};
use crate::home::{Home, Identity};
use crate::members::Members;
use crate::records::{put_base, put_hard_state, Base, Recovered};

/// What is in a directory.
pub struct Found {
    pub identity: Identity,
    pub recovered: Recovered,
    pub segments: usize,
    /// A write that a crash cut off; a start cuts it, too.
    pub torn: Option<Cut>,
}

/// Read a directory and check all of it; `None`: nobody has been here.
///
/// # Errors
///
/// The message names file and offset of what is damaged or missing.
pub fn look(dir: &Path) -> Result<Option<Found>, String> {
    let Some(identity) = Identity::read(dir)? else {
        return Ok(None);
    };
    if !has_log(dir)? {
        return Err(format!("{}: there is an identity, but no log", dir.display()));
    }
    let back = ReadBack::of(dir)?;
    let (torn, segments) = (back.torn(), back.segments);
    Ok(Some(Found { identity, recovered: back.recovered, segments, torn }))
}

impl Found {
    /// The members after every committed change.
    pub fn members(&self) -> Members {
        self.members_up_to(self.recovered.hard_state.commit)
    }

    /// Every id that any entry knows, committed or not.
    pub fn known_ids(&self) -> BTreeSet<u64> {
        let members = self.members_up_to(u64::MAX);
        let mut ids = members.removed;
        ids.extend(members.voters);
        ids.extend(members.learners);
        ids.insert(self.identity.member);
        ids
    }

    fn members_up_to(&self, index: u64) -> Members {
        let mut members = self.recovered.base.members.clone();
        for entry in self.recovered.entries.iter().filter(|e| e.index <= index) {
            if entry.get_entry_type() != EntryType::EntryConfChange {
                continue;
            }
            if let Ok(change) = ConfChange::parse_from_bytes(&entry.data) {
                let conf = changed(&members, &change);
                members.follow(&change, &conf);
            }
        }
        members
    }
}

fn changed(members: &Members, change: &ConfChange) -> ConfState {
    let (mut voters, mut learners) = (members.voters.clone(), members.learners.clone());
    voters.retain(|id| *id != change.node_id);
    learners.retain(|id| *id != change.node_id);
    match change.get_change_type() {
        ConfChangeType::AddNode => voters.push(change.node_id),
        ConfChangeType::AddLearnerNode => learners.push(change.node_id),
        ConfChangeType::RemoveNode => {}
    }
    ConfState::from((voters, learners))
}

/// A cluster of one that begins with a state.
pub struct Beginning {
    pub cluster: Vec<u8>,
    pub member: u64,
    pub address: String,
    pub index: u64,
    pub term: u64,
    /// Ids that are never accepted again.
    pub removed: BTreeSet<u64>,
    pub data: Vec<u8>,
}

/// Put a new beginning into a directory that no process uses.
pub fn begin(dir: &Path, beginning: Beginning) -> Result<(), String> {
    let Beginning { cluster, member, address, index, term, removed, data } = beginning;
    if member == 0 || index == 0 || term == 0 || removed.contains(&member) {
        return Err("a beginning needs an id of its own, an index and a term".into());
    }
    let home = Home::lock(dir)?;
    let members = Members {
        voters: vec![member],
        addresses: [(member, address)].into(),
        removed,
        ..Members::default()
    };
    let mut records = Vec::new();
    put_base(&mut records, &Base { index, term, members, data });
    let state = HardState { term, commit: index, ..HardState::default() };
    put_hard_state(&mut records, &state);
    home.begin_again(&Identity { cluster, member, peers: Vec::new() }, &records)
}
