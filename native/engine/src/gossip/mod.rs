//! Gossip between the nodes by SWIM: who is there, where its parts listen, who seems to
//! be gone. It is for discovery and hints; nothing is decided by it, and a failure of it
//! ends nothing but itself.

pub mod identity;
pub mod protocol;
pub mod seal;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::num::{NonZeroU8, NonZeroUsize};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foca::{
    Config, Foca, Notification, PeriodicParams, PostcardCodec, Runtime, State, Timer,
};
use rand::rngs::SmallRng;
use rand::SeedableRng;

use crate::bell::Bell;
use crate::net::readable;
use identity::{Facts, Gossiper};
use seal::{Seals, Unsealed, SEAL_BYTES};

/// The longest datagram: it fits into one frame of any usual network.
const DATAGRAM_MAX: usize = 1_400;
/// Datagrams that are read before the timers get their turn.
const BATCH: usize = 64;
/// How often those are greeted who should be there and are not.
const GREET: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Addresses whose datagrams were refused that are remembered.
const REFUSED_MAX: usize = 256;
/// Places that are greeted.
const SEEDS_MAX: usize = 64;
/// Nodes that the view holds.
const SEEN_MAX: usize = 64;

/// Where this node gossips, and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    pub bind: String,
    /// Where the others reach it.
    pub address: String,
    pub secret: Vec<u8>,
    pub cluster: String,
    pub facts: Facts,
}

/// Another node as gossip sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub address: SocketAddr,
    pub state: &'static str,
    /// `None`: of a version that is not understood.
    pub facts: Option<Facts>,
}

/// What gossip knows now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub seen: Vec<Seen>,
    pub sent: u64,
    pub received: u64,
    /// Datagrams of another secret, cluster or version, or that came twice.
    pub refused: u64,
    pub refused_from: Vec<IpAddr>,
    /// Gossip has failed; the node goes on without.
    pub failed: bool,
}

#[derive(Default)]
struct Orders {
    seeds: Option<Vec<String>>,
    facts: Option<Vec<u8>>,
}

struct Shared {
    bell: Bell,
    orders: Mutex<Orders>,
    view: Mutex<View>,
    stopped: AtomicBool,
}

/// A node's part in the gossip, with a thread of its own.
pub struct Gossip {
    shared: Arc<Shared>,
    pub address: SocketAddr,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Gossip {
    pub fn start(settings: &Settings) -> Result<Gossip, String> {
        let facts = settings.facts.encode()?;
        let socket = UdpSocket::bind(&settings.bind)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|e| format!("cannot gossip on {}: {e}", settings.bind))?;
        let bound = socket.local_addr().map_err(|e| e.to_string())?;
        let mut address = resolve(&settings.address)
            .ok_or_else(|| format!("{}: no address", settings.address))?;
        if address.port() == 0 {
            address.set_port(bound.port());
        }
        let shared = Arc::new(Shared {
            bell: Bell::new().map_err(|e| e.to_string())?,
            orders: Mutex::default(),
            view: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let own = Gossiper { address, incarnation: now_ms(), facts };
        let seals = Seals::new(&settings.secret, &settings.cluster);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("gossip".into())
            .spawn(move || {
                let run = || Talker::new(&theirs, socket, seals, own).run();
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    theirs.view.lock().expect("no holder panics").failed = true;
                }
            })
            .map_err(|e| format!("cannot start the gossip's thread: {e}"))?;
        Ok(Gossip { shared, address, thread: Mutex::new(Some(thread)) })
    }

    /// Greet these places, `HOST:PORT` of the gossip, until each is known.
    pub fn learn(&self, seeds: Vec<String>) {
        self.shared.orders.lock().expect("no holder panics").seeds = Some(seeds);
        self.shared.bell.ring();
    }

    /// Say something else of this node from now on.
    pub fn describe(&self, facts: &Facts) -> Result<(), String> {
        let facts = facts.encode()?;
        self.shared.orders.lock().expect("no holder panics").facts = Some(facts);
        self.shared.bell.ring();
        Ok(())
    }

    pub fn view(&self) -> View {
        self.shared.view.lock().expect("no holder panics").clone()
    }

    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.lock().expect("no holder panics").take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Gossip {
    fn drop(&mut self) {
        self.stop();
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn resolve(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok()?.next()
}

fn config() -> Config {
    let count = |n: usize| NonZeroUsize::new(n).expect("it is not zero");
    let every = |seconds, members| {
        let frequency = Duration::from_secs(seconds);
        Some(PeriodicParams { frequency, num_members: count(members) })
    };
    let mut config = Config::simple();
    config.probe_period = Duration::from_millis(1_000);
    config.probe_rtt = Duration::from_millis(300);
    config.max_transmissions = NonZeroU8::new(6).expect("it is not zero");
    config.suspect_to_down_after = Duration::from_secs(5);
    config.remove_down_after = Some(Duration::from_secs(3_600));
    config.max_packet_size = count(DATAGRAM_MAX - SEAL_BYTES);
    config.notify_down_members = true;
    config.periodic_announce = every(15, 2);
    config.periodic_announce_to_down_members = every(5, 2);
    config.periodic_gossip = every(1, 3);
    config
}

/// What the protocol wants done; it is done after each input.
struct Hands<'a> {
    socket: &'a UdpSocket,
    seals: &'a mut Seals,
    timers: &'a mut BTreeMap<(Instant, u64), Timer<Gossiper>>,
    timer: &'a mut u64,
    sent: &'a mut u64,
}

impl Runtime<Gossiper> for Hands<'_> {
    fn notify(&mut self, _notification: Notification<'_, Gossiper>) {}

    fn send_to(&mut self, to: Gossiper, data: &[u8]) {
        // A datagram may be lost, whatever the reason.
        let _ = self.socket.send_to(&self.seals.seal(data), to.address);
        *self.sent += 1;
    }

    fn submit_after(&mut self, event: Timer<Gossiper>, after: Duration) {
        *self.timer += 1;
        self.timers.insert((Instant::now() + after, *self.timer), event);
    }
}

struct Talker<'a> {
    shared: &'a Shared,
    socket: UdpSocket,
    seals: Seals,
    foca: Foca<Gossiper, PostcardCodec, SmallRng, foca::NoCustomBroadcast>,
    timers: BTreeMap<(Instant, u64), Timer<Gossiper>>,
    timer: u64,
    seeds: Vec<String>,
    greeted: Option<Instant>,
    counts: View,
    refused_from: BTreeSet<IpAddr>,
}

/// Give the protocol an input. What it refuses is somebody's nonsense, and no news.
macro_rules! with_hands {
    ($talker:expr, $method:ident $(, $input:expr)*) => {{
        let talker = &mut *$talker;
        let hands = Hands {
            socket: &talker.socket,
            seals: &mut talker.seals,
            timers: &mut talker.timers,
            timer: &mut talker.timer,
            sent: &mut talker.counts.sent,
        };
        let _ = talker.foca.$method($($input,)* hands);
    }};
}

impl<'a> Talker<'a> {
    fn new(
        shared: &'a Shared,
        socket: UdpSocket,
        seals: Seals,
        own: Gossiper,
    ) -> Talker<'a> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).expect("the kernel gives random bytes");
        let random = SmallRng::seed_from_u64(u64::from_le_bytes(seed));
        Talker {
            shared,
            socket,
            seals,
            foca: Foca::new(own, config(), random, PostcardCodec),
            timers: BTreeMap::new(),
            timer: 0,
            seeds: Vec::new(),
            greeted: None,
            counts: View::default(),
            refused_from: BTreeSet::new(),
        }
    }

    fn run(mut self) {
        while !self.shared.stopped.load(Ordering::Acquire) {
            let fds = [self.shared.bell.fd(), self.socket.as_raw_fd()];
            let _ = readable(&fds, Some(self.wait()));
            self.shared.bell.hush();
            self.take_orders();
            self.read();
            self.pass_time();
            self.greet();
            self.show();
        }
        with_hands!(&mut self, leave_cluster);
    }

    fn wait(&self) -> Duration {
        let next = self.timers.keys().next().map(|(due, _)| *due);
        next.map_or(WAIT_MAX, |due| due.saturating_duration_since(Instant::now()))
            .min(WAIT_MAX)
    }

    fn take_orders(&mut self) {
        let orders =
            std::mem::take(&mut *self.shared.orders.lock().expect("no holder panics"));
        if let Some(mut seeds) = orders.seeds {
            seeds.truncate(SEEDS_MAX);
            if seeds != self.seeds {
                (self.seeds, self.greeted) = (seeds, None);
            }
        }
        if let Some(facts) = orders.facts.filter(|f| *f != self.foca.identity().facts) {
            let own = self.foca.identity();
            let incarnation = now_ms().max(own.incarnation + 1);
            let renewed = Gossiper { address: own.address, incarnation, facts };
            with_hands!(self, change_identity, renewed);
            self.greeted = None;
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; DATAGRAM_MAX + 1];
        for _ in 0..BATCH {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { return };
            match self.seals.open(&buffer[..length]) {
                Ok(payload) => {
                    self.counts.received += 1;
                    with_hands!(self, handle_data, &payload);
                }
                Err(why) => self.refuse(from, why),
            }
        }
    }

    fn refuse(&mut self, from: SocketAddr, why: Unsealed) {
        self.counts.refused += 1;
        // The network itself may repeat a datagram.
        if why != Unsealed::Repeated && self.refused_from.len() < REFUSED_MAX {
            self.refused_from.insert(from.ip());
        }
    }

    fn pass_time(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let timer = entry.remove();
            with_hands!(self, handle_timer, timer);
        }
    }

    /// Greet the places where somebody should be of whom nothing is known.
    fn greet(&mut self) {
        if self.greeted.is_some_and(|greeted| greeted.elapsed() < GREET) {
            return;
        }
        self.greeted = Some(Instant::now());
        let own = self.foca.identity().address;
        let known: BTreeSet<SocketAddr> =
            self.foca.iter_members().map(|member| member.id().address).collect();
        let places: Vec<SocketAddr> =
            self.seeds.iter().filter_map(|seed| resolve(seed)).collect();
        for place in places {
            if place != own && !known.contains(&place) {
                with_hands!(self, announce, Gossiper::at(place));
            }
        }
    }

    fn show(&mut self) {
        let own = self.foca.identity().address;
        let mut seen: Vec<Seen> = self
            .foca
            .iter_membership_state()
            .filter(|member| member.id().address != own)
            .take(SEEN_MAX)
            .map(|member| Seen {
                address: member.id().address,
                state: match member.state() {
                    State::Alive => "alive",
                    State::Suspect => "suspect",
                    State::Down => "down",
                },
                facts: Facts::decode(&member.id().facts).ok(),
            })
            .collect();
        seen.sort_unstable_by_key(|one| one.address);
        self.counts.seen = seen;
        self.counts.refused_from = self.refused_from.iter().copied().collect();
        self.shared.view.lock().expect("no holder panics").clone_from(&self.counts);
    }
}
