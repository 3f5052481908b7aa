//! Who is let in, and what cannot keep others out.

#[path = "common/door.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use _engine::handshake::{Hello, Refusal, CHALLENGE_BYTES, HELLO_BYTES};
use _engine::net::{connect_to_one, write_frame, Call, CallError};
use _engine::wire::Class;
use common::{call, door_with, Door, CLUSTER, SECRET, SOON};

fn door() -> Door {
    door_with(None)
}

#[test]
fn a_member_with_the_secret_is_let_in() {
    let door = door();
    let (mut stream, mut keys) = door.try_in(&call()).expect("it is let in");

    write_frame(&mut stream, &mut keys.from_caller, b"hello").expect("a write");

    assert_eq!(door.frames.recv_timeout(SOON), Ok(Ok(b"hello".to_vec())));
}

#[test]
fn a_name_leads_to_whichever_of_its_addresses_listens() {
    let door = door();
    let mut deaf = door.listener.address;
    deaf.set_ip([127, 31, 9, 200].into());

    let stream = connect_to_one([deaf, door.listener.address], None).expect("it listens");

    assert_eq!(stream.peer_addr().expect("connected"), door.listener.address);
}

#[test]
fn a_wrong_secret_is_refused() {
    let wrong = Call { secret: b"another secret, not ours", ..call() };

    assert_eq!(door().refusal(&wrong), (Refusal::Secret, (2, Refusal::Secret)));
}

#[test]
fn another_cluster_is_refused() {
    let other = Call { cluster: Some(b"other"), ..call() };

    assert_eq!(door().refusal(&other), (Refusal::Cluster, (2, Refusal::Cluster)));
}

#[test]
fn a_call_for_another_member_is_refused() {
    let other = Call { to: 3, ..call() };

    assert_eq!(door().refusal(&other), (Refusal::Member, (2, Refusal::Member)));
}

#[test]
fn a_caller_that_says_it_is_the_listener_is_refused() {
    let double = Call { from: 1, ..call() };

    assert_eq!(door().refusal(&double), (Refusal::Member, (1, Refusal::Member)));
}

#[test]
fn a_removed_member_is_refused() {
    let gone = Call { from: 9, ..call() };

    assert_eq!(door().refusal(&gone), (Refusal::Removed, (9, Refusal::Removed)));
}

#[test]
fn another_version_is_refused() {
    let door = door();
    let mut stream = door.connect();
    let mut hello = [0; HELLO_BYTES];
    hello[..6].copy_from_slice(b"pgbr\x63\0");
    stream.write_all(&hello).expect("a write");

    let mut reason = [0];
    stream.read_exact(&mut reason).expect("a reason");

    assert_eq!(Refusal::of(reason[0]), Some(Refusal::Version));
}

#[test]
fn a_repeated_proof_is_worth_nothing() {
    let door = door();
    let hello = Hello {
        version: 1,
        class: Class::Raft,
        cluster: _engine::handshake::cluster_digest(CLUSTER),
        from: 2,
        to: 1,
        nonce: [5; 32],
    };
    let session = _engine::handshake::Session {
        secret: SECRET,
        hello: &hello,
        challenge: &[6; 32],
        binding: &[],
    };
    let overheard = session.caller_proof();
    let mut stream = door.connect();
    stream.write_all(&hello.encode()).expect("a write");
    let mut challenge = [0; CHALLENGE_BYTES];
    stream.read_exact(&mut challenge).expect("a challenge");

    stream.write_all(&overheard).expect("a write");

    let mut reason = [0];
    stream.read_exact(&mut reason).expect("a reason");
    assert_eq!(Refusal::of(reason[0]), Some(Refusal::Secret));
}

#[test]
fn a_listener_without_the_secret_is_found_out() {
    let impostor = std::net::TcpListener::bind("127.31.9.2:0").expect("a free port");
    let address = impostor.local_addr().expect("it is bound").to_string();
    let plays = std::thread::spawn(move || {
        let (mut stream, _) = impostor.accept().expect("a caller");
        let mut bytes = [0; HELLO_BYTES];
        stream.read_exact(&mut bytes).expect("a hello");
        stream.write_all(&[0; CHALLENGE_BYTES]).expect("a write");
        stream.read_exact(&mut bytes[..32]).expect("a proof");
        stream.write_all(&[0; 33]).expect("a write");
    });
    let outcome = call().open(&address, None, &None).map(|_| ());

    assert!(matches!(outcome, Err(CallError::Impostor)));
    plays.join().expect("it has played its part");
}

#[test]
fn a_changed_frame_ends_the_connection() {
    let door = door();
    let (mut stream, mut keys) = door.try_in(&call()).expect("it is let in");
    let mut bytes = Vec::new();
    let tag = keys.from_caller.sign(b"hello");
    bytes.extend_from_slice(&5u32.to_le_bytes());
    bytes.extend_from_slice(&tag);
    bytes.extend_from_slice(b"hallo");

    stream.write_all(&bytes).expect("a write");

    assert_eq!(door.frames.recv_timeout(SOON), Ok(Err(())));
}

#[test]
fn a_repeated_frame_ends_the_connection() {
    let door = door();
    let (mut stream, mut keys) = door.try_in(&call()).expect("it is let in");
    let mut bytes = 5u32.to_le_bytes().to_vec();
    bytes.extend_from_slice(&keys.from_caller.sign(b"hello"));
    bytes.extend_from_slice(b"hello");

    stream.write_all(&bytes).expect("a write");
    stream.write_all(&bytes).expect("a write");

    assert_eq!(door.frames.recv_timeout(SOON), Ok(Ok(b"hello".to_vec())));
    assert_eq!(door.frames.recv_timeout(SOON), Ok(Err(())));
}

#[test]
fn a_frame_that_is_too_long_ends_the_connection() {
    let door = door();
    let (mut stream, mut keys) = door.try_in(&call()).expect("it is let in");

    write_frame(&mut stream, &mut keys.from_caller, &[0; 1_025]).expect("a write");

    assert_eq!(door.frames.recv_timeout(SOON), Ok(Err(())));
}

#[test]
fn a_newer_connection_ends_the_older_of_the_same_member() {
    let door = door();
    let (mut older, _) = door.try_in(&call()).expect("it is let in");
    let _newer = door.try_in(&call()).expect("it is let in");

    older.set_read_timeout(Some(SOON)).expect("a time-out");

    assert_eq!(older.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn a_member_that_is_removed_is_shown_out() {
    let door = door();
    let (mut stream, mut keys) = door.try_in(&call()).expect("it is let in");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    write_frame(&mut stream, &mut keys.from_caller, b"hello").expect("a write");
    door.frames.recv_timeout(SOON).expect("it is served").expect("a frame");

    door.listener.expel(2);

    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let door = door();
    let silent: Vec<TcpStream> =
        (0..1_000).map_while(|_| TcpStream::connect(door.listener.address).ok()).collect();
    assert!(silent.len() >= 500, "{} connections", silent.len());

    // The call has less patience than it takes to shut the silent ones out in turn.
    door.try_in(&call()).expect("it is let in");
}

#[test]
fn who_says_nothing_is_shut_out_in_bounded_time() {
    let door = door();
    let mut stream = door.connect();
    stream.set_read_timeout(Some(SOON)).expect("a time-out");

    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn who_says_nothing_is_told_of() {
    let door = door();
    let _silent = door.connect();

    let why = door.dropped.recv_timeout(SOON).expect("the listener says so");

    assert_eq!(why, "it says nothing, or not enough");
}

#[test]
fn who_speaks_tls_to_plain_transport_is_told_of() {
    let door = door();
    let mut stream = door.connect();
    stream.write_all(&[22, 3, 1, 0, 5, 1, 2, 3, 4, 5]).expect("a write");

    let why = door.dropped.recv_timeout(SOON).expect("the listener says so");

    assert_eq!(why, "it speaks TLS, and this node is told not to");
}
