//! What the core promises of Raft: order of disk and network, members, reads.

mod common;

use _engine::core::Change;
use _engine::event::{Event, Payload, Status};
use _engine::members::conf_change;
use _engine::records::{founding, put_entry, put_hard_state, stands_alone};
use _engine::wire::Packet;
use common::{Cluster, MS, TICK_MS};
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeType, Entry, EntryType, HardState};
use raft::eraftpb::{Message, MessageType};

fn kinds(cluster: &mut Cluster, id: u64) -> Vec<MessageType> {
    let kind = |packet: &Packet| match packet {
        Packet::Raft(message) => Some(message.get_msg_type()),
        _ => None,
    };
    cluster.member(id).sent.iter().filter_map(|(_, packet)| kind(packet)).collect()
}

#[test]
fn three_members_elect_one_leader_and_share_a_log() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.propose(leader, 1, b"first");
    cluster.pass(100);

    for id in 1..=3 {
        assert_eq!(cluster.applied(id), [b"first"]);
    }
    assert!(matches!(cluster.outcome(leader, 1), Some((Status::Ok, Payload::Index(_)))));
}

#[test]
fn the_same_seed_gives_the_same_election() {
    let run = || {
        let mut cluster = Cluster::new(5);
        let leader = cluster.elect();
        (leader, cluster.now_ns)
    };

    assert_eq!(run(), run());
}

#[test]
fn a_follower_forwards_a_proposal_to_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;

    cluster.propose(follower, 1, b"forwarded");
    cluster.pass(100);

    assert!(matches!(cluster.outcome(follower, 1), Some((Status::Ok, _))));
    assert_eq!(cluster.applied(leader), [b"forwarded"]);
}

#[test]
fn a_proposal_waits_for_a_leader_and_says_so_when_none_comes() {
    let mut cluster = Cluster::new(3);
    cluster.isolate(1);
    cluster.propose(1, 1, b"lonely");
    cluster.pass(1_900);
    assert_eq!(cluster.outcome(1, 1), None);

    cluster.pass(200);

    assert_eq!(cluster.outcome(1, 1), Some((Status::NoLeader, Payload::Nothing)));
}

#[test]
fn a_proposal_to_a_leader_without_a_majority_has_an_unknown_outcome() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    cluster.propose(leader, 1, b"lost?");

    cluster.pass(2_100);

    assert_eq!(cluster.outcome(leader, 1), Some((Status::Timeout, Payload::Nothing)));
}

#[test]
fn a_proposal_that_died_with_the_leader_is_given_to_the_next_one() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.member(leader).up = false;

    cluster.pass(100);
    cluster.propose(follower, 1, b"again");
    cluster.elect();

    assert!(matches!(cluster.outcome(follower, 1), Some((Status::Ok, _))));
    assert_eq!(cluster.applied(follower), [b"again"]);
}

#[test]
fn a_proposal_counts_once_the_host_has_applied_it() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    cluster.member(1).host_works = false;
    cluster.propose(1, 1, b"x");
    assert_eq!(cluster.outcome(1, 1), None);

    let now_ns = cluster.now_ns;
    cluster.member(1).core.applied(3, now_ns);
    cluster.settle();

    assert_eq!(cluster.outcome(1, 1), Some((Status::Ok, Payload::Index(3))));
}

#[test]
#[should_panic(expected = "Was its Raft directory put back from a copy?")]
fn a_log_that_was_put_back_from_a_copy_is_told_of() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    let copy = cluster.member(follower).disk.clone();
    cluster.propose(leader, 1, b"after the copy");
    cluster.pass(100);

    cluster.start(follower, copy);
    cluster.pass(100);
}

#[test]
fn a_vote_leaves_only_when_it_is_on_disk() {
    let mut cluster = Cluster::new(3);
    for id in 1..=3 {
        cluster.member(id).disk_works = false;
    }
    let mut candidate = None;
    for _ in 0..100 {
        cluster.pass(10);
        candidate = (1..=3).find(|id| !cluster.member(*id).writing.is_empty());
        if candidate.is_some() {
            break;
        }
    }
    let candidate = candidate.expect("somebody campaigns");
    // Its own term and vote are being written: nobody has been asked for a vote.
    assert!(!kinds(&mut cluster, candidate).contains(&MessageType::MsgRequestVote));
    let others: Vec<_> = (1..=3).filter(|id| *id != candidate).collect();
    assert!(others.iter().all(|id| cluster.member(*id).writing.is_empty()));

    cluster.write(candidate);
    cluster.settle();

    // Now the others are asked; their votes are being written, and none has arrived.
    assert!(others.iter().all(|id| !cluster.member(*id).writing.is_empty()));
    assert_eq!(cluster.leader(), None);
    for id in others {
        cluster.write(id);
    }
    cluster.settle();
    assert_eq!(cluster.leader(), Some(candidate));
}

#[test]
fn an_entry_is_acknowledged_only_when_it_is_on_disk() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let followers: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    for id in &followers {
        cluster.member(*id).disk_works = false;
    }

    cluster.propose(leader, 1, b"x");
    cluster.pass(50);
    assert_eq!(cluster.outcome(leader, 1), None);

    cluster.write(followers[0]);
    cluster.settle();
    assert!(matches!(cluster.outcome(leader, 1), Some((Status::Ok, _))));
}

#[test]
fn a_leader_that_elected_itself_alone_says_nothing_before_its_term_is_on_disk() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    add_learner(&mut cluster, 2);
    cluster.restart(1);
    cluster.member(1).disk_works = false;

    let now_ns = cluster.now_ns;
    cluster.member(1).core.tick(now_ns);
    cluster.carry_out(1);
    assert_eq!(cluster.leader(), Some(1));
    assert!(kinds(&mut cluster, 1).is_empty());

    cluster.write(1);
    cluster.carry_out(1);
    assert!(!kinds(&mut cluster, 1).is_empty());
}

fn add_learner(cluster: &mut Cluster, id: u64) {
    cluster.start(id, vec![_engine::records::joining()]);
    let leader = cluster.leader().expect("a leader");
    cluster.order(leader, 900 + id, |core, token, now_ns| {
        let member = (id, "n:1");
        core.change(token, Change::AddLearner, member, now_ns + 1_000 * MS, now_ns);
    });
    cluster.pass(100);
    assert!(matches!(cluster.outcome(leader, 900 + id), Some((Status::Ok, _))));
}

fn change(
    cluster: &mut Cluster,
    token: u64,
    change: Change,
    id: u64,
) -> Option<(Status, Payload)> {
    let leader = cluster.leader().expect("a leader");
    cluster.order(leader, token, |core, token, now_ns| {
        core.change(token, change, (id, "n:1"), now_ns + 1_000 * MS, now_ns);
    });
    cluster.outcome(leader, token)
}

#[test]
fn a_joiner_learns_the_whole_membership_from_the_log() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    add_learner(&mut cluster, 2);

    assert!(matches!(change(&mut cluster, 5, Change::Promote, 2), Some((Status::Ok, _))));
    cluster.pass(100);

    let status = cluster.member(2).core.status();
    assert_eq!((status.role, status.voters), ("follower", vec![1, 2]));
}

#[test]
fn a_joiner_gets_a_state_that_names_it_once_there_is_one() {
    // The state before its admission would be refused by it, again and again.
    let mut cluster = Cluster::new(1);
    cluster.elect();
    let compact = |cluster: &mut Cluster, data: &[u8]| {
        let (now_ns, index) = (cluster.now_ns, cluster.member(1).core.status().applied);
        cluster.member(1).core.compact(index, data.to_vec(), now_ns);
        cluster.pass(20);
    };
    cluster.order(1, 1, |core, token, now_ns| {
        core.propose(token, b"before it".to_vec(), now_ns + 1_000 * MS, now_ns);
    });
    cluster.pass(50);
    compact(&mut cluster, b"without it");
    add_learner(&mut cluster, 2);
    cluster.pass(500);
    assert_eq!(cluster.member(2).core.status().applied, 0);

    compact(&mut cluster, b"with it");
    cluster.pass(2_000);

    let leader = cluster.member(1).core.status();
    assert_eq!(cluster.member(2).core.status().applied, leader.applied);
}

#[test]
fn one_change_at_a_time() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    assert_eq!(change(&mut cluster, 1, Change::AddLearner, 4), None);

    let second = change(&mut cluster, 2, Change::AddLearner, 5);

    assert_eq!(second, Some((Status::Refused, Payload::Reason("pending"))));
}

#[test]
fn a_learner_that_does_not_answer_is_not_promoted() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    add_learner(&mut cluster, 2);
    cluster.member(2).up = false;
    cluster.pass(200);

    let refused = change(&mut cluster, 5, Change::Promote, 2);

    assert_eq!(refused, Some((Status::Refused, Payload::Reason("behind"))));
}

#[test]
fn a_learner_that_has_written_nothing_is_not_promoted() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    cluster.order(1, 1, |core, token, now_ns| {
        core.change(token, Change::AddLearner, (2, "n:1"), now_ns + 1_000 * MS, now_ns);
    });

    // It speaks, but it has accepted nothing of the log.
    let now_ns = cluster.now_ns;
    cluster.member(1).core.receive(2, Packet::AskAge { term: 1, number: 1 }, now_ns);

    let refused = change(&mut cluster, 5, Change::Promote, 2);

    assert_eq!(refused, Some((Status::Refused, Payload::Reason("behind"))));
}

#[test]
fn an_id_that_left_never_comes_back() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let gone = leader % 3 + 1;
    assert!(matches!(change(&mut cluster, 1, Change::Remove, gone), Some((Status::Ok, _))));
    cluster.pass(50);

    let back = change(&mut cluster, 2, Change::AddLearner, gone);

    assert_eq!(back, Some((Status::Refused, Payload::Reason("removed"))));
}

/// A committed log in which member 2 leaves and is let in again: what a leader writes
/// that does not refuse to.
fn log_in_which_one_returns() -> Vec<Vec<u8>> {
    let first = founding(&[(1, "n1:1".to_owned()), (2, "n2:1".to_owned())]);
    let mut more = Vec::new();
    let changes = [
        (3, ConfChangeType::RemoveNode),
        (4, ConfChangeType::AddLearnerNode),
        (5, ConfChangeType::AddNode),
    ];
    for (index, kind) in changes {
        let change = conf_change(kind, 2, "n2:1");
        let mut entry = Entry { index, term: 1, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.data = change.write_to_bytes().expect("a change").into();
        put_entry(&mut more, &entry);
    }
    let state = HardState { term: 1, commit: 5, ..HardState::default() };
    put_hard_state(&mut more, &state);
    vec![first, more]
}

#[test]
fn an_id_that_left_does_not_come_back_by_the_log() {
    let mut cluster = Cluster::new(1);

    cluster.start(1, log_in_which_one_returns());

    let status = cluster.member(1).core.status();
    assert_eq!((status.voters, status.learners), (vec![1], vec![]));
    // The one whose disk may be lost has no vote: nobody waits for it.
    assert_eq!(cluster.elect(), 1);
}

#[test]
fn what_a_removed_member_says_is_not_heard() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let gone = leader % 3 + 1;
    change(&mut cluster, 1, Change::Remove, gone);
    cluster.pass(50);
    let term = cluster.member(leader).core.status().term;
    let mut vote = raft::eraftpb::Message::default();
    vote.set_msg_type(MessageType::MsgRequestVote);
    (vote.from, vote.to, vote.term) = (gone, leader, term + 5);
    // As in a transfer of leadership, which skips the check of the leader's liveness.
    vote.context = b"CampaignTransfer".to_vec().into();

    let now_ns = cluster.now_ns;
    cluster.member(leader).core.receive(gone, Packet::Raft(Box::new(vote)), now_ns);

    assert_eq!(cluster.member(leader).core.status().term, term);
}

#[test]
fn a_leader_that_finds_itself_removed_steps_down() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let victim = old % 3 + 1;
    let third = 6 - old - victim;
    // The removal reaches the others' logs, but its commit does not, and the victim is
    // elected before it applies it.
    cluster.cut.extend([(victim, old), (third, old)]);
    assert_eq!(change(&mut cluster, 1, Change::Remove, victim), None);
    cluster.cut.extend([(old, victim), (old, third)]);
    cluster.order(third, 9, |core, token, now_ns| {
        core.transfer(token, victim, now_ns + 1_000 * MS, now_ns);
    });
    cluster.member(old).up = false;
    for _ in 0..300 {
        cluster.pass(10);
        if cluster.leader() == Some(third) {
            cluster.order(third, 9, |core, token, now_ns| {
                core.transfer(token, victim, now_ns + 1_000 * MS, now_ns);
            });
        }
    }

    let status = cluster.member(victim).core.status();

    assert_eq!(
        (status.role, status.voters),
        ("none", vec![old.min(third), old.max(third)])
    );
}

#[test]
fn a_leader_does_not_remove_itself() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();

    let refused = change(&mut cluster, 1, Change::Remove, leader);

    assert_eq!(refused, Some((Status::Refused, Payload::Reason("leader"))));
}

#[test]
fn a_voter_is_not_removed_when_most_of_the_others_are_silent() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let (dead, alive) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.member(dead).up = false;
    cluster.pass(200);

    let refused = change(&mut cluster, 1, Change::Remove, alive);
    let taken = change(&mut cluster, 2, Change::Remove, dead);

    assert_eq!(refused, Some((Status::Refused, Payload::Reason("majority"))));
    assert!(matches!(taken, Some((Status::Ok, _))));
}

#[test]
fn a_change_counts_only_once_its_commit_is_on_disk() {
    // Else the first voter of a cluster, restarted, would not know of the others, and
    // would elect itself alone.
    let mut cluster = Cluster::new(1);
    cluster.elect();
    add_learner(&mut cluster, 2);
    assert!(matches!(change(&mut cluster, 5, Change::Promote, 2), Some((Status::Ok, _))));
    cluster.member(2).up = false;

    cluster.restart(1);

    assert_eq!(cluster.member(1).core.status().voters, [1, 2]);
    cluster.pass(2_000);
    assert_eq!(cluster.leader(), None);
}

#[test]
fn a_read_on_a_follower_waits_for_the_host() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.pass(100);
    cluster.member(follower).host_works = false;
    cluster.propose(leader, 1, b"x");
    let asked_ns = cluster.now_ns;
    cluster.order(follower, 7, |core, token, now_ns| {
        core.read_index(token, now_ns + 1_000 * MS, now_ns);
    });
    cluster.pass(50);
    assert_eq!(cluster.outcome(follower, 7), None);

    let now_ns = cluster.now_ns;
    let last = cluster.member(follower).core.status().committed;
    cluster.member(follower).core.applied(last, now_ns);
    cluster.settle();

    let done = cluster.outcome(follower, 7);
    assert_eq!(done, Some((Status::Ok, Payload::Read { index: last, sent_ns: asked_ns })));
}

#[test]
fn a_leader_without_a_majority_confirms_no_read() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);

    cluster.order(leader, 7, |core, token, now_ns| {
        core.read_index(token, now_ns + 60 * MS, now_ns);
    });
    cluster.pass(100);

    assert_eq!(cluster.outcome(leader, 7), Some((Status::Timeout, Payload::Nothing)));
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);

    cluster.pass(250);

    assert_ne!(cluster.member(leader).core.status().role, "leader");
}

/// The ticks in which a leader sends heartbeats, of so many.
fn beats(cluster: &mut Cluster, leader: u64, ticks: usize) -> Vec<usize> {
    let beats = (1..=ticks).filter(|_| {
        cluster.now_ns += TICK_MS * MS;
        let now_ns = cluster.now_ns;
        cluster.member(leader).core.tick(now_ns);
        cluster.carry_out(leader);
        let beats = kinds(cluster, leader).contains(&MessageType::MsgHeartbeat);
        cluster.settle();
        beats
    });
    beats.collect()
}

#[test]
fn heartbeats_follow_the_pace() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    // The library's own heartbeat comes every nine ticks (an election time-out has ten).
    assert_eq!(beats(&mut cluster, leader, 18), [2, 4, 6, 8, 9, 11, 13, 15, 17, 18]);

    cluster.member(leader).core.pace(TICK_MS as u64, 3);
    assert_eq!(beats(&mut cluster, leader, 18), [3, 6, 9, 12, 15, 18]);

    cluster.member(leader).core.pace(TICK_MS as u64, 1);
    assert_eq!(beats(&mut cluster, leader, 9).len(), 9);
}

#[test]
fn a_member_that_comes_back_does_not_depose_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let away = leader % 3 + 1;
    let term = cluster.member(leader).core.status().term;
    cluster.isolate(away);
    cluster.pass(3_000);

    cluster.cut.clear();
    cluster.pass(500);

    let status = cluster.member(leader).core.status();
    assert_eq!((status.role, status.term), ("leader", term));
}

#[test]
fn a_link_cut_one_way_moves_neither_leader_nor_term() {
    for one_way in [(1, 2), (2, 1), (2, 3), (3, 2), (1, 3), (3, 1)] {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let term = cluster.member(leader).core.status().term;
        cluster.cut.push(one_way);

        cluster.pass(12_000);

        let status = cluster.member(leader).core.status();
        assert_eq!((status.role, status.term), ("leader", term), "{one_way:?}");
    }
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let next = leader % 3 + 1;

    cluster.order(leader, 7, |core, token, now_ns| {
        core.transfer(token, next, now_ns + 500 * MS, now_ns);
    });
    cluster.pass(100);

    assert_eq!(cluster.outcome(leader, 7), Some((Status::Ok, Payload::Nothing)));
    assert_eq!(cluster.leader(), Some(next));
}

#[test]
fn a_restarted_member_gives_its_host_the_whole_log_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.propose(leader, 1, b"a");
    cluster.propose(leader, 2, b"b");
    cluster.pass(100);

    cluster.restart(leader);
    cluster.elect();
    cluster.pass(100);

    assert_eq!(cluster.applied(leader), [b"a", b"b"]);
}

#[test]
fn a_compacted_log_gives_the_state_and_what_follows() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.propose(leader, 1, b"a");
    cluster.pass(50);
    let index = cluster.member(leader).core.status().applied;
    cluster
        .order(leader, 0, |core, _, now_ns| core.compact(index, b"state".to_vec(), now_ns));
    cluster.propose(leader, 2, b"b");
    cluster.pass(50);

    cluster.restart(leader);
    cluster.elect();
    cluster.pass(100);

    let state = Event::Snapshot { index, data: b"state".to_vec() };
    assert!(cluster.member(leader).events.contains(&state));
    assert_eq!(cluster.applied(leader), [b"b"]);
    assert_eq!(cluster.member(leader).core.status().voters, [1, 2, 3]);
}

#[test]
fn a_member_that_is_too_far_behind_gets_the_state() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let behind = leader % 3 + 1;
    cluster.isolate(behind);
    cluster.propose(leader, 1, b"a");
    cluster.pass(50);
    let index = cluster.member(leader).core.status().applied;
    cluster
        .order(leader, 0, |core, _, now_ns| core.compact(index, b"state".to_vec(), now_ns));

    cluster.cut.clear();
    cluster.pass(1_000);
    cluster.propose(leader, 2, b"b");
    cluster.pass(100);

    let state = Event::Snapshot { index, data: b"state".to_vec() };
    assert!(cluster.member(behind).events.contains(&state));
    assert_eq!(cluster.applied(behind), [b"b"]);
}

/// Whether a core has told of this.
fn told(cluster: &mut Cluster, id: u64, what: &str) -> bool {
    let is = |event: &Event| matches!(event, Event::Log { event, .. } if *event == what);
    cluster.member(id).events.iter().any(is)
}

#[test]
fn a_leader_whose_disk_does_not_answer_gives_leadership_up() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.member(leader).disk_works = false;
    // Nobody else's silence or higher term makes it step down: it is its own disk.
    cluster.propose(leader, 1, b"x");
    let term = cluster.member(leader).core.status().term;
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    for id in others {
        cluster.member(id).up = false;
    }

    cluster.pass(90);
    assert_eq!(cluster.member(leader).core.status().role, "leader");
    cluster.pass(10);

    let status = cluster.member(leader).core.status();
    assert_eq!((status.role, status.term, status.leader), ("follower", term, 0));
    assert!(told(&mut cluster, leader, "log_disk_silent"));
}

#[test]
fn an_idle_leader_notices_that_its_disk_does_not_answer() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.member(leader).disk_works = false;

    // A stall while nothing is to be written costs nothing.
    cluster.pass(700);
    assert_eq!(cluster.leader(), Some(leader));
    cluster.pass(1_000);

    let next = cluster.leader().expect("another one leads");
    assert_ne!(next, leader);
    let (old, new) =
        (cluster.member(leader).core.status(), cluster.member(next).core.status());
    assert_eq!((old.role, old.leader, old.term), ("follower", next, new.term));
}

#[test]
fn a_member_whose_disk_does_not_answer_neither_campaigns_nor_piles_up_what_it_would_say() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let silent = leader % 3 + 1;
    cluster.member(silent).disk_works = false;
    cluster.propose(leader, 1, b"x");
    cluster.pass(60_000);
    assert_eq!(cluster.outcome(leader, 1), Some((Status::Ok, Payload::Index(5))));
    cluster.isolate(silent);
    cluster.pass(10_000);
    let status = cluster.member(silent).core.status();
    assert_eq!(status.role, "follower");

    cluster.cut.clear();
    let term = cluster.member(leader).core.status().term;
    cluster.member(silent).disk_works = true;
    cluster.carry_out(silent);
    cluster.carry_out(silent);
    let said = cluster.member(silent).sent.len();
    assert!((1..10).contains(&said), "{said} messages");
    cluster.settle();
    cluster.pass(1_000);

    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.member(leader).core.status().term, term);
    assert_eq!(cluster.applied(silent), [b"x".to_vec()]);
    assert!(told(&mut cluster, silent, "log_disk_answers"));
}

/// Have the hosts of these members say that they live, and so again within so long.
fn let_live(cluster: &mut Cluster, ids: &[u64], within_ms: u64) {
    for id in ids {
        cluster.member(*id).core.host_lives(within_ms);
    }
}

#[test]
fn a_leader_whose_host_is_silent_gives_leadership_up() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    let_live(&mut cluster, &others, 60_000);
    for _ in 0..5 {
        let_live(&mut cluster, &[leader], 500);
        cluster.pass(400);
        assert_eq!(cluster.leader(), Some(leader));
    }

    cluster.pass(1_000);

    let next = cluster.leader().expect("another one leads");
    assert_ne!(next, leader);
    assert!(told(&mut cluster, leader, "host_silent"));
    cluster.propose(next, 1, b"x");
    cluster.pass(100);
    assert_eq!(cluster.applied(leader), [b"x".to_vec()]);
}

#[test]
fn a_member_whose_host_is_silent_does_not_campaign_before_it_lives_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let_live(&mut cluster, &[1, 2, 3], 500);

    cluster.pass(10_000);

    assert_eq!(cluster.leader(), None);
    let term = cluster.member(leader).core.status().term;
    let_live(&mut cluster, &[leader], 60_000);
    cluster.pass(1_000);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.member(leader).core.status().term, term + 1);
    assert!(told(&mut cluster, leader, "host_lives"));
}

#[test]
fn a_member_whose_host_is_silent_votes_for_another() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let (silent, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let_live(&mut cluster, &[silent], 500);
    cluster.pass(1_000);
    cluster.member(leader).up = false;

    cluster.pass(1_000);

    assert_eq!(cluster.leader(), Some(other));
}

#[test]
fn who_is_alone_leads_on_with_a_silent_host() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    let_live(&mut cluster, &[leader], 500);

    cluster.pass(10_000);

    assert_eq!(cluster.leader(), Some(leader));
}

/// Let a leader write some entries, each of which takes its disk so long.
fn write_slowly(cluster: &mut Cluster, leader: u64, others_too: bool) {
    for token in 1..=3 {
        for id in 1..=3 {
            cluster.member(id).disk_works = id != leader && !others_too;
        }
        cluster.propose(leader, token, b"x");
        cluster.pass(60);
        for id in 1..=3 {
            cluster.member(id).disk_works = true;
        }
        // The leader's own write is the last to be there, or the first.
        let order = if others_too { [leader; 3] } else { [1, 2, 3] };
        for id in order {
            cluster.write(id);
        }
        cluster.settle();
        cluster.pass(20);
    }
}

#[test]
fn a_leader_whose_disk_is_slower_than_the_others_hands_leadership_on() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.member(leader).core.status().term;

    write_slowly(&mut cluster, leader, false);

    let next = cluster.leader().expect("another one leads");
    assert_ne!(next, leader);
    assert_eq!(cluster.member(next).core.status().term, term + 1);
    assert!(told(&mut cluster, leader, "log_disk_slow"));
}

#[test]
fn leadership_stays_where_all_disks_are_slow() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();

    write_slowly(&mut cluster, leader, true);

    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn a_leader_on_a_full_disk_hands_leadership_on_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();

    cluster.order(leader, 0, |core, _, _| core.disk_has(false, false));
    cluster.pass(20);

    let next = cluster.leader().expect("another one leads");
    assert_ne!(next, leader);
    assert!(told(&mut cluster, leader, "log_disk_full"));
    // Where no other can lead, it goes on with what is left of its segment.
    cluster.order(next, 2, |core, token, now_ns| {
        core.transfer(token, leader, now_ns + 500 * MS, now_ns);
    });
    cluster.order(leader, 0, |core, _, _| core.disk_has(false, false));
    cluster.pass(500);
    assert_eq!(cluster.leader(), Some(leader));
    cluster.order(leader, 0, |core, _, _| core.disk_has(true, false));
    assert!(told(&mut cluster, leader, "log_disk_has_room"));
}

#[test]
fn a_long_log_asks_for_a_base_once() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    cluster.propose(leader, 1, b"x");

    for _ in 0..3 {
        cluster.order(leader, 0, |core, _, _| core.disk_has(true, true));
    }

    let wanted = |event: &&Event| matches!(event, Event::BaseWanted);
    assert_eq!(cluster.member(leader).events.iter().filter(wanted).count(), 1);
}

#[test]
fn a_member_that_is_putting_a_state_on_disk_does_not_campaign() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let behind = leader % 3 + 1;
    cluster.isolate(behind);
    cluster.propose(leader, 1, b"x");
    let applied = cluster.member(leader).core.status().applied;
    cluster.order(leader, 0, |core, _, now_ns| {
        core.compact(applied, b"state".to_vec(), now_ns);
    });
    cluster.cut.clear();
    cluster.member(behind).disk_works = false;
    cluster.pass(60);
    let snapshot = |(_, records): &(u64, Vec<u8>)| stands_alone(records);
    assert!(cluster.member(behind).writing.iter().any(snapshot), "the state is here");

    // The library would end the process.
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgTimeoutNow);
    (message.from, message.to) = (leader, behind);
    message.term = cluster.member(leader).core.status().term;
    let now_ns = cluster.now_ns;
    let packet = Packet::Raft(Box::new(message));
    cluster.member(behind).core.receive(leader, packet, now_ns);
    cluster.pass(300);

    cluster.member(behind).disk_works = true;
    cluster.settle();
    cluster.pass(100);
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.member(behind).core.status().applied, applied);
}

#[test]
fn a_lone_voter_does_not_campaign_before_its_log_is_on_disk() {
    let mut cluster = Cluster::new(1);
    cluster.elect();
    add_learner(&mut cluster, 2);
    cluster.member(1).disk_works = false;
    cluster.propose(1, 10, b"on its way to the disk");
    cluster.propose(1, 11, b"behind it");

    cluster.pass(200);
    assert_eq!(cluster.leader(), None);
    cluster.write(1);
    cluster.settle();
    cluster.pass(50);

    assert_eq!(cluster.leader(), None);
    cluster.member(1).disk_works = true;
    assert_eq!(cluster.elect(), 1);
    for token in [10, 11] {
        assert!(matches!(cluster.outcome(1, token), Some((Status::Ok, _))));
    }
}
