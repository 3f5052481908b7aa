//! How two nodes prove to each other that they know the cluster's secret.
//!
//! The caller says who it is and whom it wants, the listener answers with a nonce, the
//! caller proves the secret, then the listener. The secret is never sent; a proof is
//! bound to both nonces, both ids, the cluster, the class, the direction and, where there
//! is TLS, to that TLS connection: a proof cannot be passed on over another. Frames
//! carry a counter's proof under a key of this connection, so that nobody on the way
//! can insert, repeat or change one.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::bytes::{Malformed, Put, Take};
use crate::wire::Class;

const MAGIC: &[u8; 4] = b"pgbr";

/// The versions of the protocol that a side speaks. The caller names one, its newest
/// first; the listener takes it or refuses, and then the caller names the one before.
/// On a connection nothing is said that its version does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub oldest: u16,
    pub newest: u16,
}

/// What this release speaks: its own version, and that of the release before it.
pub const SPOKEN: Spoken = Spoken { oldest: 1, newest: 1 };

impl Default for Spoken {
    fn default() -> Spoken {
        SPOKEN
    }
}

impl Spoken {
    fn has(self, version: u16) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// All of them, the newest first.
    pub fn offers(self) -> impl Iterator<Item = u16> {
        (self.oldest..=self.newest).rev()
    }
}

pub const HELLO_BYTES: usize = 88;
pub const NONCE_BYTES: usize = 32;
pub const PROOF_BYTES: usize = 32;
/// The listener's first answer: a reason, and a nonce if the reason is 0.
pub const CHALLENGE_BYTES: usize = 1 + NONCE_BYTES;
/// The listener's last answer: a reason, and its proof if the reason is 0.
pub const WELCOME_BYTES: usize = 1 + PROOF_BYTES;
pub const TAG_BYTES: usize = 16;

/// Why a connection is refused; the number goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Version = 1,
    Secret = 2,
    Cluster = 3,
    Member = 4,
    Removed = 5,
    Busy = 6,
    /// The certificate is for another address than that member's.
    Address = 7,
}

impl Refusal {
    pub fn of(number: u8) -> Option<Refusal> {
        use Refusal::{Address, Busy, Cluster, Member, Removed, Secret, Version};
        [Version, Secret, Cluster, Member, Removed, Busy, Address]
            .into_iter()
            .find(|refusal| *refusal as u8 == number)
    }

    pub fn word(self) -> &'static str {
        match self {
            Refusal::Version => "version",
            Refusal::Secret => "secret",
            Refusal::Cluster => "cluster",
            Refusal::Member => "member",
            Refusal::Removed => "removed",
            Refusal::Busy => "busy",
            Refusal::Address => "address",
        }
    }
}

/// What the caller says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version that the caller wants to speak.
    pub version: u16,
    pub class: Class,
    /// SHA-256 of the cluster's id; zeroes for a guest, who knows none.
    pub cluster: [u8; 32],
    pub from: u64,
    pub to: u64,
    pub nonce: [u8; NONCE_BYTES],
}

impl Hello {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.version.to_le_bytes());
        out.put_u8(self.class.number());
        out.put_u8(0);
        out.extend_from_slice(&self.cluster);
        out.put_u64(self.from);
        out.put_u64(self.to);
        out.extend_from_slice(&self.nonce);
        out
    }

    pub fn decode(bytes: &[u8; HELLO_BYTES], spoken: Spoken) -> Result<Hello, Refusal> {
        let read = || -> Result<Option<Hello>, Malformed> {
            let mut take = Take(bytes);
            let ours = take.array::<4>()? == *MAGIC;
            let version = u16::from_le_bytes(take.array()?);
            let known = ours && spoken.has(version);
            let class = Class::of(take.u8()?);
            take.u8()?;
            let cluster = take.array()?;
            let (from, to) = (take.u64()?, take.u64()?);
            let nonce = take.array()?;
            Ok(class.filter(|_| known).map(|class| Hello {
                version,
                class,
                cluster,
                from,
                to,
                nonce,
            }))
        };
        read().ok().flatten().ok_or(Refusal::Version)
    }
}

/// The SHA-256 that stands for a cluster's id in a hello.
pub fn cluster_digest(cluster: &[u8]) -> [u8; 32] {
    Sha256::digest(cluster).into()
}

/// A nonce of the operating system's randomness.
pub fn fresh_nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
    nonce
}

/// A number of the operating system's randomness. Each life of a node counts from its
/// own, so that what answers a former life's question answers none of this one's.
pub fn fresh_number() -> u64 {
    u64::from_le_bytes(fresh_nonce()[..8].try_into().expect("eight bytes"))
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    for part in parts {
        mac.update(part);
    }
    mac
}

/// One handshake's two nonces and the secret.
pub struct Session<'a> {
    pub secret: &'a [u8],
    pub hello: &'a Hello,
    pub challenge: &'a [u8; NONCE_BYTES],
    /// What only the two ends of this TLS connection know; without TLS nothing.
    pub binding: &'a [u8],
}

impl Session<'_> {
    fn mac(&self, label: &[u8]) -> Hmac<Sha256> {
        keyed(self.secret, &[label, &self.hello.encode(), self.challenge, self.binding])
    }

    pub fn caller_proof(&self) -> [u8; PROOF_BYTES] {
        self.mac(b"pgbastion caller\0").finalize().into_bytes().into()
    }

    pub fn listener_proof(&self) -> [u8; PROOF_BYTES] {
        self.mac(b"pgbastion listener\0").finalize().into_bytes().into()
    }

    pub fn caller_proved(&self, proof: &[u8]) -> bool {
        self.mac(b"pgbastion caller\0").verify_slice(proof).is_ok()
    }

    pub fn listener_proved(&self, proof: &[u8]) -> bool {
        self.mac(b"pgbastion listener\0").verify_slice(proof).is_ok()
    }

    /// The proofs of the frames in one direction.
    pub fn tags(&self, direction: Direction) -> Tags {
        let label: &[u8] = match direction {
            Direction::FromCaller => b"pgbastion frames of the caller\0",
            Direction::FromListener => b"pgbastion frames of the listener\0",
        };
        Tags { key: self.mac(label).finalize().into_bytes().into(), counter: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    FromCaller,
    FromListener,
}

/// Proofs of frames, in the order in which they go over one connection.
pub struct Tags {
    key: [u8; 32],
    counter: u64,
}

impl Tags {
    fn next(&mut self, frame: &[u8]) -> Hmac<Sha256> {
        let mac = keyed(&self.key, &[&self.counter.to_le_bytes(), frame]);
        self.counter += 1;
        mac
    }

    pub fn sign(&mut self, frame: &[u8]) -> [u8; TAG_BYTES] {
        let whole = self.next(frame).finalize().into_bytes();
        whole[..TAG_BYTES].try_into().expect("a tag is a part of the whole")
    }

    pub fn verify(&mut self, frame: &[u8], tag: &[u8; TAG_BYTES]) -> bool {
        self.next(frame).verify_truncated_left(tag).is_ok()
    }
}

/// What the listener checks once the secret is proven.
pub struct Guestbook<'a> {
    /// `None`: no member yet, only guests are served.
    pub identity: Option<(&'a [u8], u64)>,
    pub removed: &'a dyn Fn(u64) -> bool,
}

impl Guestbook<'_> {
    pub fn judge(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.class == Class::Guest {
            return Ok(());
        }
        let Some((cluster, member)) = self.identity else {
            return Err(Refusal::Member);
        };
        if cluster_digest(cluster) != hello.cluster {
            return Err(Refusal::Cluster);
        }
        if (self.removed)(hello.from) {
            return Err(Refusal::Removed);
        }
        if hello.to != member || hello.from == 0 || hello.from == member {
            return Err(Refusal::Member);
        }
        Ok(())
    }
}
