//! One outgoing connection to a member, of one class: a queue and a thread that dials,
//! proves itself and writes. The Raft thread never waits for it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bell::Bell;
use crate::channel::{Channel, Tls};
use crate::handshake::SPOKEN;
use crate::loud;
use crate::net::{readable, write_frame, Call, CallError, Keys, SILENCE_MAX};
use crate::wire::Class;

/// Frames that wait to be written, and their bytes.
const QUEUE_MAX: usize = 4_096;
const QUEUE_BYTES_MAX: usize = 64 << 20;
const REDIAL: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_millis(200);

/// What a link tells about itself.
pub enum Notice {
    Up,
    /// A connection was lost, or a frame did not fit.
    Lost,
    /// Nobody answered, or the other side refused, for the reason given.
    Failed(String),
    /// A snapshot has gone out.
    Written,
}

/// Whom a link calls, and on whose behalf.
#[derive(Clone)]
pub struct Route {
    pub class: Class,
    pub secret: Arc<Vec<u8>>,
    pub cluster: Arc<Vec<u8>>,
    pub from: u64,
    pub to: u64,
    pub address: String,
    pub source: Option<SocketAddr>,
    pub tls: Tls,
    /// Sent first on every connection.
    pub greeting: Option<Vec<u8>>,
}

struct Waiting {
    since: Instant,
    frame: Vec<u8>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Waiting>,
    bytes: usize,
}

struct Shared {
    route: Route,
    queue: Mutex<Queue>,
    bell: Bell,
    stopped: AtomicBool,
    up: AtomicBool,
}

/// The Raft thread's end of an outgoing connection.
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Start dialling. `tell` is called from the link's thread.
    pub fn start(
        route: Route,
        tell: impl Fn(Notice) + Send + 'static,
    ) -> std::io::Result<Link> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            bell: Bell::new()?,
            stopped: AtomicBool::new(false),
            up: AtomicBool::new(false),
            route,
        });
        let name = format!("link-{}-{}", shared.route.to, shared.route.class.number());
        let theirs = Arc::clone(&shared);
        loud::spawn(&name, move || Dialer { shared: theirs, tell }.run())?;
        Ok(Link { shared })
    }

    pub fn address(&self) -> &str {
        &self.shared.route.address
    }

    /// Dial without waiting any longer, if there is no connection.
    pub fn call_now(&self) {
        if !self.shared.up.load(Ordering::Acquire) {
            self.shared.bell.ring();
        }
    }

    /// Queue a frame; false: it is lost. Raft's frames are not kept for a connection
    /// that may come later: by then there are newer ones.
    pub fn push(&self, frame: Vec<u8>) -> bool {
        let raft = self.shared.route.class == Class::Raft;
        if raft && !self.shared.up.load(Ordering::Acquire) {
            return false;
        }
        let mut queue = self.shared.queue.lock().expect("no holder panics");
        let full = queue.frames.len() >= QUEUE_MAX
            || queue.bytes + frame.len() > QUEUE_BYTES_MAX.max(frame.len());
        if full || frame.len() > self.shared.route.class.frame_max() {
            return false;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(Waiting { since: Instant::now(), frame });
        self.shared.bell.ring();
        true
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.bell.ring();
    }
}

/// An open connection.
struct Line {
    stream: Channel,
    keys: Keys,
    shown: Shown,
}

struct Dialer<T> {
    shared: Arc<Shared>,
    tell: T,
}

impl<T: Fn(Notice)> Dialer<T> {
    fn run(&self) {
        let mut pause = REDIAL;
        while !self.stopped() {
            if self.on_demand() && self.idle() {
                self.wait(None);
                continue;
            }
            match self.dial() {
                Ok(line) => {
                    pause = REDIAL;
                    self.serve(line);
                }
                Err(error) => {
                    if self.on_demand() {
                        self.drop_all();
                    }
                    self.drop_stale();
                    (self.tell)(Notice::Failed(error.to_string()));
                    self.wait(Some(pause));
                    pause = (pause * 2).min(REDIAL_MAX);
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// A connection for snapshots exists only while there is one to send.
    fn on_demand(&self) -> bool {
        self.shared.route.class == Class::Snapshot
    }

    fn idle(&self) -> bool {
        self.shared.queue.lock().expect("no holder panics").frames.is_empty()
    }

    fn wait(&self, wait: Option<Duration>) {
        let _ = readable(&[self.shared.bell.fd()], wait);
        self.shared.bell.hush();
    }

    fn dial(&self) -> Result<Line, CallError> {
        let route = &self.shared.route;
        let shown = Shown::now(&route.tls);
        let call = Call {
            class: route.class,
            secret: &route.secret,
            cluster: Some(&route.cluster),
            from: route.from,
            to: route.to,
            spoken: SPOKEN,
        };
        let (mut stream, mut keys) = call.open(&route.address, route.source, &route.tls)?;
        if let Some(greeting) = &route.greeting {
            write_frame(&mut stream, &mut keys.from_caller, greeting)?;
        }
        Ok(Line { stream, keys, shown })
    }

    fn serve(&self, mut line: Line) {
        self.shared.up.store(true, Ordering::Release);
        (self.tell)(Notice::Up);
        while !self.stopped() {
            match self.next() {
                Some(frame) => {
                    if line.shown.is_old(&self.shared.route.tls) {
                        // Another connection first, so that nothing is missed.
                        match self.dial() {
                            Ok(newer) => line = newer,
                            Err(error) => (self.tell)(Notice::Failed(error.to_string())),
                        }
                    }
                    let keys = &mut line.keys.from_caller;
                    let sent = write_frame(&mut line.stream, keys, &frame);
                    if sent.is_err() {
                        break;
                    }
                    if self.on_demand() {
                        (self.tell)(Notice::Written);
                    }
                }
                None if self.on_demand() => return,
                None => {
                    let fds = [self.shared.bell.fd(), line.stream.socket().as_raw_fd()];
                    let Ok(ready) = readable(&fds, None) else { break };
                    self.shared.bell.hush();
                    // The other side never sends here: what there is to read is its end.
                    if ready[1] {
                        break;
                    }
                }
            }
        }
        self.shared.up.store(false, Ordering::Release);
        self.drop_all();
        (self.tell)(Notice::Lost);
    }

    /// The next frame that is not too old to be of use.
    fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.shared.queue.lock().expect("no holder panics");
        while let Some(waiting) = queue.frames.pop_front() {
            queue.bytes -= waiting.frame.len();
            if self.on_demand() || waiting.since.elapsed() < SILENCE_MAX {
                return Some(waiting.frame);
            }
        }
        None
    }

    fn drop_stale(&self) {
        let mut queue = self.shared.queue.lock().expect("no holder panics");
        while queue.frames.front().is_some_and(|w| w.since.elapsed() >= SILENCE_MAX) {
            let gone = queue.frames.pop_front().expect("it was there");
            queue.bytes -= gone.frame.len();
        }
    }

    fn drop_all(&self) {
        *self.shared.queue.lock().expect("no holder panics") = Queue::default();
    }
}

/// How often a connection with a renewed certificate is tried, while the old one works.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// The certificate that a connection was opened with.
struct Shown {
    generation: u64,
    tried: Option<Instant>,
}

impl Shown {
    fn now(tls: &Tls) -> Shown {
        let generation = tls.as_ref().map_or(0, |tls| tls.generation());
        Shown { generation, tried: None }
    }

    /// Tell whether a connection with the newest should be tried now.
    fn is_old(&mut self, tls: &Tls) -> bool {
        let newest = tls.as_ref().map_or(0, |tls| tls.generation());
        if newest == self.generation {
            return false;
        }
        if self.tried.is_some_and(|tried| tried.elapsed() < RENEW_AGAIN) {
            return false;
        }
        self.tried = Some(Instant::now());
        true
    }
}
