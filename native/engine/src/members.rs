//! Who belongs to the cluster, by id, and at which address.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{ConfChange, ConfChangeType, ConfState};

use crate::bytes::{Malformed, Put, Take};

/// Longest address that a member may have.
pub const ADDRESS_MAX: usize = 256;

/// The members after some log index. A change takes effect when it is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub addresses: BTreeMap<u64, String>,
    /// Ids that left. They are never accepted again: their disk, and so their vote,
    /// may be lost.
    pub removed: BTreeSet<u64>,
}

impl Members {
    pub fn contains(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    pub fn conf_state(&self) -> ConfState {
        ConfState::from((self.voters.clone(), self.learners.clone()))
    }

    /// Follow a change that was applied and that left this configuration.
    pub fn follow(&mut self, change: &ConfChange, conf: &ConfState) {
        self.voters = conf.get_voters().to_vec();
        self.learners = conf.get_learners().to_vec();
        self.voters.sort_unstable();
        self.learners.sort_unstable();
        match change.get_change_type() {
            ConfChangeType::RemoveNode => {
                self.addresses.remove(&change.node_id);
                self.removed.insert(change.node_id);
            }
            ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
                let address = String::from_utf8_lossy(change.get_context());
                if !address.is_empty() {
                    self.addresses.insert(change.node_id, address.into_owned());
                }
            }
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_ids(&self.voters);
        out.put_ids(&self.learners);
        out.put_ids(&self.removed.iter().copied().collect::<Vec<_>>());
        out.put_u32(self.addresses.len() as u32);
        for (id, address) in &self.addresses {
            out.put_u64(*id);
            out.put_blob(address.as_bytes());
        }
    }

    pub fn decode(take: &mut Take) -> Result<Self, Malformed> {
        let voters = take.ids()?;
        let learners = take.ids()?;
        let removed = take.ids()?.into_iter().collect();
        let count = take.u32()?;
        let mut addresses = BTreeMap::new();
        for _ in 0..count {
            addresses.insert(take.u64()?, take.text()?);
        }
        Ok(Self { voters, learners, addresses, removed })
    }
}

/// A change of one member; the address travels in the change's context.
pub fn conf_change(kind: ConfChangeType, member: u64, address: &str) -> ConfChange {
    let mut change = ConfChange::default();
    change.set_change_type(kind);
    change.node_id = member;
    change.context = address.as_bytes().to_vec().into();
    change
}
