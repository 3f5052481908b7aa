//! The log in memory, as the Raft core reads it.

use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::records::{Base, Recovered};

/// Everything from the base on. What was written here may not be on disk yet: the core
/// is told separately what is.
#[derive(Debug)]
pub struct MemLog {
    log: Recovered,
}

impl MemLog {
    pub fn new(log: Recovered) -> Self {
        Self { log }
    }

    pub fn base(&self) -> &Base {
        &self.log.base
    }

    pub fn hard_state(&self) -> &HardState {
        &self.log.hard_state
    }

    pub fn set_hard_state(&mut self, state: HardState) {
        self.log.hard_state = state;
    }

    /// Entries with an index above `index`.
    pub fn after(&self, index: u64) -> &[Entry] {
        let skip = index.saturating_sub(self.log.base.index) as usize;
        self.log.entries.get(skip..).unwrap_or_default()
    }

    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let position = index.checked_sub(self.log.base.index + 1)?;
        self.log.entries.get(position as usize)
    }

    /// Put entries in their place; what was there from the first one's index on goes.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index - self.log.base.index - 1;
        assert!(keep <= self.log.entries.len() as u64, "the log would have a hole");
        self.log.entries.truncate(keep as usize);
        self.log.entries.extend_from_slice(entries);
    }

    /// A leader's snapshot takes the place of everything.
    pub fn restore(&mut self, base: Base) {
        self.log.entries.clear();
        self.log.base = base;
    }

    /// Drop the entries that the new base covers.
    pub fn compact(&mut self, base: Base) {
        let covered = (base.index - self.log.base.index) as usize;
        self.log.entries.drain(..covered);
        self.log.base = base;
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.log.hard_state.clone(), self.log.base.members.conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.log.base.index + 1;
        if low < first {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.log.last_index() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let range = (low - first) as usize..(high - first) as usize;
        let mut entries = self.log.entries[range].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.log.base.index {
            return Ok(self.log.base.term);
        }
        if index < self.log.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.entry(index)
            .map(|entry| entry.term)
            .ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    /// A member that the base does not name refuses it: it waits until the host has
    /// compacted the log up to its admission.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let base = &self.log.base;
        if base.index == 0 || base.index < request_index || !base.members.contains(to) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = base.index;
        metadata.term = base.term;
        metadata.set_conf_state(base.members.conf_state());
        snapshot.data = base.encode().into();
        Ok(snapshot)
    }
}
