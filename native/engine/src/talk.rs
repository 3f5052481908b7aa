//! Questions between nodes: who waits for an answer of ours, and whose we wait for.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::Mutex;

/// Where the answer to a question goes.
pub enum Asker {
    Guest(SyncSender<Vec<u8>>),
    Member {
        member: u64,
        number: u64,
    },
    /// This node asked itself: the token of its question.
    Own(u64),
}

/// Questions that the host has not answered yet. The oldest goes when there are more.
const UNANSWERED_MAX: usize = 1_024;

/// The questions that the host was given, by the id that it answers under.
#[derive(Default)]
pub struct Askers {
    inner: Mutex<(u64, BTreeMap<u64, Asker>)>,
}

impl Askers {
    /// Remember who asked; return the id to answer under, which is never 0.
    pub fn add(&self, asker: Asker) -> u64 {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.0 += 1;
        let id = inner.0;
        if inner.1.len() == UNANSWERED_MAX {
            inner.1.pop_first();
        }
        inner.1.insert(id, asker);
        id
    }

    pub fn take(&self, id: u64) -> Option<Asker> {
        self.inner.lock().expect("no holder panics").1.remove(&id)
    }
}

/// Our own questions that wait for an answer, by token.
#[derive(Default)]
pub struct Questions {
    waiting: BTreeMap<u64, (u64, i64)>,
}

impl Questions {
    pub fn asked(&mut self, token: u64, member: u64, deadline_ns: i64) {
        self.waiting.insert(token, (member, deadline_ns));
    }

    /// This member answers; false: nobody waits for it.
    pub fn answered(&mut self, token: u64, member: u64) -> bool {
        if self.waiting.get(&token).is_none_or(|(asked, _)| *asked != member) {
            return false;
        }
        self.waiting.remove(&token).is_some()
    }

    /// Take the tokens whose deadline is over.
    pub fn expired(&mut self, now_ns: i64) -> Vec<u64> {
        let over: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, (_, deadline_ns))| *deadline_ns <= now_ns)
            .map(|(token, _)| *token)
            .collect();
        for token in &over {
            self.waiting.remove(token);
        }
        over
    }
}
