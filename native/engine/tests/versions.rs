//! Versions: a node that is one release older is understood, and understands.
//!
//! `golden/v1.txt` holds bytes that version 1 has written. They are never made anew:
//! when what is written today differs, it is another version, which only those are told
//! that speak it, and these bytes have to be read as before.

#[path = "common/door.rs"]
mod common;

use std::collections::BTreeMap;

use _engine::gossip::identity::Facts;
use _engine::handshake::{
    cluster_digest, Direction, Hello, Refusal, Session, Spoken, HELLO_BYTES, SPOKEN,
};
use _engine::home::Identity;
use _engine::net::{write_frame, Call, CallError};
use _engine::records::{founding, joining, put_base, Base, Recovered};
use _engine::wire::{Class, Packet};
use common::{call, door_that_speaks, Door, SOON};
use pgbastion_lease::{Answer, Denial, Renewal};
use raft::eraftpb::{Entry, Message, MessageType};

const GOLDEN: &str = include_str!("golden/v1.txt");

fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, hex) = line.split_once(' ').expect("a name and its bytes");
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
            (name, (0..hex.len()).step_by(2).map(byte).collect())
        })
        .collect()
}

fn raft(kind: MessageType) -> Message {
    let mut message = Message { from: 2, to: 1, term: 7, ..Message::default() };
    message.set_msg_type(kind);
    (message.log_term, message.index, message.commit) = (6, 41, 40);
    let mut entry = Entry { index: 42, term: 7, ..Entry::default() };
    entry.data = b"a command".to_vec().into();
    entry.context = vec![3; 16].into();
    message.entries = vec![entry].into();
    message
}

fn packets() -> Vec<(&'static str, Packet)> {
    let renewal = Renewal {
        epoch: 3,
        incarnation: 77,
        number: 9,
        evidence_age_ns: 5_000_000,
        pause_revision: 2,
        paused: 0,
        policy_revision: 1,
    };
    let answer = |answer| Packet::Answer { epoch: 3, number: 9, answer };
    vec![
        ("append", Packet::Raft(Box::new(raft(MessageType::MsgAppend)))),
        ("vote", Packet::Raft(Box::new(raft(MessageType::MsgRequestPreVote)))),
        ("renewal", Packet::Renewal(renewal)),
        ("granted", answer(Answer::Granted { lease_ns: 5_000_000_000 })),
        ("closed", answer(Answer::Denied(Denial::Closed))),
        ("not_holder", answer(Answer::Denied(Denial::NotHolder))),
        ("incarnation", answer(Answer::Denied(Denial::Incarnation))),
        ("ask_age", Packet::AskAge { term: 7, number: 4 }),
        ("age", Packet::Age { term: 7, number: 4, age_ns: 123_456_789 }),
        ("request", Packet::Request { number: 5, kind: 2, payload: b"cut".to_vec() }),
        ("reply", Packet::Reply { number: 5, payload: b"done".to_vec() }),
        ("broadcast", Packet::Broadcast { kind: 1, payload: b"report".to_vec() }),
        ("introduce", Packet::Introduce { address: "10.0.1.1:8300".to_owned() }),
    ]
}

fn hello() -> Hello {
    Hello {
        version: 1,
        class: Class::Talk,
        cluster: cluster_digest(b"cluster"),
        from: 2,
        to: 1,
        nonce: [5; 32],
    }
}

fn voters() -> Vec<(u64, String)> {
    vec![(1, "10.0.1.1:8300".to_owned()), (2, "10.0.1.2:8300".to_owned())]
}

fn base() -> Base {
    let mut recovered = Recovered::default();
    recovered.read(&joining()).expect("our own records");
    let mut base = Base { index: 42, term: 7, ..recovered.base };
    base.members.voters = vec![1, 2];
    base.members.addresses = voters().into_iter().collect();
    base.members.removed.insert(9);
    base.data = b"the host's state".to_vec();
    base
}

fn identity() -> Identity {
    Identity { cluster: b"cluster".to_vec(), member: 2, peers: voters() }
}

fn facts() -> Facts {
    Facts {
        name: "n1".to_owned(),
        cluster_id: "abcdef".to_owned(),
        raft_address: "10.0.1.1:8300".to_owned(),
        api_url: "http://10.0.1.1:8080".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// What this release writes, by name.
fn written() -> Vec<(String, Vec<u8>)> {
    let mut written: Vec<(String, Vec<u8>)> = packets()
        .into_iter()
        .map(|(name, packet)| (format!("packet.{name}"), packet.encode()))
        .collect();
    let session = Session {
        secret: b"a secret of the cluster",
        hello: &hello(),
        challenge: &[6; 32],
        binding: &[],
    };
    let bound = Session { binding: &[7; 32], ..session };
    let mut one_base = Vec::new();
    put_base(&mut one_base, &base());
    let mut add = |name: &str, bytes: Vec<u8>| written.push((name.to_owned(), bytes));
    add("hello", hello().encode());
    add("proof.caller", session.caller_proof().to_vec());
    add("proof.listener", session.listener_proof().to_vec());
    add("proof.bound", bound.caller_proof().to_vec());
    add("tag", session.tags(Direction::FromCaller).sign(b"a frame").to_vec());
    add("records.joining", joining());
    add("records.founding", founding(&voters()));
    add("records.base", one_base);
    add("identity", identity().encode());
    add("gossip.facts", facts().encode().expect("they are short enough"));
    written
}

#[test]
fn what_version_1_wrote_is_what_is_written_to_those_that_speak_it() {
    let golden = golden();
    for (name, bytes) in written() {
        assert_eq!(golden.get(name.as_str()), Some(&bytes), "{name}");
    }
    assert_eq!(golden.len(), written().len());
}

/// Print what the golden file holds: `cargo test --test versions -- --ignored --nocapture`.
#[test]
#[ignore = "prints the file of a new version"]
fn print_golden() {
    for (name, bytes) in written() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{name} {hex}");
    }
}

#[test]
fn packets_of_version_1_are_read() {
    let golden = golden();
    for (name, packet) in packets() {
        let bytes = &golden[format!("packet.{name}").as_str()];
        assert_eq!(Packet::decode(bytes), Ok(packet), "{name}");
    }
}

#[test]
fn a_hello_of_version_1_is_read() {
    let bytes: [u8; HELLO_BYTES] = golden()["hello"].clone().try_into().expect("its size");

    assert_eq!(Hello::decode(&bytes, SPOKEN), Ok(hello()));
}

#[test]
fn records_of_version_1_are_read() {
    let golden = golden();
    let read = |name| {
        let mut recovered = Recovered::default();
        recovered.read(&golden[name]).expect("records of version 1");
        recovered
    };

    assert_eq!(read("records.joining").last_index(), 0);
    assert_eq!(read("records.founding").hard_state.commit, 2);
    assert_eq!(read("records.base").base, base());
}

#[test]
fn an_identity_of_version_1_is_read() {
    assert_eq!(Identity::decode(&golden()["identity"]), Ok(identity()));
}

#[test]
fn gossip_of_version_1_is_read() {
    assert_eq!(Facts::decode(&golden()["gossip.facts"]), Ok(facts()));
}

fn speaks(oldest: u16, newest: u16) -> Spoken {
    Spoken { oldest, newest }
}

/// The version in which a caller and a listener of these versions speak.
fn agreed(caller: Spoken, listener: Spoken) -> Result<u16, CallError> {
    let door: Door = door_that_speaks(listener, None);
    let call = Call { spoken: caller, ..call() };
    let (mut stream, mut keys) = door.try_in(&call)?;
    write_frame(&mut stream, &mut keys.from_caller, b"hello").expect("a write");
    assert_eq!(door.frames.recv_timeout(SOON), Ok(Ok(b"hello".to_vec())));
    Ok(keys.version)
}

#[test]
fn two_sides_speak_the_newest_version_that_both_have() {
    assert_eq!(agreed(speaks(1, 2), speaks(1, 2)).expect("both speak 2"), 2);
    assert_eq!(agreed(speaks(1, 2), speaks(1, 1)).expect("an older listener"), 1);
    assert_eq!(agreed(speaks(1, 1), speaks(1, 2)).expect("an older caller"), 1);
    assert_eq!(agreed(speaks(2, 4), speaks(1, 2)).expect("two releases"), 2);
}

#[test]
fn two_sides_without_a_common_version_part() {
    let outcome = agreed(speaks(3, 4), speaks(1, 2));

    assert!(matches!(outcome, Err(CallError::Refused(Refusal::Version))));
}
