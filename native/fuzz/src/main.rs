//! The decoders under libFuzzer; the variable PGBASTION_DECODER names one.
#![no_main]

use std::sync::OnceLock;

use _engine::gossip::identity::Facts;
use _engine::gossip::protocol::Protocol;
use _engine::gossip::seal::Seals;
use _engine::guest::decode_question;
use _engine::handshake::{Hello, HELLO_BYTES, SPOKEN};
use _engine::records::{Base, Recovered};
use _engine::wire::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static DECODER: OnceLock<fn(&[u8])> = OnceLock::new();
    DECODER.get_or_init(chosen)(bytes);
});

fn chosen() -> fn(&[u8]) {
    match std::env::var("PGBASTION_DECODER").as_deref() {
        Ok("frame") => frame,
        Ok("records") => records,
        Ok("handshake") => handshake,
        Ok("snapshot") => snapshot,
        Ok("gossip") => gossip,
        Ok("payload") => payload,
        other => panic!("no such decoder: {other:?}"),
    }
}

fn frame(bytes: &[u8]) {
    if let Ok(packet) = Packet::decode(bytes) {
        Packet::decode(&packet.encode()).expect("what was read can be read again");
    }
}

fn records(bytes: &[u8]) {
    let mut recovered = Recovered::default();
    let _ = recovered.read(bytes);
    for (at, entry) in recovered.entries.iter().enumerate() {
        assert_eq!(entry.index, recovered.base.index + at as u64 + 1);
    }
}

fn handshake(bytes: &[u8]) {
    let _ = decode_question(bytes);
    let Some(bytes) = bytes.first_chunk::<HELLO_BYTES>() else { return };
    if let Ok(hello) = Hello::decode(bytes, SPOKEN) {
        let again = hello.encode().try_into().expect("a hello has its size");
        assert_eq!(Hello::decode(&again, SPOKEN), Ok(hello));
    }
}

fn snapshot(bytes: &[u8]) {
    if let Ok(base) = Base::decode(bytes) {
        assert_eq!(Base::decode(&base.encode()), Ok(base));
    }
}

fn gossip(bytes: &[u8]) {
    let _ = Seals::new(b"a secret", "main").open(bytes);
    let _ = Facts::decode(bytes);
}

/// What is behind the seal: somebody who knows the secret may say anything.
fn payload(bytes: &[u8]) {
    let mut node = Protocol::at(([127, 0, 0, 1], 7_946).into(), b"facts");
    node.hear(bytes);
    node.pass_time();
    node.hear(bytes);
    node.said();
}
