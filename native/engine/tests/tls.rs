//! Mutual TLS: who is accepted by whom, and what a renewed certificate changes.

#[path = "common/door.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use _engine::authority::{Authority, Subject};
use _engine::channel::Tls;
use _engine::credentials::{facts, Credentials};
use _engine::handshake::Refusal;
use _engine::link::{Link, Route};
use _engine::net::{write_frame, Call, CallError};
use _engine::wire::Class;
use common::{call, door_with, Door, SOON};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ED25519};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const OURS: [u8; 32] = [7; 32];
const THEIRS: [u8; 32] = [8; 32];
const LISTENER: &str = "127.31.9.1";
const CALLER: &str = "127.31.9.2";

fn authority(seed: [u8; 32]) -> Authority {
    Authority::of_seed(&seed).expect("any 32 bytes are a seed")
}

fn subject(places: &[&str], days: u32) -> Subject {
    let places = places.iter().map(|place| (*place).to_owned()).collect();
    Subject { name: "n".to_owned(), places, days }
}

fn credentials(seed: [u8; 32], places: &[&str]) -> Tls {
    let authority = authority(seed);
    let issued = authority.issue(&subject(places, 1)).expect("places of ours");
    let made = Credentials::new(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        authority.certificate.as_bytes(),
    );
    Some(Arc::new(made.expect("they belong together")))
}

fn door() -> Door {
    door_with(credentials(OURS, &[LISTENER]))
}

fn caller() -> Tls {
    credentials(OURS, &[CALLER])
}

fn why_not(outcome: Result<impl Sized, CallError>) -> String {
    match outcome {
        Ok(_) => panic!("it was let in"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_member_with_certificate_and_secret_is_let_in() {
    let door = door();
    let (mut stream, mut keys) = door.try_with(&call(), &caller()).expect("it is let in");

    write_frame(&mut stream, &mut keys.from_caller, b"hello").expect("a write");

    assert_eq!(door.frames.recv_timeout(SOON), Ok(Ok(b"hello".to_vec())));
}

#[test]
fn a_large_frame_gets_through_whole() {
    let door = door();
    let (mut stream, mut keys) = door.try_with(&call(), &caller()).expect("it is let in");
    let frame = vec![5; 1_024];

    for _ in 0..100 {
        write_frame(&mut stream, &mut keys.from_caller, &frame).expect("a write");
    }

    for _ in 0..100 {
        assert_eq!(door.frames.recv_timeout(SOON), Ok(Ok(frame.clone())));
    }
}

#[test]
fn a_caller_of_another_authority_is_refused() {
    let door = door();
    // It accepts the listener's certificate, and has a foreign one.
    let foreign = authority(THEIRS);
    let issued = foreign.issue(&subject(&[CALLER], 1)).expect("places of ours");
    let both = format!("{}{}", foreign.certificate, authority(OURS).certificate);
    let made = Credentials::new(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        both.as_bytes(),
    );
    let tls = Some(Arc::new(made.expect("one of the two has signed it")));

    let why = why_not(door.try_with(&call(), &tls));

    assert!(why.contains("it refuses this node's certificate"), "{why}");
    assert_eq!(
        door.dropped.recv_timeout(SOON),
        Ok("its certificate is of another authority")
    );
}

#[test]
fn a_caller_whose_certificate_has_expired_is_refused() {
    let door = door();
    let ours = authority(OURS);
    // The engine itself would not load it: it was good when the caller started, until
    // this very second.
    let expired = ours.issue(&subject(&[CALLER], 0)).expect("places of ours");
    std::thread::sleep(Duration::from_millis(1_100));
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&ours.certificate).expect("a certificate")).expect("a root");
    let key = PrivateKeyDer::from_pem_slice(expired.key.as_bytes()).expect("a key");
    let chain = vec![certificate(&expired.certificate).expect("a certificate")];
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("it is supported")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("they belong together");
    let name = LISTENER.try_into().expect("an address");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(client, door.connect());
    // It is told only after it has sent its part.
    let _ = stream.write_all(&[0; 88]);
    let _ = stream.read_to_end(&mut Vec::new());

    let why = door.dropped.recv_timeout(SOON).expect("the listener says so");

    assert!(why.contains("has expired"), "{why}");
    assert!(door.served.try_recv().is_err());
}

#[test]
fn a_listener_of_another_authority_is_refused() {
    let door = door();

    let why = why_not(door.try_with(&call(), &credentials(THEIRS, &[CALLER])));

    assert!(why.contains("its certificate is of another authority"), "{why}");
    assert_eq!(door.dropped.recv_timeout(SOON), Ok("it refuses this node's certificate"));
}

#[test]
fn a_listener_whose_certificate_is_for_another_address_is_refused() {
    let door = door_with(credentials(OURS, &["127.31.9.77"]));

    let why = why_not(door.try_with(&call(), &caller()));

    assert!(why.contains("its certificate is for another address"), "{why}");
}

#[test]
fn a_listener_is_accepted_by_its_host_name_too() {
    let door = door_with(credentials(OURS, &["localhost"]));
    let address = format!("localhost:{}", door.listener.address.port());
    // The name leads to another address than the listener's: only the name can match.
    let places = _engine::channel::places(&address, Some(door.listener.address));
    let Some(tls) = caller() else { unreachable!() };
    let mut client =
        rustls::ClientConnection::new(tls.client(places), LISTENER.try_into().unwrap())
            .expect("a client");
    let mut stream = door.connect();

    while client.is_handshaking() {
        client.complete_io(&mut stream).expect("it is accepted");
    }
}

#[test]
fn a_member_with_the_certificate_of_another_address_is_refused() {
    let door = door();
    let elsewhere = credentials(OURS, &["127.31.9.3"]);

    let why = why_not(door.try_with(&call(), &elsewhere));

    assert_eq!(why, "refused: address");
    assert_eq!(door.refused.recv_timeout(SOON), Ok((2, Refusal::Address)));
}

#[test]
fn a_member_that_the_log_does_not_know_yet_proves_where_it_calls_from() {
    let door = door();
    let unknown = Call { from: 3, ..call() };
    // On loopback a call comes from 127.0.0.1 or from the address that is called.
    let here = credentials(OURS, &["127.0.0.1", LISTENER]);

    assert!(door.try_with(&unknown, &here).is_ok());
    assert_eq!(why_not(door.try_with(&unknown, &caller())), "refused: address");
}

#[test]
fn a_guest_needs_a_certificate_of_the_authority_and_no_address() {
    let door = door();
    let guest = Call { class: Class::Guest, cluster: None, from: 0, to: 0, ..call() };

    assert!(door.try_with(&guest, &caller()).is_ok());
    assert!(door.try_with(&guest, &credentials(THEIRS, &[CALLER])).is_err());
}

#[test]
fn the_secret_is_needed_beside_the_certificate() {
    let door = door();
    let wrong = Call { secret: b"another secret, not ours", ..call() };

    assert_eq!(why_not(door.try_with(&wrong, &caller())), "refused: secret");
}

#[test]
fn another_cluster_of_the_same_authority_is_refused() {
    let door = door();
    let other = Call { cluster: Some(b"other"), ..call() };

    assert_eq!(why_not(door.try_with(&other, &caller())), "refused: cluster");
}

#[test]
fn who_does_not_speak_tls_is_refused_and_told_so() {
    let door = door();

    let why = why_not(door.try_in(&call()));

    assert!(why.contains("it speaks TLS, and this node is told not to"), "{why}");
    assert_eq!(door.dropped.recv_timeout(SOON), Ok("it does not speak TLS"));
}

#[test]
fn a_listener_that_does_not_speak_tls_is_refused() {
    let door = door_with(None);

    let why = why_not(door.try_with(&call(), &caller()));

    assert!(why.contains("it does not speak TLS"), "{why}");
}

#[test]
fn garbage_is_survived() {
    let door = door();
    let mut state = 12_345_u64;
    for length in [1, 5, 88, 1_000, 70_000] {
        let mut garbage = vec![0; length];
        for byte in &mut garbage {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        let mut stream = door.connect();
        stream.set_read_timeout(Some(SOON)).expect("a time-out");
        // It may be shut out before it has said everything.
        let _ = stream.write_all(&garbage);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }

    assert!(door.try_with(&call(), &caller()).is_ok());
}

#[test]
fn half_a_handshake_is_shut_out_in_bounded_time() {
    let door = door();
    let mut stream = door.connect();
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    // A record of TLS that never becomes whole.
    stream.write_all(&[22, 3, 1, 64, 0, 1, 0, 60, 0]).expect("a write");

    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
    assert_eq!(door.dropped.recv_timeout(SOON), Ok("it says nothing, or not enough"));
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let door = door();
    let silent: Vec<TcpStream> =
        (0..1_000).map_while(|_| TcpStream::connect(door.listener.address).ok()).collect();
    assert!(silent.len() >= 500, "{} connections", silent.len());

    // The call has less patience than it takes to shut the silent ones out in turn.
    door.try_with(&call(), &caller()).expect("it is let in");
}

#[test]
fn a_proof_cannot_be_passed_on_over_another_connection() {
    let door = door();
    // A man in the middle with a certificate of the authority, and without the secret:
    // he reads the caller's words and says them to the listener.
    let middle = std::net::TcpListener::bind("127.31.9.5:0").expect("a free port");
    let address = middle.local_addr().expect("it is bound").to_string();
    let to = door.listener.address;
    let passes_on = std::thread::spawn(move || {
        let Some(tls) = credentials(OURS, &["127.31.9.5", CALLER]) else { unreachable!() };
        let (socket, _) = middle.accept().expect("a caller");
        let server = rustls::ServerConnection::new(tls.server()).expect("a server");
        let mut caller = rustls::StreamOwned::new(server, socket);
        let client = rustls::ClientConnection::new(
            tls.client(_engine::channel::places(LISTENER, Some(to))),
            LISTENER.try_into().expect("an address"),
        );
        let socket = TcpStream::connect(to).expect("it listens");
        let mut listener = rustls::StreamOwned::new(client.expect("a client"), socket);
        let mut hello = [0; 88];
        caller.read_exact(&mut hello).expect("a hello");
        listener.write_all(&hello).expect("a write");
        let mut challenge = [0; 33];
        listener.read_exact(&mut challenge).expect("a challenge");
        caller.write_all(&challenge).expect("a write");
        let mut proof = [0; 32];
        caller.read_exact(&mut proof).expect("a proof");
        listener.write_all(&proof).expect("a write");
        let mut reason = [0];
        listener.read_exact(&mut reason).expect("a reason");
        reason[0]
    });

    let _ = call().open(&address, None, &caller());

    let reason = passes_on.join().expect("he has played his part");
    assert_eq!(Refusal::of(reason), Some(Refusal::Secret));
}

#[test]
fn a_replaced_certificate_is_shown_to_the_next_caller() {
    let ours = authority(OURS);
    let Some(tls) = credentials(OURS, &["127.31.9.77"]) else { unreachable!() };
    let door = door_with(Some(Arc::clone(&tls)));
    assert!(door.try_with(&call(), &caller()).is_err());
    let issued = ours.issue(&subject(&[LISTENER], 1)).expect("places of ours");

    tls.replace(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        ours.certificate.as_bytes(),
    )
    .expect("they belong together");

    assert!(door.try_with(&call(), &caller()).is_ok());
    assert_eq!(tls.generation(), 2);
}

#[test]
fn an_open_connection_is_opened_anew_with_a_renewed_certificate() {
    let door = door();
    let ours = authority(OURS);
    let Some(tls) = caller() else { unreachable!() };
    let route = Route {
        class: Class::Raft,
        secret: Arc::new(common::SECRET.to_vec()),
        cluster: Arc::new(common::CLUSTER.to_vec()),
        from: 2,
        to: 1,
        address: door.listener.address.to_string(),
        source: None,
        tls: Some(Arc::clone(&tls)),
        greeting: Some(b"it is me".to_vec()),
    };
    let link = Link::start(route, |_| {}).expect("a thread");
    assert_eq!(door.frames.recv_timeout(SOON), Ok(Ok(b"it is me".to_vec())));
    assert_eq!(door.served.recv_timeout(SOON), Ok(2));
    let issued = ours.issue(&subject(&[CALLER], 1)).expect("places of ours");
    let whole = ours.certificate.as_bytes();

    tls.replace(issued.certificate.as_bytes(), issued.key.as_bytes(), whole)
        .expect("they belong together");
    while !link.push(b"after".to_vec()) {
        std::thread::sleep(Duration::from_millis(5));
    }

    assert_eq!(door.served.recv_timeout(SOON), Ok(2));
    let frames: Vec<_> = door.frames.iter().take(3).collect();
    assert!(frames.contains(&Ok(b"after".to_vec())), "{frames:?}");
}

#[test]
fn what_cannot_be_used_is_refused_and_replaces_nothing() {
    let ours = authority(OURS);
    let Some(tls) = credentials(OURS, &[LISTENER]) else { unreachable!() };
    let issued = ours.issue(&subject(&[LISTENER], 1)).expect("places of ours");
    let other = ours.issue(&subject(&[LISTENER], 1)).expect("places of ours");
    let expired = ours.issue(&subject(&[LISTENER], 0)).expect("places of ours");
    std::thread::sleep(Duration::from_millis(1_100));
    let foreign = authority(THEIRS).certificate;
    let refused = |certificate: &str, key: &str, authority: &str| {
        tls.replace(certificate.as_bytes(), key.as_bytes(), authority.as_bytes())
            .expect_err("it cannot be used")
    };

    let whole = &ours.certificate;
    let wrong_key = refused(&issued.certificate, &other.key, whole);
    let wrong_ca = refused(&issued.certificate, &issued.key, &foreign);
    let too_old = refused(&expired.certificate, &expired.key, whole);
    let no_pem = refused("nonsense", &issued.key, whole);

    assert!(wrong_key.starts_with("the key: "), "{wrong_key}");
    assert!(wrong_ca.contains("of another authority"), "{wrong_ca}");
    assert!(too_old.contains("has expired"), "{too_old}");
    assert!(no_pem.contains("no certificate in PEM"), "{no_pem}");
    assert_eq!(tls.generation(), 1);
}

#[test]
fn a_certificate_for_servers_only_is_refused() {
    let ours = authority(OURS);
    let key = KeyPair::from_pem(ours.key_pem()).expect("its key");
    let issuer = Issuer::from_ca_cert_pem(&ours.certificate, key).expect("an authority");
    let mut params = CertificateParams::new(vec![LISTENER.to_owned()]).expect("a place");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let made = params.signed_by(&key, &issuer).expect("a certificate");

    let outcome = Credentials::new(
        made.pem().as_bytes(),
        key.serialize_pem().as_bytes(),
        ours.certificate.as_bytes(),
    );

    let Err(why) = outcome else { panic!("it was accepted") };
    assert!(why.contains("for another use"), "{why}");
}

#[test]
fn the_authority_of_a_seed_is_the_same_everywhere() {
    assert_eq!(authority(OURS).certificate, authority(OURS).certificate);
    assert_ne!(authority(OURS).certificate, authority(THEIRS).certificate);
}

#[test]
fn an_authority_is_read_from_its_files() {
    let made = Authority::generate("test", 10).expect("an authority");
    let read = Authority::from_pem(&made.certificate, made.key_pem()).expect("its files");

    let issued = read.issue(&subject(&["n1.example.org", "::1"], 5)).expect("places");

    let said = facts(issued.certificate.as_bytes()).expect("a certificate");
    assert_eq!(said.places, ["n1.example.org", "::1"]);
    let outcome = Credentials::new(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        made.certificate.as_bytes(),
    );
    assert!(outcome.is_ok());
}
