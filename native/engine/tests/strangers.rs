//! Whoever has got in and talks nonsense is told of once, with its address, and changes
//! nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use _engine::driver::NodeSettings;
use _engine::event::Event;
use _engine::handshake::SPOKEN;
use _engine::net::{write_frame, Call};
use _engine::node::Node;
use _engine::shared::Command;
use _engine::wire::Class;

const SECRET: &[u8] = b"a secret of the cluster";
const CLUSTER: &[u8] = b"cluster";
const SOON: Duration = Duration::from_secs(10);

struct Running {
    node: Node,
    dir: PathBuf,
    lines: Vec<Vec<(&'static str, String)>>,
}

impl Running {
    fn new(name: &str) -> Running {
        let dir = format!("pgbastion-strangers-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        let settings = NodeSettings {
            dir: dir.clone(),
            listen: "127.31.11.1:0".into(),
            secret: SECRET.to_vec(),
            tick_ms: 20,
            heartbeat_ticks: 2,
            election_ticks: 15,
            page_path: String::new(),
            generation: 0,
            seed: 1,
        };
        let node = Node::start(settings, None).expect("it starts");
        node.form(CLUSTER, 1, &node.address.to_string()).expect("a cluster of one");
        let end = Instant::now() + SOON;
        while node.status().is_none_or(|status| status.role != "leader") {
            assert!(Instant::now() < end, "it does not lead");
            std::thread::sleep(Duration::from_millis(5));
        }
        Running { node, dir, lines: Vec::new() }
    }

    /// Say this as a member, or as a guest, on a connection of its own.
    fn say(&self, class: Class, write: impl Fn(&[u8]) -> Vec<u8>, frame: &[u8]) {
        let guest = class == Class::Guest;
        let call = Call {
            class,
            secret: SECRET,
            cluster: (!guest).then_some(CLUSTER),
            from: if guest { 0 } else { 2 },
            to: if guest { 0 } else { 1 },
            spoken: SPOKEN,
        };
        let source = Some("127.31.11.2:0".parse().expect("an address"));
        let address = self.node.address.to_string();
        // The door has little patience, and this machine may be busy.
        let opened = (0..20).find_map(|_| call.open(&address, source, &None).ok());
        let (mut stream, mut keys) = opened.expect("it is in");
        let changed = write(frame);
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &mut keys.from_caller, frame).expect("into memory");
        bytes.truncate(bytes.len() - frame.len());
        bytes.extend_from_slice(&changed);
        std::io::Write::write_all(&mut stream, &bytes).expect("a write");
        // It ends the connection, or answers.
        let mut rest = Vec::new();
        let _ = stream.set_read_timeout(Some(SOON));
        let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    }

    /// Wait until all of these were told of: address, member and reason.
    fn wait_for(&mut self, wanted: &BTreeSet<[String; 3]>) {
        let end = Instant::now() + SOON;
        while !self.told().is_superset(wanted) {
            assert!(Instant::now() < end, "told of: {:?}", self.lines);
            for event in self.node.events(Duration::from_millis(100), 256) {
                if let Event::Log { event: "connection_refused", fields, .. } = event {
                    self.lines.push(fields);
                }
            }
        }
    }

    fn told(&self) -> BTreeSet<[String; 3]> {
        let field = |line: &[(&str, String)], name| {
            let found = line.iter().find(|(of, _)| *of == name);
            found.map_or(String::new(), |(_, value)| value.clone())
        };
        let fields = ["address", "member", "reason"];
        self.lines.iter().map(|line| fields.map(|name| field(line, name))).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn nonsense_of_a_member_or_guest_is_told_of_once_with_its_address() {
    let mut running = Running::new("nonsense");
    let honest = |frame: &[u8]| frame.to_vec();
    let changed = |frame: &[u8]| frame.iter().map(|byte| byte ^ 1).collect();
    for _ in 0..3 {
        running.say(Class::Raft, honest, b"\xff no packet");
        running.say(Class::Talk, changed, b"changed on the way");
        running.say(Class::Guest, honest, b"");
    }
    let said =
        |member: &str, reason: &str| ["127.31.11.2", member, reason].map(str::to_owned);
    running.wait_for(&BTreeSet::from([
        said("2", "a frame of it makes no sense"),
        said("2", "a frame of it is too long, changed or repeated"),
        said("0", "a frame of it makes no sense"),
    ]));

    assert_eq!(running.told().len(), running.lines.len(), "each is told of once");
    let status = running.node.status().expect("it is a member");
    assert_eq!((status.role, status.voters), ("leader", vec![1]));
}

#[test]
fn each_life_numbers_its_questions_anew() {
    // A late answer to a former one would count for another question.
    let number = |name| {
        let running = Running::new(name);
        running.node.ask(|token| Command::ReadIndex { token, deadline_ns: 0 })
    };

    assert_ne!(number("one-life"), number("another"));
}
