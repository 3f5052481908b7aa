//! Sockets: how they are opened, and how a frame goes over one.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::RawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::channel::{tls_reason, Channel, Tls};
use crate::handshake::{
    cluster_digest, fresh_nonce, Direction, Hello, Refusal, Session, Spoken, Tags,
    CHALLENGE_BYTES, NONCE_BYTES, TAG_BYTES, WELCOME_BYTES,
};
use crate::wire::Class;

/// How long a connection may take to open: a lost packet is better sent anew by another
/// attempt than by the kernel a second later.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How long a handshake may take.
pub const OPEN_MAX: Duration = Duration::from_millis(1_000);
/// How long sent bytes may stay unacknowledged, or a write blocked.
pub const SILENCE_MAX: Duration = Duration::from_millis(2_000);

/// That the peer has closed its end, where the system tells it apart from input.
#[cfg(target_os = "linux")]
const HANG_UP: libc::c_short = libc::POLLRDHUP;
#[cfg(not(target_os = "linux"))]
const HANG_UP: libc::c_short = 0;

/// Wait until one of the descriptors can be read or is gone; tell which.
pub fn readable(fds: &[RawFd], wait: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN | HANG_UP, revents: 0 })
        .collect();
    let millis = wait.map_or(-1, |wait| wait.as_millis().clamp(1, 60_000) as i32);
    // SAFETY: the array lives across the call and its length is its own.
    let found =
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    if found < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(polled.iter().map(|one| found > 0 && one.revents != 0).collect())
}

pub fn resolve(address: &str) -> io::Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(no_address)
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// Listen on an address.
pub fn listen(address: &str) -> io::Result<Socket> {
    let address = resolve(address)?;
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Connect to the first of the places that `address` stands for where somebody listens.
pub fn connect(address: &str, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    connect_to_one(address.to_socket_addrs()?, source)
}

/// Connect to the first of these places where somebody listens.
pub fn connect_to_one(
    places: impl IntoIterator<Item = SocketAddr>,
    source: Option<SocketAddr>,
) -> io::Result<TcpStream> {
    let mut outcome = Err(no_address());
    for place in places {
        outcome = connect_to(place, source);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Connect from `source`, when it is an address of ours of the same family.
fn connect_to(target: SocketAddr, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket =
        Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(mut source) = source {
        if !source.ip().is_unspecified() && source.is_ipv4() == target.is_ipv4() {
            source.set_port(0);
            socket.bind(&SockAddr::from(source))?;
        }
    }
    socket.connect_timeout(&target.into(), CONNECT_MAX)?;
    prepare(&socket)?;
    Ok(socket.into())
}

/// No delay for small frames; a silent other side is noticed.
pub fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    // Elsewhere keepalive alone finds a peer that is gone.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    socket.set_write_timeout(Some(SILENCE_MAX))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(3))
            .with_interval(Duration::from_secs(1))
            .with_retries(3),
    )
}

/// The first byte of what a TLS listener answers to somebody who does not speak it.
const TLS_ALERT: u8 = 21;

/// Why a call did not get through.
#[derive(Debug)]
pub enum CallError {
    Io(io::Error),
    Refused(Refusal),
    /// The listener does not know the secret.
    Impostor,
    /// One side speaks TLS and the other does not, or they do not accept each other.
    Tls(&'static str),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        tls_reason(&error).map_or(CallError::Io(error), CallError::Tls)
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Io(error) => write!(f, "{error}"),
            CallError::Refused(refusal) => write!(f, "refused: {}", refusal.word()),
            CallError::Impostor => write!(f, "the other side does not know the secret"),
            CallError::Tls(why) => write!(f, "no TLS with the other side: {why}"),
        }
    }
}

/// Who calls whom.
#[derive(Clone)]
pub struct Call<'a> {
    pub class: Class,
    pub secret: &'a [u8],
    pub cluster: Option<&'a [u8]>,
    pub from: u64,
    pub to: u64,
    /// The versions of the protocol that the caller speaks.
    pub spoken: Spoken,
}

/// What a connection that is proven goes on with: the tags of both directions.
pub struct Keys {
    /// The version of the protocol that is spoken.
    pub version: u16,
    pub from_caller: Tags,
    pub from_listener: Tags,
}

impl Call<'_> {
    /// Connect to `address` from `source`, and prove each other's knowledge, in the
    /// newest version that both sides speak.
    pub fn open(
        &self,
        address: &str,
        source: Option<SocketAddr>,
        tls: &Tls,
    ) -> Result<(Channel, Keys), CallError> {
        let mut outcome = Err(CallError::Refused(Refusal::Version));
        for version in self.spoken.offers() {
            outcome = self.open_in(version, address, source, tls);
            if !matches!(outcome, Err(CallError::Refused(Refusal::Version))) {
                break;
            }
        }
        outcome
    }

    fn open_in(
        &self,
        version: u16,
        address: &str,
        source: Option<SocketAddr>,
        tls: &Tls,
    ) -> Result<(Channel, Keys), CallError> {
        let stream = connect(address, source)?;
        stream.set_read_timeout(Some(OPEN_MAX))?;
        let mut channel = match tls {
            Some(credentials) => {
                let target = stream.peer_addr()?;
                Channel::call(stream, credentials, address, target)?
            }
            None => Channel::Plain(stream),
        };
        let keys = self.shake_hands(version, &mut channel)?;
        Ok((channel, keys))
    }

    /// Prove each other's knowledge of the secret on a fresh connection.
    fn shake_hands(&self, version: u16, stream: &mut Channel) -> Result<Keys, CallError> {
        stream.set_read_timeout(Some(OPEN_MAX))?;
        let hello = Hello {
            version,
            class: self.class,
            cluster: self.cluster.map_or([0; 32], cluster_digest),
            from: self.from,
            to: self.to,
            nonce: fresh_nonce(),
        };
        stream.write_all(&hello.encode())?;
        let challenge: [u8; CHALLENGE_BYTES] = answer(stream)?;
        let nonce: [u8; NONCE_BYTES] = challenge[1..].try_into().expect("it has this size");
        let session = Session {
            secret: self.secret,
            hello: &hello,
            challenge: &nonce,
            binding: &stream.binding(),
        };
        stream.write_all(&session.caller_proof())?;
        let welcome: [u8; WELCOME_BYTES] = answer(stream)?;
        if !session.listener_proved(&welcome[1..]) {
            return Err(CallError::Impostor);
        }
        stream.set_read_timeout(None)?;
        Ok(Keys {
            version,
            from_caller: session.tags(Direction::FromCaller),
            from_listener: session.tags(Direction::FromListener),
        })
    }
}

/// Read an answer whose first byte is the reason of a refusal, or 0.
fn answer<const N: usize>(stream: &mut Channel) -> Result<[u8; N], CallError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes[..1])?;
    if bytes[0] == TLS_ALERT && matches!(stream, Channel::Plain(_)) {
        return Err(CallError::Tls("it speaks TLS, and this node is told not to"));
    }
    if bytes[0] != 0 {
        let refusal = Refusal::of(bytes[0]).unwrap_or(Refusal::Version);
        return Err(CallError::Refused(refusal));
    }
    stream.read_exact(&mut bytes[1..])?;
    Ok(bytes)
}

/// Send a frame: its length, its tag, itself.
pub fn write_frame(
    stream: &mut impl Write,
    tags: &mut Tags,
    frame: &[u8],
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(frame.len() + 4 + TAG_BYTES);
    bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&tags.sign(frame));
    bytes.extend_from_slice(frame);
    stream.write_all(&bytes)
}

/// Receive a frame of at most `most` bytes.
pub fn read_frame(
    stream: &mut impl Read,
    tags: &mut Tags,
    most: usize,
) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut tag = [0; TAG_BYTES];
    stream.read_exact(&mut tag)?;
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    if !tags.verify(&frame, &tag) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame not of the caller"));
    }
    Ok(frame)
}
