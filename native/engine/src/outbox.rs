//! What the host reads: a queue that it waits on without the interpreter's lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::event::Event;

/// Beyond this, what may be lost (broadcasts, questions, log lines) is dropped. The rest
/// is bounded by what the host asked for and has not applied.
const DROPPABLE_MAX: usize = 4_096;

#[derive(Default)]
pub struct Outbox {
    events: Mutex<VecDeque<Event>>,
    arrived: Condvar,
    closed: AtomicBool,
}

impl Outbox {
    pub fn push(&self, event: Event) {
        let mut events = self.events.lock().expect("no holder panics");
        let droppable = matches!(event, Event::Request { .. } | Event::Log { .. });
        if droppable && events.len() >= DROPPABLE_MAX {
            return;
        }
        events.push_back(event);
        self.arrived.notify_one();
    }

    /// Take at most `most` events, after waiting at most so long for the first.
    pub fn take(&self, wait: Duration, most: usize) -> Vec<Event> {
        let events = self.events.lock().expect("no holder panics");
        let (mut events, _) = self
            .arrived
            .wait_timeout_while(events, wait, |events| {
                events.is_empty() && !self.closed.load(Ordering::Acquire)
            })
            .expect("no holder panics");
        let some = events.len().min(most);
        events.drain(..some).collect()
    }

    /// Nothing will come any more: nobody waits for it.
    pub fn close(&self) {
        let _events = self.events.lock().expect("no holder panics");
        self.closed.store(true, Ordering::Release);
        self.arrived.notify_all();
    }
}
