//! The protocol of the gossip without socket and clock: what a payload does to it can be
//! tried, also by those who try to break it.

use std::net::SocketAddr;
use std::time::Duration;

use foca::{Foca, NoCustomBroadcast, Notification, PostcardCodec, Runtime, Timer};
use rand::rngs::SmallRng;
use rand::SeedableRng;

use super::config;
use super::identity::Gossiper;

/// What one input made it say, and which timers it wants.
#[derive(Default)]
struct Wishes {
    said: Vec<Vec<u8>>,
    timers: Vec<Timer<Gossiper>>,
}

impl Runtime<Gossiper> for &mut Wishes {
    fn notify(&mut self, _notification: Notification<'_, Gossiper>) {}

    fn send_to(&mut self, _to: Gossiper, data: &[u8]) {
        self.said.push(data.to_vec());
    }

    fn submit_after(&mut self, event: Timer<Gossiper>, _after: Duration) {
        self.timers.push(event);
    }
}

pub struct Protocol {
    foca: Foca<Gossiper, PostcardCodec, SmallRng, NoCustomBroadcast>,
    wishes: Wishes,
}

impl Protocol {
    /// A node at this address that says so much of itself.
    pub fn at(address: SocketAddr, facts: &[u8]) -> Protocol {
        let own = Gossiper { address, incarnation: 1, facts: facts.to_vec() };
        let foca = Foca::new(own, config(), SmallRng::seed_from_u64(1), PostcardCodec);
        Protocol { foca, wishes: Wishes::default() }
    }

    /// Hear what another has said; nonsense changes nothing.
    pub fn hear(&mut self, payload: &[u8]) {
        let _ = self.foca.handle_data(payload, &mut self.wishes);
    }

    /// Greet whoever is at this address.
    pub fn greet(&mut self, address: SocketAddr) {
        let _ = self.foca.announce(Gossiper::at(address), &mut self.wishes);
    }

    /// Let the time of all timers come.
    pub fn pass_time(&mut self) {
        for timer in std::mem::take(&mut self.wishes.timers) {
            let _ = self.foca.handle_timer(timer, &mut self.wishes);
        }
    }

    /// Take what it has said to others.
    pub fn said(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.wishes.said)
    }

    /// Others that it takes to be there.
    pub fn members(&self) -> usize {
        self.foca.iter_members().count()
    }
}
