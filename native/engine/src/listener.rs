//! Who may connect: one thread that sees every handshake through, none of which waits
//! for another, and a thread for each connection that has proven itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use crate::bell::Bell;
use crate::channel::{places, tls_reason, Channel, Incoming, Tls};
use crate::handshake::{
    fresh_nonce, Direction, Guestbook, Hello, Refusal, Session, Spoken, HELLO_BYTES,
    NONCE_BYTES, PROOF_BYTES,
};
use crate::loud;
use crate::net::{listen, prepare, readable, Keys, OPEN_MAX};
use crate::wire::Class;

/// Handshakes under way at once. A new one takes the place of the oldest, so that
/// connections which say nothing keep nobody out.
const HANDSHAKES_MAX: usize = 128;
/// How long nobody is let in when that has failed.
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(20);
/// Why somebody did not get as far as to say who it is.
const SILENT: &str = "it says nothing, or not enough";
const CROWDED: &str = "others came after it, and it had said nothing";
const SPEAKS_TLS: &str = "it speaks TLS, and this node is told not to";
/// The first byte of what a TLS caller says.
const TLS_HANDSHAKE: u8 = 22;
/// Guests served at once.
const GUESTS_MAX: usize = 32;

/// Who we are, for those who connect; the Raft thread keeps it true.
#[derive(Default)]
pub struct Doorplate {
    pub identity: Option<(Vec<u8>, u64)>,
    pub removed: BTreeSet<u64>,
    /// Where each member listens: its certificate has to name that place.
    pub addresses: BTreeMap<u64, String>,
    pub spoken: Spoken,
}

/// A connection whose other side has proven itself.
pub struct Visitor {
    pub hello: Hello,
    pub address: SocketAddr,
    pub stream: Channel,
    pub keys: Keys,
}

/// What the listener needs of its surroundings.
pub trait Host: Send + Sync + 'static {
    /// Serve a connection until it ends, in a thread of its own.
    fn serve(&self, visitor: &mut Visitor);
    /// Somebody was refused.
    fn refused(&self, address: SocketAddr, member: u64, refusal: Refusal);
    /// Somebody did not get as far as to say who it is.
    fn dropped(&self, address: SocketAddr, why: &'static str);
}

type Served = HashMap<(u64, Class), TcpStream>;

struct Common<H> {
    host: H,
    secret: Arc<Vec<u8>>,
    tls: Tls,
    doorplate: Arc<Mutex<Doorplate>>,
    /// The connections of members; a newer one ends the older of the same class.
    served: Mutex<Served>,
    guests: AtomicUsize,
    stopped: AtomicBool,
    bell: Bell,
}

impl<H> Common<H> {
    fn expel(&self, member: u64) {
        let mut served = self.served.lock().expect("no holder panics");
        served.retain(|(from, _), stream| {
            let stays = *from != member;
            if !stays {
                // It is gone already if this fails.
                let _ = stream.shutdown(Shutdown::Both);
            }
            stays
        });
    }

    /// Keep a connection, and end the older one of the same member and class.
    fn keep(&self, hello: &Hello, stream: TcpStream) {
        let key = (hello.from, hello.class);
        let older = self.served.lock().expect("no holder panics").insert(key, stream);
        if let Some(older) = older {
            let _ = older.shutdown(Shutdown::Both);
        }
        // It may have been removed since it was judged.
        let plate = self.doorplate.lock().expect("no holder panics");
        if plate.removed.contains(&hello.from) {
            drop(plate);
            self.expel(hello.from);
        }
    }
}

/// A listening socket and its threads.
pub struct Listener<H: Host> {
    common: Arc<Common<H>>,
    pub address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl<H: Host> Listener<H> {
    pub fn start(
        address: &str,
        secret: Arc<Vec<u8>>,
        tls: Tls,
        doorplate: Arc<Mutex<Doorplate>>,
        host: H,
    ) -> io::Result<Listener<H>> {
        let socket = listen(address)?;
        let bound = socket.local_addr()?.as_socket().expect("it is an Internet socket");
        let common = Arc::new(Common {
            host,
            secret,
            tls,
            doorplate,
            served: Mutex::default(),
            guests: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            bell: Bell::new()?,
        });
        let door = Door { common: Arc::clone(&common), socket, pending: VecDeque::new() };
        let thread = loud::spawn("raft-listen", move || door.run())?;
        Ok(Listener { common, address: bound, thread: Some(thread) })
    }

    /// End the connections of a member that has been removed.
    pub fn expel(&self, member: u64) {
        self.common.expel(member);
    }

    /// Close the door and every connection that came through it.
    pub fn stop(&mut self) {
        self.common.stopped.store(true, Ordering::Release);
        self.common.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic in it has ended the process already.
            let _ = thread.join();
        }
        for (_, stream) in self.common.served.lock().expect("no holder panics").drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl<H: Host> Drop for Listener<H> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that has not proven itself yet.
struct Pending {
    wire: Incoming,
    address: SocketAddr,
    since: Instant,
    bytes: Vec<u8>,
    challenged: Option<(Hello, [u8; NONCE_BYTES])>,
}

enum Progress {
    Waits,
    Over,
    Proven(Hello, [u8; NONCE_BYTES]),
}

struct Door<H: Host> {
    common: Arc<Common<H>>,
    socket: Socket,
    pending: VecDeque<Pending>,
}

impl<H: Host> Door<H> {
    fn run(mut self) {
        while !self.common.stopped.load(Ordering::Acquire) {
            let mut fds = vec![self.common.bell.fd(), self.socket.as_raw_fd()];
            fds.extend(
                self.pending.iter().map(|pending| pending.wire.socket().as_raw_fd()),
            );
            let oldest =
                self.pending.front().map(|p| OPEN_MAX.saturating_sub(p.since.elapsed()));
            let Ok(ready) = readable(&fds, oldest) else { continue };
            self.proceed(&ready[2..]);
            if ready[1] {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        loop {
            let (socket, address) = match self.socket.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                // Where there is no descriptor for it, it waits at the door: asking for
                // it at once, again and again, would take a whole processor.
                Err(_) => return std::thread::sleep(DESCRIPTOR_WAIT),
            };
            let Some(address) = address.as_socket() else { continue };
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            let wire = match Incoming::new(socket.into(), self.common.tls.as_deref()) {
                Ok(wire) => wire,
                Err(_) => continue,
            };
            if self.pending.len() == HANDSHAKES_MAX {
                let oldest = self.pending.pop_front().expect("it is full");
                self.common.host.dropped(oldest.address, CROWDED);
            }
            self.pending.push_back(Pending {
                wire,
                address,
                since: Instant::now(),
                bytes: Vec::new(),
                challenged: None,
            });
        }
    }

    fn proceed(&mut self, ready: &[bool]) {
        let pending = std::mem::take(&mut self.pending);
        for (mut one, ready) in pending.into_iter().zip(ready) {
            let progress = if *ready { self.step(&mut one) } else { Progress::Waits };
            match progress {
                Progress::Proven(hello, nonce) => self.admit(one, hello, nonce),
                Progress::Waits if one.since.elapsed() < OPEN_MAX => {
                    self.pending.push_back(one)
                }
                Progress::Waits => self.common.host.dropped(one.address, SILENT),
                Progress::Over => {}
            }
        }
    }

    /// Read what has come and answer it, without waiting for more.
    fn step(&self, one: &mut Pending) -> Progress {
        let wanted = if one.challenged.is_none() { HELLO_BYTES } else { PROOF_BYTES };
        let mut buffer = [0; HELLO_BYTES];
        match one.wire.read(&mut buffer[..wanted - one.bytes.len()]) {
            Ok(0) => {
                // Who looks whether somebody listens says nothing at all.
                if !one.bytes.is_empty() {
                    self.common.host.dropped(one.address, SILENT);
                }
                return Progress::Over;
            }
            Ok(count) => one.bytes.extend_from_slice(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Waits,
            Err(e) => {
                if let Some(why) = tls_reason(&e) {
                    self.common.host.dropped(one.address, why);
                }
                return Progress::Over;
            }
        }
        if one.bytes.first() == Some(&TLS_HANDSHAKE) && one.challenged.is_none() {
            self.common.host.dropped(one.address, SPEAKS_TLS);
            one.wire.turn_away();
            return Progress::Over;
        }
        if one.bytes.len() < wanted {
            return Progress::Waits;
        }
        let bytes = std::mem::take(&mut one.bytes);
        match one.challenged.take() {
            None => self.challenge(one, &bytes),
            Some((hello, nonce)) => self.check(one, &bytes, hello, nonce),
        }
    }

    fn challenge(&self, one: &mut Pending, bytes: &[u8]) -> Progress {
        let bytes = bytes.try_into().expect("it was read to this length");
        let spoken = self.common.doorplate.lock().expect("no holder panics").spoken;
        let hello = match Hello::decode(bytes, spoken) {
            Ok(hello) => hello,
            Err(refusal) => return self.refuse(one, 0, refusal),
        };
        let nonce = fresh_nonce();
        let mut answer = vec![0];
        answer.extend_from_slice(&nonce);
        if one.wire.send(&answer).is_err() {
            return Progress::Over;
        }
        one.challenged = Some((hello, nonce));
        Progress::Waits
    }

    fn check(
        &self,
        one: &mut Pending,
        proof: &[u8],
        hello: Hello,
        nonce: [u8; NONCE_BYTES],
    ) -> Progress {
        let session = Session {
            secret: &self.common.secret,
            hello: &hello,
            challenge: &nonce,
            binding: &one.wire.binding(),
        };
        if !session.caller_proved(proof) {
            return self.refuse(one, hello.from, Refusal::Secret);
        }
        let guest = hello.class == Class::Guest;
        if guest && self.common.guests.load(Ordering::Acquire) >= GUESTS_MAX {
            return self.refuse(one, hello.from, Refusal::Busy);
        }
        if let Err(refusal) = self.judge(one, &hello) {
            return self.refuse(one, hello.from, refusal);
        }
        let mut welcome = vec![0];
        welcome.extend_from_slice(&session.listener_proof());
        if one.wire.send(&welcome).is_err() {
            return Progress::Over;
        }
        Progress::Proven(hello, nonce)
    }

    fn judge(&self, one: &Pending, hello: &Hello) -> Result<(), Refusal> {
        let plate = self.common.doorplate.lock().expect("no holder panics");
        let identity = plate.identity.as_ref();
        Guestbook {
            identity: identity.map(|(cluster, member)| (cluster.as_slice(), *member)),
            removed: &|member| plate.removed.contains(&member),
        }
        .judge(hello)?;
        if hello.class == Class::Guest {
            return Ok(());
        }
        // Who was admitted a moment ago is not in the log here yet: then where it calls
        // from has to do.
        let places = match plate.addresses.get(&hello.from) {
            Some(address) => places(address, None),
            None => vec![one.address.ip().into()],
        };
        one.wire.names(&places).map_err(|_| Refusal::Address)
    }

    fn refuse(&self, one: &mut Pending, member: u64, refusal: Refusal) -> Progress {
        // Who does not hear it notices the close.
        let _ = one.wire.send(&[refusal as u8]);
        self.common.host.refused(one.address, member, refusal);
        Progress::Over
    }

    fn admit(&self, one: Pending, hello: Hello, nonce: [u8; NONCE_BYTES]) {
        if prepare(&SockRef::from(one.wire.socket())).is_err() {
            return;
        }
        let Ok(ours) = one.wire.socket().try_clone() else { return };
        let session = Session {
            secret: &self.common.secret,
            hello: &hello,
            challenge: &nonce,
            binding: &one.wire.binding(),
        };
        let keys = Keys {
            version: hello.version,
            from_caller: session.tags(Direction::FromCaller),
            from_listener: session.tags(Direction::FromListener),
        };
        let (stream, address) = (one.wire.open(), one.address);
        if hello.class == Class::Guest {
            self.common.guests.fetch_add(1, Ordering::AcqRel);
        } else {
            self.common.keep(&hello, ours);
        }
        let common = Arc::clone(&self.common);
        let (guest, from) = (hello.class == Class::Guest, hello.from);
        let name = format!("from-{}-{}", hello.from, hello.class.number());
        let served = move || {
            let mut visitor = Visitor { hello, address, stream, keys };
            common.host.serve(&mut visitor);
            // The other side has to notice; a copy of the socket may be left above.
            let _ = visitor.stream.socket().shutdown(Shutdown::Both);
            if guest {
                common.guests.fetch_sub(1, Ordering::AcqRel);
            }
        };
        // Without a thread the connection closes, and the other side dials again.
        if loud::spawn(&name, served).is_err() {
            if guest {
                self.common.guests.fetch_sub(1, Ordering::AcqRel);
            } else {
                self.common.expel(from);
            }
        }
    }
}
