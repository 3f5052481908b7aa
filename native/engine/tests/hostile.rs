//! Every decoder of bytes from elsewhere survives whatever they are: it reads them or
//! refuses them. Seeded changes to good bytes reach further in than random ones do.

use _engine::credentials::facts;
use _engine::gossip::identity::Facts;
use _engine::gossip::protocol::Protocol;
use _engine::gossip::seal::Seals;
use _engine::guest::decode_question;
use _engine::handshake::{Hello, HELLO_BYTES, SPOKEN};
use _engine::home::Identity;
use _engine::records::{Base, Recovered};
use _engine::wire::Packet;

const GOLDEN: &str = include_str!("golden/v1.txt");
const SECRET: &[u8] = b"a secret of the cluster";
/// Changed inputs a test; `PGBASTION_HOSTILE` says another number.
const ROUNDS: usize = 30_000;

/// A small generator of numbers: the same for the same seed, everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

fn rounds() -> usize {
    let said = std::env::var("PGBASTION_HOSTILE").ok();
    said.and_then(|number| number.parse().ok()).unwrap_or(ROUNDS)
}

fn samples() -> Vec<Vec<u8>> {
    GOLDEN
        .lines()
        .filter_map(|line| line.split_once(' ').filter(|_| !line.starts_with('#')))
        .map(|(_, hex)| {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
            (0..hex.len()).step_by(2).map(byte).collect()
        })
        .collect()
}

/// Flip bits, put extreme numbers in, cut, repeat, join with another sample.
fn change(draw: &mut Draw, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = samples[draw.below(samples.len())].clone();
    for _ in 0..=draw.below(4) {
        let at = draw.below(bytes.len());
        match draw.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << draw.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 127, 128, 255][draw.below(5)],
            2 => bytes.truncate(at),
            3 if bytes.len() >= at + 4 => {
                let number = [0, 1, u32::MAX, 1 << 31, 64 << 20][draw.below(5)];
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            4 => {
                let part = bytes[at..].to_vec();
                bytes.extend_from_slice(&part);
            }
            _ => {
                let other = &samples[draw.below(samples.len())];
                bytes.extend_from_slice(&other[draw.below(other.len())..]);
            }
        }
    }
    bytes
}

/// Give changed samples to a decoder; tell how many it read.
fn fed(seed: u64, decode: impl Fn(&[u8]) -> bool) -> usize {
    let (samples, mut draw) = (samples(), Draw(seed));
    (0..rounds()).filter(|_| decode(&change(&mut draw, &samples))).count()
}

#[test]
fn packets_are_read_or_refused() {
    let read = fed(1, |bytes| {
        let Ok(packet) = Packet::decode(bytes) else { return false };
        // What was read can be written and read again.
        let again = Packet::decode(&packet.encode());
        assert!(again.is_ok(), "{packet:?}");
        true
    });

    assert!(read > rounds() / 100, "{read}: the changes refuse nearly everything");
}

#[test]
fn records_of_the_log_are_read_or_refused() {
    let read = fed(2, |bytes| {
        let _ = Base::decode(bytes);
        let mut recovered = Recovered::default();
        let outcome = recovered.read(bytes);
        // What was taken is a log without holes, whatever came after it.
        for (at, entry) in recovered.entries.iter().enumerate() {
            assert_eq!(entry.index, recovered.base.index + at as u64 + 1);
        }
        outcome.is_ok()
    });

    assert!(read > rounds() / 1_000, "{read}: the changes refuse nearly everything");
}

#[test]
fn identities_hellos_and_questions_are_read_or_refused() {
    fed(3, |bytes| {
        let _ = decode_question(bytes);
        if let Some(hello) = bytes.first_chunk::<HELLO_BYTES>() {
            if let Ok(hello) = Hello::decode(hello, SPOKEN) {
                assert_eq!(
                    Hello::decode(&hello.encode().try_into().unwrap(), SPOKEN),
                    Ok(hello)
                );
            }
        }
        Identity::decode(bytes).is_ok()
    });
}

#[test]
fn gossip_is_read_or_refused() {
    let mut seals = Seals::new(SECRET, "main");
    let mut theirs = Seals::new(SECRET, "main");
    let sealed: Vec<Vec<u8>> = samples().iter().map(|bytes| theirs.seal(bytes)).collect();
    let mut draw = Draw(4);
    let mut opened = 0;
    for _ in 0..rounds() / 10 {
        opened += usize::from(seals.open(&change(&mut draw, &sealed)).is_ok());
    }
    // A good one in between may come through unchanged, once each.
    assert!(opened <= sealed.len());

    fed(5, |bytes| Facts::decode(bytes).is_ok());
}

#[test]
fn certificates_are_read_or_refused() {
    let authority = _engine::authority::Authority::of_seed(&[7; 32]).expect("a seed");
    let pem = vec![authority.certificate.into_bytes()];
    let mut draw = Draw(6);
    let mut read = 0;
    for _ in 0..rounds() / 10 {
        read += usize::from(facts(&change(&mut draw, &pem)).is_ok());
    }
    assert!(read > 0);
}

/// What two nodes say to each other until both know each other and have probed.
fn gossiped() -> Vec<Vec<u8>> {
    let places = [([127, 0, 0, 1], 7_946), ([127, 0, 0, 2], 7_946)];
    let mut nodes = places.map(|place| Protocol::at(place.into(), b"facts"));
    nodes[0].greet(places[1].into());
    let mut all = Vec::new();
    for turn in 0..40 {
        let (says, hears) = (turn % 2, 1 - turn % 2);
        nodes[says].pass_time();
        for payload in nodes[says].said() {
            nodes[hears].hear(&payload);
            all.push(payload);
        }
    }
    assert!(nodes.iter().all(|node| node.members() == 1), "they know each other");
    all
}

#[test]
fn what_is_behind_the_seal_is_taken_or_refused() {
    let good = gossiped();
    let mut draw = Draw(11);
    for _ in 0..rounds() / 10 {
        let mut node = Protocol::at(([127, 0, 0, 1], 7_946).into(), b"facts");
        for _ in 0..3 {
            node.hear(&change(&mut draw, &good));
        }
        node.pass_time();
        assert!(node.members() <= 64);
    }
}
