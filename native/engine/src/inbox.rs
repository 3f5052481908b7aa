//! What comes in for the Raft thread, in lanes, so that bulk never delays a heartbeat.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::wire::Packet;

/// A packet of a member whose identity is proven.
pub struct Received {
    pub from: u64,
    pub packet: Packet,
}

/// Packets in a lane; a reader of a socket waits while it is full.
const LANE_MAX: usize = 1_024;

struct Lanes<C> {
    commands: VecDeque<C>,
    raft: VecDeque<Received>,
    talk: VecDeque<Received>,
    closed: bool,
}

/// The Raft thread's inbox; `C` are the commands of this process, never held up.
pub struct Inbox<C> {
    lanes: Mutex<Lanes<C>>,
    arrived: Condvar,
    room: Condvar,
}

/// One pass of the Raft thread over its inbox.
pub struct Batch<C> {
    pub commands: VecDeque<C>,
    pub raft: VecDeque<Received>,
    pub talk: Vec<Received>,
}

/// Talk that one pass takes.
const TALK_A_PASS: usize = 16;

impl<C> Default for Inbox<C> {
    fn default() -> Self {
        let lanes = Lanes {
            commands: VecDeque::new(),
            raft: VecDeque::new(),
            talk: VecDeque::new(),
            closed: false,
        };
        Self { lanes: Mutex::new(lanes), arrived: Condvar::new(), room: Condvar::new() }
    }
}

impl<C> Inbox<C> {
    fn lanes(&self) -> MutexGuard<'_, Lanes<C>> {
        self.lanes.lock().expect("no holder panics")
    }

    /// Give the thread a command; after its end they go nowhere.
    pub fn command(&self, command: C) {
        let mut lanes = self.lanes();
        if !lanes.closed {
            lanes.commands.push_back(command);
            self.arrived.notify_one();
        }
    }

    /// Give the thread a packet, once there is room; false: it has ended.
    pub fn receive(&self, received: Received) -> bool {
        let talk = matches!(
            received.packet,
            Packet::Request { .. } | Packet::Reply { .. } | Packet::Broadcast { .. }
        );
        let mut lanes = self.lanes();
        loop {
            if lanes.closed {
                return false;
            }
            let lane = if talk { &mut lanes.talk } else { &mut lanes.raft };
            if lane.len() < LANE_MAX {
                lane.push_back(received);
                self.arrived.notify_one();
                return true;
            }
            lanes = self.room.wait(lanes).expect("no holder panics");
        }
    }

    /// Wait for something to do, at most so long, and take it.
    pub fn take(&self, wait: Duration) -> Batch<C> {
        let lanes = self.lanes();
        let idle = |lanes: &mut Lanes<C>| {
            lanes.commands.is_empty() && lanes.raft.is_empty() && lanes.talk.is_empty()
        };
        let (mut lanes, _) =
            self.arrived.wait_timeout_while(lanes, wait, idle).expect("no holder panics");
        let some = lanes.talk.len().min(TALK_A_PASS);
        let batch = Batch {
            commands: std::mem::take(&mut lanes.commands),
            raft: std::mem::take(&mut lanes.raft),
            talk: lanes.talk.drain(..some).collect(),
        };
        self.room.notify_all();
        batch
    }

    /// Nothing is taken any more; who waits for room goes away.
    pub fn close(&self) {
        let mut lanes = self.lanes();
        lanes.closed = true;
        self.room.notify_all();
        self.arrived.notify_all();
    }
}
