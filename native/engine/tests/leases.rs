//! Renewals, grants and ages between cores.

mod common;

use _engine::event::{Event, Payload, Status, VoterAge};
use _engine::wire::Packet;
use common::{Cluster, MS};
use pgbastion_lease::{Answer, Hold, Leased, PageWords};

const LEASE_MS: i64 = 2_000;

fn lease(cluster: &mut Cluster, leader: u64, leased: Option<Leased>) -> i64 {
    let granter = cluster.member(leader).core.granter();
    let last = granter.lock().unwrap().lease(leased);
    last
}

fn to(member: u64) -> Option<Leased> {
    Some(Leased { member, epoch: 1, incarnation: 7, lease_ms: LEASE_MS })
}

const HOLD: Hold = Hold {
    epoch: 1,
    incarnation: 7,
    renew_ns: 250 * MS,
    deadline_ns: 400 * MS,
    evidence_max_ns: 3_600_000 * MS,
    asked_max_ns: 0,
};

fn hold(cluster: &mut Cluster, holder: u64) {
    let page = PageWords { evidence_ns: cluster.now_ns, ..PageWords::default() };
    cluster.member(holder).core.set_page(page);
    cluster.order(holder, 0, |core, _, now_ns| core.hold(Some(HOLD), now_ns));
}

/// Begin to hold; return the number of the renewal, which reaches nobody.
fn first_number(cluster: &mut Cluster, holder: u64) -> u64 {
    let now_ns = cluster.now_ns;
    let member = cluster.member(holder);
    member.core.set_page(PageWords { evidence_ns: now_ns, ..PageWords::default() });
    member.core.hold(Some(HOLD), now_ns);
    cluster.carry_out(holder);
    let sent = std::mem::take(&mut cluster.member(holder).sent);
    let number = |packet: &Packet| match packet {
        Packet::Renewal(renewal) => Some(renewal.number),
        _ => None,
    };
    sent.iter().find_map(|(_, packet)| number(packet)).expect("a renewal was due")
}

fn expiries(cluster: &mut Cluster, id: u64) -> Vec<i64> {
    let expiry = |event: &Event| match event {
        Event::Granted { expiry_ns, .. } => Some(*expiry_ns),
        _ => None,
    };
    cluster.member(id).events.iter().filter_map(expiry).collect()
}

fn holding() -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let holder = leader % 3 + 1;
    cluster.pass(100);
    for id in 1..=3 {
        lease(&mut cluster, id, to(holder));
    }
    hold(&mut cluster, holder);
    (cluster, leader, holder)
}

fn ages(cluster: &mut Cluster, leader: u64, token: u64) -> Vec<VoterAge> {
    cluster.order(leader, token, |core, token, now_ns| {
        core.ages(token, now_ns + 300 * MS, now_ns);
    });
    cluster.pass(310);
    match cluster.outcome(leader, token) {
        Some((Status::Ok, Payload::Ages(ages))) => ages,
        other => panic!("no ages: {other:?}"),
    }
}

fn age_of(ages: &[VoterAge], member: u64) -> Option<i64> {
    ages.iter().find(|age| age.member == member).map(|age| age.age_ns)
}

#[test]
fn a_renewal_extends_the_lease_from_its_sending() {
    let (mut cluster, _, holder) = holding();

    assert_eq!(expiries(&mut cluster, holder), [cluster.now_ns + LEASE_MS * MS]);
}

#[test]
fn a_holder_that_leads_renews_the_same_way() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    lease(&mut cluster, leader, to(leader));
    cluster.isolate(leader);
    hold(&mut cluster, leader);
    assert!(expiries(&mut cluster, leader).is_empty());

    cluster.cut.clear();
    cluster.pass(50);

    assert_eq!(expiries(&mut cluster, leader).len(), 1);
}

#[test]
fn a_leader_that_lost_its_majority_answers_no_renewal() {
    let (mut cluster, leader, holder) = holding();
    let third = 6 - leader - holder;
    let before = expiries(&mut cluster, holder).len();
    // The holder still reaches the leader, whose questions nobody answers.
    for other in [holder, third] {
        cluster.cut.push((leader, other));
    }

    cluster.pass(90);

    assert_eq!(expiries(&mut cluster, holder).len(), before);
}

#[test]
fn a_late_answer_to_a_former_life_extends_no_lease() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let holder = leader % 3 + 1;
    cluster.pass(100);
    let number = first_number(&mut cluster, holder);
    cluster.restart(holder);
    cluster.pass(100);
    first_number(&mut cluster, holder);

    let answer = Answer::Granted { lease_ns: LEASE_MS * MS };
    let now_ns = cluster.now_ns;
    let late = Packet::Answer { epoch: 1, number, answer };
    cluster.member(holder).core.receive(leader, late, now_ns);
    cluster.settle();

    assert!(expiries(&mut cluster, holder).is_empty());
}

#[test]
fn a_closed_lease_is_answered_no_more_and_tells_the_last_answer() {
    let (mut cluster, leader, holder) = holding();
    let answered_ns = cluster.now_ns;

    assert_eq!(lease(&mut cluster, leader, None), answered_ns);
    let before = expiries(&mut cluster, holder).len();
    cluster.pass(600);

    assert_eq!(expiries(&mut cluster, holder).len(), before);
    let denied = Event::Denied { epoch: 1, reason: "closed" };
    assert!(cluster.member(holder).events.contains(&denied));
}

#[test]
fn a_pending_renewal_reaches_the_next_leader_at_once() {
    let (mut cluster, leader, holder) = holding();
    lease(&mut cluster, leader, None);
    cluster.pass(300);
    let before = expiries(&mut cluster, holder).len();
    let next = 6 - leader - holder;

    cluster.order(leader, 9, |core, token, now_ns| {
        core.transfer(token, next, now_ns + 500 * MS, now_ns);
    });

    // No time has passed since the election.
    assert_eq!(expiries(&mut cluster, holder).len(), before + 1);
}

#[test]
fn a_new_leader_answers_only_once_its_host_has_applied_its_first_entry() {
    let (mut cluster, leader, holder) = holding();
    lease(&mut cluster, leader, None);
    cluster.pass(300);
    let before = expiries(&mut cluster, holder).len();
    let next = 6 - leader - holder;
    cluster.member(next).host_works = false;

    cluster.order(leader, 9, |core, token, now_ns| {
        core.transfer(token, next, now_ns + 500 * MS, now_ns);
    });
    cluster.pass(200);

    assert_eq!(cluster.leader(), Some(next));
    assert_eq!(expiries(&mut cluster, holder).len(), before);
}

#[test]
fn voters_say_when_they_last_confirmed_the_old_leader() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.pass(1_000);
    let lost_ns = cluster.now_ns;
    cluster.isolate(old);
    cluster.member(old).up = false;
    let new = cluster.elect();

    let asked_ns = cluster.now_ns;
    let ages = ages(&mut cluster, new, 5);

    let voters: Vec<_> = (1..=3).filter(|id| *id != old).collect();
    for id in voters {
        let age_ns = age_of(&ages, id).expect("it answers");
        // The last heartbeat came at most two ticks before the cut.
        let since_cut_ns = asked_ns - lost_ns;
        assert!((since_cut_ns..=since_cut_ns + 20 * MS).contains(&age_ns), "{age_ns}");
    }
    assert_eq!(age_of(&ages, old), None);
}

#[test]
fn a_voter_that_was_the_old_leader_counts_from_its_stepping_down() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let next = old % 3 + 1;
    cluster.pass(1_000);
    cluster.order(old, 9, |core, token, now_ns| {
        core.transfer(token, next, now_ns + 500 * MS, now_ns);
    });
    let stepped_down_ns = cluster.now_ns;
    cluster.pass(40);

    let asked_ns = cluster.now_ns;
    let ages = ages(&mut cluster, next, 5);

    assert_eq!(age_of(&ages, old), Some(asked_ns - stepped_down_ns));
}

#[test]
fn a_restarted_voter_counts_from_its_restart() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.pass(1_000);
    cluster.isolate(old);
    cluster.member(old).up = false;
    let voter = old % 3 + 1;
    cluster.restart(voter);
    let restarted_ns = cluster.now_ns;
    let new = cluster.elect();

    let asked_ns = cluster.now_ns;
    let ages = ages(&mut cluster, new, 5);

    assert_eq!(age_of(&ages, voter), Some(asked_ns - restarted_ns));
}

#[test]
fn no_age_is_told_before_the_term_is_on_disk() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.elect();
    let voter = leader % 5 + 1;
    let asker = voter % 5 + 1;
    cluster.pass(100);
    let term = cluster.member(leader).core.status().term;
    cluster.member(voter).disk_works = false;
    let now_ns = cluster.now_ns;
    let question = Packet::AskAge { term: term + 1, number: 1 };
    cluster.member(voter).core.receive(asker, question, now_ns);
    cluster.carry_out(voter);
    let told = |cluster: &mut Cluster| {
        let sent = &cluster.member(voter).sent;
        sent.iter().any(|(to, packet)| *to == asker && matches!(packet, Packet::Age { .. }))
    };
    assert!(!told(&mut cluster), "the question alone tells a term");

    let mut heartbeat = raft::eraftpb::Message::default();
    heartbeat.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to, heartbeat.term) = (asker, voter, term + 1);
    cluster.member(voter).core.receive(asker, Packet::Raft(Box::new(heartbeat)), now_ns);
    cluster.carry_out(voter);
    assert!(!told(&mut cluster), "the term is known, but not on disk");

    cluster.write(voter);
    cluster.carry_out(voter);
    assert!(told(&mut cluster));
}

/// Ask for ages; return the number of the question, which reaches nobody.
fn first_question(cluster: &mut Cluster, leader: u64) -> u64 {
    let now_ns = cluster.now_ns;
    cluster.member(leader).core.ages(5, now_ns + 300 * MS, now_ns);
    cluster.carry_out(leader);
    let sent = std::mem::take(&mut cluster.member(leader).sent);
    let number = |packet: &Packet| match packet {
        Packet::AskAge { number, .. } => Some(*number),
        _ => None,
    };
    sent.iter().find_map(|(_, packet)| number(packet)).expect("all are asked")
}

#[test]
fn an_age_told_to_a_former_life_counts_for_nothing() {
    // It bounds what leaders before that life's term have granted, not what it granted.
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let voter = leader % 3 + 1;
    let number = first_question(&mut cluster, leader);
    cluster.restart(leader);
    let next = cluster.elect();
    cluster.order(next, 6, |core, token, now_ns| {
        core.transfer(token, leader, now_ns + 500 * MS, now_ns);
    });
    assert_eq!(cluster.elect(), leader);
    first_question(&mut cluster, leader);

    let term = cluster.member(leader).core.status().term;
    let now_ns = cluster.now_ns;
    let late = Packet::Age { term, number, age_ns: 3_600_000 * MS };
    cluster.member(leader).core.receive(voter, late, now_ns);
    cluster.pass(300);

    let Some((Status::Ok, Payload::Ages(ages))) = cluster.outcome(leader, 5) else {
        panic!("no ages");
    };
    assert_eq!(age_of(&ages, voter), None);
}

#[test]
fn ages_end_with_the_leadership() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    cluster.order(leader, 5, |core, token, now_ns| {
        core.ages(token, now_ns + 10_000 * MS, now_ns);
    });

    cluster.pass(400);

    assert_eq!(cluster.outcome(leader, 5), Some((Status::NotLeader, Payload::Nothing)));
}

#[test]
fn a_holder_renews_while_its_log_is_slow_and_not_while_it_is_silent() {
    let (mut cluster, leader, holder) = holding();
    let patience_ms = 1_000;
    let hold = Hold {
        epoch: 1,
        incarnation: 7,
        renew_ns: 250 * MS,
        deadline_ns: 400 * MS,
        evidence_max_ns: patience_ms * MS,
        asked_max_ns: 3_600_000 * MS,
    };
    let page = PageWords { asked_ns: cluster.now_ns, ..PageWords::default() };
    cluster.member(holder).core.set_page(page);
    cluster.order(holder, 0, |core, _, now_ns| core.hold(Some(hold), now_ns));
    cluster.member(holder).disk_works = false;
    cluster.propose(leader, 1, b"x");
    let began_ns = cluster.now_ns;

    cluster.pass(3 * patience_ms);

    let last_ns = *expiries(&mut cluster, holder).last().expect("it was granted");
    let renewed_ns = last_ns - LEASE_MS * MS - began_ns;
    assert!(renewed_ns > patience_ms * MS / 2, "renewed while the log was slow");
    assert!(renewed_ns < patience_ms * MS, "renewed although the log was silent");
    cluster.member(holder).disk_works = true;
    cluster.pass(500);
    assert!(*expiries(&mut cluster, holder).last().expect("again") > last_ns);
}
