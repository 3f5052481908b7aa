//! One test for each rule of the lease: it fails when the rule is taken out.

use pgbastion_lease::{
    Answer, Confirmations, Denial, Granter, Hold, Holder, Leased, Outcome, PageWords,
    Renewal, Withheld,
};

const MS: i64 = 1_000_000;
const LEASE_NS: i64 = 2_000 * MS;
const T0: i64 = 1_000_000 * MS;

fn hold() -> Hold {
    Hold {
        epoch: 3,
        incarnation: 77,
        renew_ns: 250 * MS,
        deadline_ns: 400 * MS,
        evidence_max_ns: 800 * MS,
        asked_max_ns: 5_000 * MS,
    }
}

fn holder() -> Holder {
    let mut holder = Holder::default();
    holder.hold(Some(hold()));
    holder
}

fn fresh(now_ns: i64) -> PageWords {
    PageWords { evidence_ns: now_ns, ..PageWords::default() }
}

fn sent(holder: &mut Holder, now_ns: i64) -> Renewal {
    holder.due(now_ns, &fresh(now_ns)).expect("evidence").expect("a renewal is due")
}

// The holder

#[test]
fn the_lease_counts_from_the_sending_and_not_from_the_answer() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);

    let outcome = holder.granted(3, renewal.number, LEASE_NS, &fresh(T0 + 300 * MS));

    assert_eq!(outcome, Outcome::Until { epoch: 3, expiry_ns: T0 + LEASE_NS });
}

#[test]
fn nothing_is_renewed_before_somebody_holds() {
    let mut holder = Holder::default();

    assert_eq!(holder.due(T0, &fresh(T0)), Ok(None));
}

#[test]
fn an_answered_renewal_is_followed_after_the_interval() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);
    holder.granted(3, renewal.number, LEASE_NS, &fresh(T0));

    assert_eq!(holder.due(T0 + 249 * MS, &fresh(T0)), Ok(None));
    assert!(holder.due(T0 + 250 * MS, &fresh(T0)).unwrap().is_some());
}

#[test]
fn an_unanswered_renewal_is_followed_after_its_deadline() {
    let mut holder = holder();
    sent(&mut holder, T0);

    assert_eq!(holder.due(T0 + 399 * MS, &fresh(T0)), Ok(None));
    assert!(holder.due(T0 + 400 * MS, &fresh(T0)).unwrap().is_some());
}

#[test]
fn a_new_leader_gets_the_pending_renewal_at_once() {
    let mut holder = holder();
    sent(&mut holder, T0);

    holder.leader_changed();

    assert!(holder.due(T0 + MS, &fresh(T0)).unwrap().is_some());
}

#[test]
fn a_new_leader_hears_nothing_at_once_when_the_last_renewal_was_answered() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);
    holder.granted(3, renewal.number, LEASE_NS, &fresh(T0));

    holder.leader_changed();

    assert_eq!(holder.due(T0 + MS, &fresh(T0)), Ok(None));
}

#[test]
fn a_holder_whose_server_has_not_answered_lately_does_not_renew() {
    let mut holder = holder();

    assert_eq!(holder.due(T0 + 801 * MS, &fresh(T0)), Err(Withheld::NoEvidence));
    assert!(holder.due(T0 + 800 * MS, &fresh(T0)).unwrap().is_some());
}

#[test]
fn a_holder_without_any_evidence_does_not_renew_however_young_the_clock() {
    let mut holder = holder();

    assert_eq!(holder.due(5 * MS, &PageWords::default()), Err(Withheld::NoEvidence));
}

#[test]
fn the_guards_word_stands_in_for_evidence_up_to_its_limit() {
    let asked = PageWords { asked_ns: T0, ..PageWords::default() };

    assert!(holder().due(T0 + 5_000 * MS, &asked).unwrap().is_some());
    assert_eq!(holder().due(T0 + 5_001 * MS, &asked), Err(Withheld::NoEvidence));
}

#[test]
fn a_released_epoch_is_not_renewed() {
    let page = PageWords { released_epoch: 3, ..fresh(T0) };

    assert_eq!(holder().due(T0, &page), Err(Withheld::Ended));
}

#[test]
fn an_epoch_that_the_guard_has_ended_is_not_renewed() {
    let page = PageWords { ended_epoch: 3, ..fresh(T0) };

    assert_eq!(holder().due(T0, &page), Err(Withheld::Ended));
}

#[test]
fn an_answer_after_the_release_is_thrown_away() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);
    let page = PageWords { released_epoch: 3, ..fresh(T0) };

    assert_eq!(holder.granted(3, renewal.number, LEASE_NS, &page), Outcome::Ignored);
}

#[test]
fn an_answer_for_another_epoch_is_thrown_away() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);

    assert_eq!(holder.granted(2, renewal.number, LEASE_NS, &fresh(T0)), Outcome::Ignored);
}

#[test]
fn an_answer_to_an_older_hold_is_thrown_away() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);
    holder.hold(Some(Hold { incarnation: 78, ..hold() }));

    assert_eq!(holder.granted(3, renewal.number, LEASE_NS, &fresh(T0)), Outcome::Ignored);
}

#[test]
fn holding_the_same_once_more_keeps_what_is_on_its_way() {
    let mut holder = holder();
    let renewal = sent(&mut holder, T0);
    holder.hold(Some(hold()));

    assert_ne!(holder.granted(3, renewal.number, LEASE_NS, &fresh(T0)), Outcome::Ignored);
}

#[test]
fn a_late_answer_counts_from_its_own_renewal() {
    let mut holder = holder();
    let first = sent(&mut holder, T0);
    sent(&mut holder, T0 + 400 * MS);

    let outcome = holder.granted(3, first.number, LEASE_NS, &fresh(T0 + 500 * MS));

    assert_eq!(outcome, Outcome::Until { epoch: 3, expiry_ns: T0 + LEASE_NS });
}

#[test]
fn an_older_answer_never_shortens_the_lease() {
    let mut holder = holder();
    let first = sent(&mut holder, T0);
    let second = sent(&mut holder, T0 + 400 * MS);
    let page = fresh(T0 + 500 * MS);
    holder.granted(3, second.number, LEASE_NS, &page);

    assert_eq!(holder.granted(3, first.number, LEASE_NS, &page), Outcome::Ignored);
}

#[test]
fn an_answer_to_no_renewal_of_ours_is_thrown_away() {
    let mut holder = holder();
    sent(&mut holder, T0);

    assert_eq!(holder.granted(3, 99, LEASE_NS, &fresh(T0)), Outcome::Ignored);
}

// The granter

fn renewal(number: u64) -> Renewal {
    Renewal {
        epoch: 3,
        incarnation: 77,
        number,
        evidence_age_ns: 0,
        pause_revision: 0,
        paused: 0,
        policy_revision: 0,
    }
}

fn leased() -> Leased {
    Leased { member: 2, epoch: 3, incarnation: 77, lease_ms: 2_000 }
}

fn granter() -> Granter {
    let mut granter = Granter::default();
    granter.elected();
    granter.lease(Some(leased()));
    granter
}

fn confirmed(granter: &mut Granter, read: u64, index: u64) {
    granter.read_begun(read);
    granter.read_confirmed(read, index);
}

fn judged(change: impl FnOnce(&mut Granter)) -> Vec<Answer> {
    let mut granter = granter();
    granter.arrived(2, renewal(1));
    confirmed(&mut granter, 1, 10);
    change(&mut granter);
    granter.answers(T0, 10).into_iter().map(|(_, _, answer)| answer).collect()
}

#[test]
fn a_confirmed_renewal_of_the_holder_is_granted_the_lease_in_force() {
    assert_eq!(judged(|_| ()), [Answer::Granted { lease_ns: LEASE_NS }]);
}

#[test]
fn no_renewal_is_answered_without_a_majority() {
    let mut granter = granter();
    granter.arrived(2, renewal(1));
    granter.read_begun(1);

    assert!(granter.answers(T0, 99).is_empty());
}

#[test]
fn a_read_that_began_before_a_renewal_arrived_does_not_confirm_it() {
    let mut granter = granter();
    granter.arrived(2, renewal(1));
    granter.read_begun(1);
    granter.arrived(2, renewal(2));
    granter.read_confirmed(1, 10);

    let answers = granter.answers(T0, 10);

    assert_eq!(answers.iter().map(|(_, r, _)| r.number).collect::<Vec<_>>(), [1]);
    assert!(granter.wants_read());
}

#[test]
fn no_renewal_is_answered_before_the_state_is_applied_that_far() {
    let mut granter = granter();
    granter.arrived(2, renewal(1));
    confirmed(&mut granter, 1, 10);

    assert!(granter.answers(T0, 9).is_empty());
    assert_eq!(granter.answers(T0, 10).len(), 1);
}

#[test]
fn nothing_is_granted_from_the_moment_of_the_decision() {
    let answers = judged(|granter| {
        granter.lease(None);
    });

    assert_eq!(answers, [Answer::Denied(Denial::Closed)]);
}

#[test]
fn another_epoch_is_not_granted() {
    let answers = judged(|granter| {
        granter.lease(Some(Leased { epoch: 4, ..leased() }));
    });

    assert_eq!(answers, [Answer::Denied(Denial::NotHolder)]);
}

#[test]
fn another_member_is_not_granted() {
    let answers = judged(|granter| {
        granter.lease(Some(Leased { member: 1, ..leased() }));
    });

    assert_eq!(answers, [Answer::Denied(Denial::NotHolder)]);
}

#[test]
fn another_incarnation_is_not_granted() {
    let answers = judged(|granter| {
        granter.lease(Some(Leased { incarnation: 78, ..leased() }));
    });

    assert_eq!(answers, [Answer::Denied(Denial::Incarnation)]);
}

#[test]
fn closing_tells_when_the_last_grant_was_answered() {
    let mut granter = granter();
    granter.arrived(2, renewal(1));
    confirmed(&mut granter, 1, 10);
    granter.answers(T0 + 5 * MS, 10);

    assert_eq!(granter.lease(None), T0 + 5 * MS);
}

#[test]
fn a_denial_is_no_answer_to_wait_for() {
    let mut granter = granter();
    granter.arrived(1, renewal(1));
    confirmed(&mut granter, 1, 10);
    granter.answers(T0, 10);

    assert_eq!(granter.lease(None), 0);
}

#[test]
fn a_deposed_leader_answers_nothing_that_waited() {
    assert!(judged(Granter::deposed).is_empty());
}

#[test]
fn a_new_leadership_starts_without_an_answer_of_its_own() {
    let mut granter = granter();
    granter.arrived(2, renewal(1));
    confirmed(&mut granter, 1, 10);
    granter.answers(T0, 10);

    granter.elected();

    assert_eq!(granter.last_answer_ns(), 0);
}

// Ages

#[test]
fn an_age_counts_from_the_last_confirmation_of_an_older_leader() {
    let mut voter = Confirmations::new(T0);
    voter.confirmed(4, T0 + 10 * MS);
    voter.confirmed(4, T0 + 20 * MS);

    assert_eq!(voter.age_ns(5, T0 + 100 * MS), 80 * MS);
}

#[test]
fn confirming_the_asker_itself_does_not_count() {
    let mut voter = Confirmations::new(T0);
    voter.confirmed(4, T0 + 20 * MS);
    voter.confirmed(5, T0 + 90 * MS);

    assert_eq!(voter.age_ns(5, T0 + 100 * MS), 80 * MS);
}

#[test]
fn a_fresh_process_counts_from_its_lock() {
    let voter = Confirmations::new(T0 + 70 * MS);

    assert_eq!(voter.age_ns(5, T0 + 100 * MS), 30 * MS);
}

#[test]
fn a_fresh_process_that_confirmed_only_the_asker_counts_from_its_lock() {
    let mut voter = Confirmations::new(T0 + 70 * MS);
    voter.confirmed(5, T0 + 90 * MS);

    assert_eq!(voter.age_ns(5, T0 + 100 * MS), 30 * MS);
}

#[test]
fn the_youngest_of_several_older_leaders_counts() {
    let mut voter = Confirmations::new(T0);
    voter.confirmed(3, T0 + 10 * MS);
    voter.confirmed(4, T0 + 20 * MS);
    voter.confirmed(6, T0 + 30 * MS);

    assert_eq!(voter.age_ns(6, T0 + 100 * MS), 80 * MS);
}

#[test]
fn an_asker_that_is_outdated_gets_the_youngest_confirmation_of_all() {
    let mut voter = Confirmations::new(T0);
    voter.confirmed(4, T0 + 20 * MS);
    voter.confirmed(6, T0 + 60 * MS);

    assert_eq!(voter.age_ns(5, T0 + 100 * MS), 40 * MS);
}

#[test]
fn stepping_down_counts_also_when_a_newer_leader_was_heard_first() {
    let mut voter = Confirmations::new(T0);
    voter.confirmed(6, T0 + 40 * MS);
    voter.confirmed(5, T0 + 50 * MS);

    assert_eq!(voter.age_ns(6, T0 + 100 * MS), 50 * MS);
}
