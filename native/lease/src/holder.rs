//! The holder's side: when a renewal is sent, and how far an answer carries.

use std::collections::VecDeque;

/// What the shared page says, as far as a renewal depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageWords {
    /// Newest instant at which PostgreSQL and its disks answered; 0: never.
    pub evidence_ns: i64,
    /// Since when the guard has been busy with a start or a promotion; 0: it is not.
    pub asked_ns: i64,
    /// Highest epoch whose release was latched: it is never renewed again.
    pub released_epoch: i64,
    /// Highest epoch that the guard has latched as ended.
    pub ended_epoch: i64,
    pub pause_revision: i64,
    pub paused: i64,
    pub policy_revision: i64,
}

/// What to renew, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    pub epoch: i64,
    pub incarnation: i64,
    /// From one renewal that was answered to the next.
    pub renew_ns: i64,
    /// After which an unanswered renewal is followed by another one.
    pub deadline_ns: i64,
    /// How old evidence may be when a renewal is sent.
    pub evidence_max_ns: i64,
    /// How long a start or promotion may stand in for evidence.
    pub asked_max_ns: i64,
}

/// One renewal, as it goes to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub epoch: i64,
    pub incarnation: i64,
    pub number: u64,
    pub evidence_age_ns: i64,
    pub pause_revision: i64,
    pub paused: i64,
    pub policy_revision: i64,
}

/// Why no renewal is sent although one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Neither PostgreSQL nor the guard gives evidence.
    NoEvidence,
    /// The epoch was released, or has ended: nothing renews it again.
    Ended,
}

impl Withheld {
    pub fn word(self) -> &'static str {
        match self {
            Withheld::NoEvidence => "no_evidence",
            Withheld::Ended => "ended",
        }
    }
}

/// What an answer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The lease of this epoch now ends at this instant.
    Until { epoch: i64, expiry_ns: i64 },
    /// It changes nothing: of another epoch, to no renewal of ours, or too late.
    Ignored,
}

/// Renewals whose answers still count. A leader that answers an older one is as good.
const OUTSTANDING_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    sent_ns: i64,
}

/// Renews the lease of one epoch.
#[derive(Debug, Default)]
pub struct Holder {
    hold: Option<Hold>,
    outstanding: VecDeque<Sent>,
    last_sent_ns: Option<i64>,
    answered: bool,
    expiry_ns: i64,
    numbers: u64,
}

impl Holder {
    /// A holder whose renewals are numbered from here on. Each life has numbers of its
    /// own: a late answer to a former one's must not count from a later sending.
    pub fn numbered_from(number: u64) -> Holder {
        Holder { numbers: number, ..Holder::default() }
    }

    /// Renew this from now on; `None`: stop. The same once more changes nothing.
    pub fn hold(&mut self, hold: Option<Hold>) {
        let same = match (&self.hold, &hold) {
            (Some(old), Some(new)) => {
                old.epoch == new.epoch && old.incarnation == new.incarnation
            }
            (None, None) => true,
            _ => false,
        };
        self.hold = hold;
        if !same {
            self.outstanding.clear();
            self.last_sent_ns = None;
            self.answered = false;
            self.expiry_ns = 0;
        }
    }

    /// The epoch being renewed, if any.
    pub fn epoch(&self) -> Option<i64> {
        self.hold.map(|hold| hold.epoch)
    }

    /// How long a disk may be silent before nothing is renewed any more.
    pub fn patience_ns(&self) -> i64 {
        self.hold.map_or(i64::MAX, |hold| hold.evidence_max_ns)
    }

    /// A renewal without an answer is sent anew at once: the new leader does not know
    /// of it.
    pub fn leader_changed(&mut self) {
        if !self.answered {
            self.last_sent_ns = None;
        }
    }

    /// Return the renewal to send now, `None` if none is due.
    ///
    /// The caller sends it at `now_ns`: from this instant the lease will count, not
    /// from that of the answer.
    pub fn due(
        &mut self,
        now_ns: i64,
        page: &PageWords,
    ) -> Result<Option<Renewal>, Withheld> {
        let Some(hold) = self.hold else {
            return Ok(None);
        };
        if let Some(last) = self.last_sent_ns {
            let wait = if self.answered { hold.renew_ns } else { hold.deadline_ns };
            if now_ns < last + wait {
                return Ok(None);
            }
        }
        if ended(page, hold.epoch) {
            return Err(Withheld::Ended);
        }
        let Some(evidence_age_ns) = evidence_age(&hold, now_ns, page) else {
            return Err(Withheld::NoEvidence);
        };
        self.numbers = self.numbers.wrapping_add(1);
        self.last_sent_ns = Some(now_ns);
        self.answered = false;
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Sent { number: self.numbers, sent_ns: now_ns });
        Ok(Some(Renewal {
            epoch: hold.epoch,
            incarnation: hold.incarnation,
            number: self.numbers,
            evidence_age_ns,
            pause_revision: page.pause_revision,
            paused: page.paused,
            policy_revision: page.policy_revision,
        }))
    }

    /// Take a positive answer to renewal `number` that names the lease's length.
    ///
    /// What comes after the release of its epoch is thrown away.
    pub fn granted(
        &mut self,
        epoch: i64,
        number: u64,
        lease_ns: i64,
        page: &PageWords,
    ) -> Outcome {
        let Some(hold) = self.hold else {
            return Outcome::Ignored;
        };
        if hold.epoch != epoch || ended(page, epoch) {
            return Outcome::Ignored;
        }
        let Some(position) = self.outstanding.iter().position(|s| s.number == number)
        else {
            return Outcome::Ignored;
        };
        let sent = self.outstanding[position];
        self.outstanding.drain(..=position);
        if Some(sent.sent_ns) == self.last_sent_ns {
            self.answered = true;
        }
        let expiry_ns = sent.sent_ns + lease_ns;
        if expiry_ns <= self.expiry_ns {
            return Outcome::Ignored;
        }
        self.expiry_ns = expiry_ns;
        Outcome::Until { epoch, expiry_ns }
    }
}

fn ended(page: &PageWords, epoch: i64) -> bool {
    page.released_epoch >= epoch || page.ended_epoch >= epoch
}

/// PostgreSQL and its disk answered, or the guard's word that it is busy
/// with a start. `None`: neither holds.
fn evidence_age(hold: &Hold, now_ns: i64, page: &PageWords) -> Option<i64> {
    let age_ns = (now_ns - page.evidence_ns).max(0);
    if page.evidence_ns > 0 && age_ns <= hold.evidence_max_ns {
        return Some(age_ns);
    }
    let asked_for_ns = (now_ns - page.asked_ns).max(0);
    (page.asked_ns > 0 && asked_for_ns <= hold.asked_max_ns).then_some(asked_for_ns)
}
