//! Gossip: who finds whom, what is refused, and that silence is noticed.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use _engine::gossip::identity::{Facts, FACT_MAX};
use _engine::gossip::seal::{Seals, Unsealed};
use _engine::gossip::{Gossip, Settings, View};

const SECRET: &[u8] = b"a secret of the cluster";
const SOON: Duration = Duration::from_secs(8);

fn facts(name: &str) -> Facts {
    Facts {
        name: name.to_owned(),
        cluster_id: "abcdef".to_owned(),
        raft_address: format!("{name}:8300"),
        api_url: format!("http://{name}:8080"),
        version: "1.2.3".to_owned(),
    }
}

fn settings(host: &str, name: &str) -> Settings {
    Settings {
        bind: format!("{host}:0"),
        address: format!("{host}:0"),
        secret: SECRET.to_vec(),
        cluster: "main".to_owned(),
        facts: facts(name),
    }
}

fn gossip(number: u8) -> Gossip {
    Gossip::start(&settings(&format!("127.31.10.{number}"), &format!("n{number}")))
        .expect("a free port")
}

fn until(gossip: &Gossip, holds: impl Fn(&View) -> bool) -> View {
    let began = Instant::now();
    loop {
        let view = gossip.view();
        if holds(&view) {
            return view;
        }
        assert!(began.elapsed() < SOON, "{view:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn alive(view: &View) -> Vec<String> {
    let alive = view.seen.iter().filter(|one| one.state == "alive");
    alive.filter_map(|one| one.facts.as_ref()).map(|facts| facts.name.clone()).collect()
}

#[test]
fn who_greets_one_learns_of_all() {
    let (first, second, third) = (gossip(1), gossip(2), gossip(3));
    second.learn(vec![first.address.to_string()]);
    until(&second, |view| alive(view) == ["n1"]);

    third.learn(vec![second.address.to_string()]);

    let view = until(&third, |view| alive(view) == ["n1", "n2"]);
    assert_eq!(view.seen[0].facts, Some(facts("n1")));
    until(&first, |view| alive(view) == ["n2", "n3"]);
}

#[test]
fn a_node_without_a_place_to_greet_is_found_by_who_greets_it() {
    let (knows, knows_nobody) = (gossip(4), gossip(5));

    knows.learn(vec![knows_nobody.address.to_string()]);

    until(&knows_nobody, |view| alive(view) == ["n4"]);
}

#[test]
fn a_changed_description_reaches_the_others() {
    let (first, second) = (gossip(6), gossip(7));
    second.learn(vec![first.address.to_string()]);
    until(&first, |view| alive(view) == ["n7"]);
    let changed = Facts { version: "1.2.4".to_owned(), ..facts("n7") };

    second.describe(&changed).expect("it is short enough");

    until(&first, |view| {
        view.seen
            .iter()
            .any(|one| one.state == "alive" && one.facts == Some(changed.clone()))
    });
}

#[test]
fn a_node_that_says_goodbye_is_down_at_once() {
    let (stays, goes) = (gossip(8), gossip(9));
    goes.learn(vec![stays.address.to_string()]);
    until(&stays, |view| alive(view) == ["n9"]);

    // It says goodbye when it stops; then it is down at once.
    goes.stop();

    until(&stays, |view| view.seen.iter().any(|one| one.state == "down"));
}

#[test]
fn a_node_that_comes_back_is_alive_again() {
    let stays = gossip(10);
    let goes = gossip(11);
    let address = goes.address.to_string();
    goes.learn(vec![stays.address.to_string()]);
    until(&stays, |view| alive(view) == ["n11"]);
    goes.stop();
    until(&stays, |view| alive(view).is_empty());

    let back = Settings { bind: address.clone(), address, ..settings("", "n11") };
    let back = Gossip::start(&back).expect("the port is free again");
    back.learn(vec![stays.address.to_string()]);

    until(&stays, |view| alive(view) == ["n11"]);
}

#[test]
fn another_secret_or_cluster_is_refused_and_told() {
    let ours = gossip(12);
    let mut other = settings("127.31.10.13", "n13");
    other.secret = b"another secret, not ours".to_vec();
    let other = Gossip::start(&other).expect("a free port");
    let mut namesake = settings("127.31.10.14", "n14");
    namesake.cluster = "other".to_owned();
    let namesake = Gossip::start(&namesake).expect("a free port");

    for stranger in [&other, &namesake] {
        stranger.learn(vec![ours.address.to_string()]);
    }

    let view = until(&ours, |view| view.refused_from.len() == 2);
    assert!(view.seen.is_empty());
}

#[test]
fn garbage_is_survived_and_counted() {
    let (ours, friend) = (gossip(15), gossip(16));
    let socket = UdpSocket::bind("127.31.10.17:0").expect("a free port");
    let mut state = 99_u64;
    for length in [0, 1, 12, 13, 28, 29, 30, 500, 1_400, 1_401, 9_000] {
        let mut garbage = vec![1; length];
        for byte in garbage.iter_mut().skip(1) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        socket.send_to(&garbage, ours.address).expect("a datagram");
    }
    until(&ours, |view| view.refused >= 10);

    friend.learn(vec![ours.address.to_string()]);

    until(&ours, |view| alive(view) == ["n16"]);
}

#[test]
fn who_knows_the_secret_and_says_nonsense_changes_nothing() {
    let (ours, friend) = (gossip(18), gossip(19));
    let socket = UdpSocket::bind("127.31.10.20:0").expect("a free port");
    let mut seals = Seals::new(SECRET, "main");
    let mut state = 7_u64;
    for length in 0..200 {
        let mut nonsense = vec![0; length];
        for byte in &mut nonsense {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        socket.send_to(&seals.seal(&nonsense), ours.address).expect("a datagram");
    }
    until(&ours, |view| view.received >= 150);

    friend.learn(vec![ours.address.to_string()]);

    let view = until(&ours, |view| alive(view).contains(&"n19".to_owned()));
    assert!(!view.failed);
}

#[test]
fn a_datagram_is_taken_once() {
    let mut ours = Seals::new(SECRET, "main");
    let mut theirs = Seals::new(SECRET, "main");
    let first = theirs.seal(b"one");
    let second = theirs.seal(b"two");

    assert_eq!(ours.open(&second), Ok(b"two".to_vec()));
    assert_eq!(ours.open(&first), Ok(b"one".to_vec()));
    assert_eq!(ours.open(&first), Err(Unsealed::Repeated));
    assert_eq!(ours.open(&second), Err(Unsealed::Repeated));
    for _ in 0..64 {
        let later = theirs.seal(b"later");
        assert!(ours.open(&later).is_ok());
    }
    assert_eq!(ours.open(&first), Err(Unsealed::Repeated));
}

#[test]
fn a_datagram_that_was_changed_is_refused() {
    let mut ours = Seals::new(SECRET, "main");
    let sealed = Seals::new(SECRET, "main").seal(b"one");
    for place in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[place] ^= 1;

        assert!(ours.open(&changed).is_err(), "byte {place}");
    }
    assert_eq!(ours.open(&sealed), Ok(b"one".to_vec()));
}

#[test]
fn facts_of_a_later_version_are_read_as_far_as_they_are_known() {
    let mut later = facts("n1").encode().expect("it is short enough");
    later[0] = 9;
    later.extend_from_slice(b"a fact that nobody knows yet");

    assert_eq!(Facts::decode(&later), Ok(facts("n1")));
    assert!(Facts::decode(&[]).is_err());
    assert!(Facts { name: "n".repeat(FACT_MAX + 1), ..facts("") }.encode().is_err());
}
