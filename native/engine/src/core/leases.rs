//! Renewals, grants and ages: the lease's arithmetic joined to Raft.

use std::collections::BTreeMap;

use pgbastion_lease::{Answer, Hold, Outcome, Renewal};
use raft::StateRole;

use super::{Core, Output};
use crate::event::{Event, Payload, Status, VoterAge};
use crate::wire::Packet;

/// The question of ages, as long as answers are awaited.
pub(super) struct AgeRound {
    token: u64,
    number: u64,
    term: u64,
    deadline_ns: i64,
    answers: BTreeMap<u64, VoterAge>,
    /// Since when a majority has answered.
    majority_ns: Option<i64>,
}

impl Core {
    /// Renew the lease of an epoch from now on; `None`: stop.
    pub fn hold(&mut self, hold: Option<Hold>, now_ns: i64) {
        self.holder.hold(hold);
        self.withheld = None;
        self.turn(now_ns);
    }

    /// Send the renewal that is due, if a leader is known.
    pub(super) fn renew(&mut self, now_ns: i64) {
        let leader = self.node.raft.leader_id;
        let Some(epoch) = self.holder.epoch() else { return };
        if leader == 0 {
            return;
        }
        if self.log_is_silent_for(self.holder.patience_ns(), now_ns) {
            // It cannot hear what the cluster decides, not even of its revocation.
            return self.withhold(epoch, "log_silent");
        }
        let page = self.page;
        let renewal = match self.holder.due(now_ns, &page) {
            Ok(None) => return,
            Ok(Some(renewal)) => renewal,
            Err(withheld) => return self.withhold(epoch, withheld.word()),
        };
        self.withheld = None;
        if leader == self.settings.member {
            self.renewal_arrived(leader, renewal);
        } else {
            self.send(leader, &Packet::Renewal(renewal));
        }
    }

    /// Say once why nothing is renewed.
    fn withhold(&mut self, epoch: i64, reason: &'static str) {
        if self.withheld != Some(reason) {
            self.withheld = Some(reason);
            self.event(Event::Denied { epoch, reason });
        }
    }

    pub(super) fn renewal_arrived(&mut self, from: u64, renewal: Renewal) {
        if self.leadership.is_some() {
            self.granter.lock().expect("no holder panics").arrived(from, renewal);
        }
    }

    /// Have a majority confirm the leadership, after the renewals have arrived.
    pub(super) fn begin_lease_read(&mut self) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || !raft.commit_to_current_term() {
            return;
        }
        if !self.granter.lock().expect("no holder panics").wants_read() {
            return;
        }
        let (counter, id) = self.fresh_id();
        self.granter.lock().expect("no holder panics").read_begun(counter);
        self.node.read_index(id);
    }

    pub(super) fn lease_read_confirmed(&mut self, counter: u64, index: u64) {
        self.granter.lock().expect("no holder panics").read_confirmed(counter, index);
    }

    /// Answer the renewals that may be answered now.
    pub(super) fn answer_renewals(&mut self, now_ns: i64) {
        if self.leadership.is_none() {
            return;
        }
        let applied = self.host_applied;
        let answers =
            self.granter.lock().expect("no holder panics").answers(now_ns, applied);
        for (to, renewal, answer) in answers {
            let Renewal { epoch, number, .. } = renewal;
            if to == self.settings.member {
                self.answered(to, epoch, number, answer, now_ns);
            } else {
                self.send(to, &Packet::Answer { epoch, number, answer });
            }
        }
    }

    /// A leader has answered a renewal of ours.
    pub(super) fn answered(
        &mut self,
        from: u64,
        epoch: i64,
        number: u64,
        answer: Answer,
        now_ns: i64,
    ) {
        let lease_ns = match answer {
            Answer::Granted { lease_ns } => lease_ns,
            Answer::Denied(denial) => {
                let current = from == self.node.raft.leader_id;
                if current && self.holder.epoch() == Some(epoch) {
                    self.event(Event::Denied { epoch, reason: denial.word() });
                }
                return;
            }
        };
        let page = self.page;
        if let Outcome::Until { epoch, expiry_ns } =
            self.holder.granted(epoch, number, lease_ns, &page)
        {
            if expiry_ns > now_ns {
                self.outputs.push(Output::Expiry { epoch, expiry_ns });
            }
        }
    }

    /// Ask every voter how long ago it last confirmed a leader of an older term.
    pub fn ages(&mut self, token: u64, deadline_ns: i64, now_ns: i64) {
        let Some(leadership) = &self.leadership else {
            return self.done(token, Status::NotLeader, Payload::Nothing);
        };
        let term = leadership.term;
        self.end_age_round(Status::Ok);
        let (number, _) = self.fresh_id();
        let me = self.settings.member;
        for voter in self.members.voters.clone().into_iter().filter(|id| *id != me) {
            self.send(voter, &Packet::AskAge { term, number });
        }
        self.age_round = Some(AgeRound {
            token,
            number,
            term,
            deadline_ns,
            answers: BTreeMap::new(),
            majority_ns: None,
        });
        self.age_questions.insert(me, (term, number));
        self.turn(now_ns);
    }

    /// Answer the questions whose term is on our disk: from then on this voter, also
    /// after a restart, confirms no older leader.
    pub(super) fn answer_ages(&mut self, now_ns: i64) {
        let term = self.durable.term;
        let ready: Vec<(u64, (u64, u64))> = self
            .age_questions
            .iter()
            .filter(|(_, (asked, _))| *asked <= term)
            .map(|(from, question)| (*from, *question))
            .collect();
        for (from, (asked, number)) in ready {
            self.age_questions.remove(&from);
            let age_ns = self.confirmations.age_ns(asked, now_ns);
            if from == self.settings.member {
                self.age_arrived(from, term, number, age_ns, now_ns);
            } else {
                self.send(from, &Packet::Age { term, number, age_ns });
            }
        }
    }

    pub(super) fn age_arrived(
        &mut self,
        member: u64,
        term: u64,
        number: u64,
        age_ns: i64,
        now_ns: i64,
    ) {
        let voters = &self.members.voters;
        let Some(round) = &mut self.age_round else { return };
        if round.number != number || term < round.term || !voters.contains(&member) {
            return;
        }
        let answer = VoterAge { member, term, age_ns, receipt_ns: now_ns };
        round.answers.insert(member, answer);
        let answered = voters.iter().filter(|id| round.answers.contains_key(id)).count();
        if answered * 2 > voters.len() && round.majority_ns.is_none() {
            round.majority_ns = Some(now_ns);
        }
    }

    /// End the question when all have answered, or a majority and nobody else within a
    /// heartbeat.
    pub(super) fn finish_ages(&mut self, now_ns: i64) {
        let grace_ns = self.ticks_ns(self.settings.heartbeat_ticks);
        let Some(round) = &self.age_round else { return };
        let all = self.members.voters.iter().all(|id| round.answers.contains_key(id));
        let enough = round.majority_ns.is_some_and(|since| since + grace_ns <= now_ns);
        if all || enough || round.deadline_ns <= now_ns {
            self.end_age_round(Status::Ok);
        }
    }

    pub(super) fn end_age_round(&mut self, status: Status) {
        let Some(round) = self.age_round.take() else { return };
        let payload = match status {
            Status::Ok => Payload::Ages(round.answers.into_values().collect()),
            _ => Payload::Nothing,
        };
        self.done(round.token, status, payload);
    }
}
