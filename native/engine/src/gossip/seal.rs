//! Datagrams that only who knows the secret can read or write, each taken once.

use std::collections::BTreeMap;

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, CHACHA20_POLY1305};
use ring::hkdf::{Salt, HKDF_SHA256};

/// The first byte of a datagram, which the seal covers too.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What a seal adds.
pub const SEAL_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;
/// How far behind the newest datagram of a process one may come and be taken.
const WINDOW: u32 = 64;
/// Processes whose datagrams are told apart; those that were heard first go.
const PROCESSES_MAX: usize = 1_024;

/// Why a datagram is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsealed {
    /// Of another version, or no datagram of ours at all.
    Version,
    /// Of another secret or cluster, or changed on the way.
    Secret,
    /// It was here before.
    Repeated,
}

/// Seals what this process says, and opens what others say.
pub struct Seals {
    key: LessSafeKey,
    process: u64,
    counter: u32,
    heard: BTreeMap<u64, Heard>,
    turn: u64,
}

/// Which datagrams of one process have come.
struct Heard {
    newest: u32,
    /// Bit n: the one that is n before the newest.
    seen: u64,
    turn: u64,
}

impl Seals {
    /// The key follows from the secret and the cluster's name.
    pub fn new(secret: &[u8], cluster: &str) -> Seals {
        let secret = Salt::new(HKDF_SHA256, &[]).extract(secret);
        let info = [b"gossip\0".as_slice(), cluster.as_bytes()];
        let derived =
            secret.expand(&info, &CHACHA20_POLY1305).expect("a key is short enough");
        Seals {
            key: LessSafeKey::new(UnboundKey::from(derived)),
            process: fresh_process(),
            counter: 0,
            heard: BTreeMap::new(),
            turn: 0,
        }
    }

    pub fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        // A nonce is used once: the process's number is drawn from 2^64, and the
        // counter never comes back under the same number.
        if self.counter == u32::MAX {
            (self.process, self.counter) = (fresh_process(), 0);
        }
        self.counter += 1;
        let nonce = nonce(self.process, self.counter);
        let mut sealed = payload.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from([VERSION]),
                &mut sealed,
            )
            .expect("a datagram is short enough");
        let mut datagram = vec![VERSION];
        datagram.extend_from_slice(&nonce);
        datagram.extend_from_slice(&sealed);
        datagram
    }

    pub fn open(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Unsealed> {
        let Some((&VERSION, rest)) = datagram.split_first() else {
            return Err(Unsealed::Version);
        };
        let Some((nonce, sealed)) = rest.split_first_chunk::<NONCE_BYTES>() else {
            return Err(Unsealed::Version);
        };
        let mut opened = sealed.to_vec();
        let payload = self
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from([VERSION]),
                &mut opened,
            )
            .map_err(|_| Unsealed::Secret)?
            .to_vec();
        let (process, counter) = nonce.split_at(8);
        let process = u64::from_le_bytes(process.try_into().expect("eight bytes"));
        let counter = u32::from_le_bytes(counter.try_into().expect("four bytes"));
        if !self.is_new(process, counter) {
            return Err(Unsealed::Repeated);
        }
        Ok(payload)
    }

    fn is_new(&mut self, process: u64, counter: u32) -> bool {
        self.turn += 1;
        if !self.heard.contains_key(&process) && self.heard.len() == PROCESSES_MAX {
            let oldest = self.heard.iter().min_by_key(|(_, heard)| heard.turn);
            let oldest = oldest.map(|(process, _)| *process);
            oldest.map(|process| self.heard.remove(&process));
        }
        let turn = self.turn;
        let heard = self.heard.entry(process).or_insert(Heard { newest: 0, seen: 0, turn });
        heard.turn = turn;
        if counter > heard.newest {
            let ahead = counter - heard.newest;
            heard.seen = heard.seen.checked_shl(ahead).unwrap_or(0) | 1;
            heard.newest = counter;
            return true;
        }
        let behind = heard.newest - counter;
        if behind >= WINDOW || heard.seen & (1 << behind) != 0 {
            return false;
        }
        heard.seen |= 1 << behind;
        true
    }
}

fn fresh_process() -> u64 {
    let mut number = [0; 8];
    getrandom::fill(&mut number).expect("the kernel gives random bytes");
    u64::from_le_bytes(number)
}

fn nonce(process: u64, counter: u32) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&process.to_le_bytes());
    nonce[8..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
