//! The messages between members, one a frame.

use pgbastion_lease::{Answer, Denial, Renewal};
use protobuf::Message as _;
use raft::eraftpb::{Message as RaftMessage, MessageType};

use crate::bytes::{Malformed, Put, Take};

/// Which connection a message takes, so that bulk never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Raft, renewals, ages.
    Raft,
    /// Requests, answers, broadcasts.
    Talk,
    /// A whole state for a member that is too far behind.
    Snapshot,
    /// One question of a node that is no member.
    Guest,
}

impl Class {
    pub fn number(self) -> u8 {
        match self {
            Class::Raft => 1,
            Class::Talk => 2,
            Class::Snapshot => 3,
            Class::Guest => 4,
        }
    }

    pub fn of(number: u8) -> Option<Class> {
        [Class::Raft, Class::Talk, Class::Snapshot, Class::Guest]
            .into_iter()
            .find(|class| class.number() == number)
    }

    /// The longest frame, in bytes.
    pub fn frame_max(self) -> usize {
        match self {
            Class::Raft => 2 << 20,
            Class::Talk => 1 << 20,
            Class::Snapshot => 64 << 20,
            Class::Guest => GUEST_MAX + 64,
        }
    }
}

/// Longest question or answer of a guest, in bytes.
pub const GUEST_MAX: usize = 64 << 10;
/// Longest question, answer or broadcast between members, in bytes.
pub const TALK_MAX: usize = (1 << 20) - 64;

/// What one member says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    Raft(Box<RaftMessage>),
    Renewal(Renewal),
    Answer {
        epoch: i64,
        number: u64,
        answer: Answer,
    },
    /// How long ago did you confirm a leader of a term before this one?
    AskAge {
        term: u64,
        number: u64,
    },
    Age {
        term: u64,
        number: u64,
        age_ns: i64,
    },
    Request {
        number: u64,
        kind: u32,
        payload: Vec<u8>,
    },
    Reply {
        number: u64,
        payload: Vec<u8>,
    },
    Broadcast {
        kind: u32,
        payload: Vec<u8>,
    },
    /// First on every connection: where the sender listens.
    Introduce {
        address: String,
    },
}

const RAFT: u8 = 1;
const RENEWAL: u8 = 2;
const ANSWER: u8 = 3;
const ASK_AGE: u8 = 4;
const AGE: u8 = 5;
const REQUEST: u8 = 6;
const REPLY: u8 = 7;
const BROADCAST: u8 = 8;
const INTRODUCE: u8 = 9;

impl Packet {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Packet::Raft(message) => {
                out.put_u8(RAFT);
                let body =
                    message.write_to_bytes().expect("a message has no required field");
                out.extend_from_slice(&body);
            }
            Packet::Renewal(renewal) => put_renewal(&mut out, renewal),
            Packet::Answer { epoch, number, answer } => {
                put_answer(&mut out, *epoch, *number, answer);
            }
            Packet::AskAge { term, number } => {
                out.put_u8(ASK_AGE);
                out.put_u64(*term);
                out.put_u64(*number);
            }
            Packet::Age { term, number, age_ns } => {
                out.put_u8(AGE);
                out.put_u64(*term);
                out.put_u64(*number);
                out.put_i64(*age_ns);
            }
            Packet::Request { number, kind, payload } => {
                out.put_u8(REQUEST);
                out.put_u64(*number);
                out.put_u32(*kind);
                out.put_blob(payload);
            }
            Packet::Reply { number, payload } => {
                out.put_u8(REPLY);
                out.put_u64(*number);
                out.put_blob(payload);
            }
            Packet::Broadcast { kind, payload } => {
                out.put_u8(BROADCAST);
                out.put_u32(*kind);
                out.put_blob(payload);
            }
            Packet::Introduce { address } => {
                out.put_u8(INTRODUCE);
                out.put_blob(address.as_bytes());
            }
        }
        out
    }

    pub fn decode(frame: &[u8]) -> Result<Packet, Malformed> {
        let mut take = Take(frame);
        let packet = match take.u8()? {
            RAFT => {
                let message =
                    RaftMessage::parse_from_bytes(take.0).map_err(|_| Malformed)?;
                return Ok(Packet::Raft(Box::new(message)));
            }
            RENEWAL => Packet::Renewal(take_renewal(&mut take)?),
            ANSWER => take_answer(&mut take)?,
            ASK_AGE => Packet::AskAge { term: take.u64()?, number: take.u64()? },
            AGE => {
                Packet::Age { term: take.u64()?, number: take.u64()?, age_ns: take.i64()? }
            }
            REQUEST => Packet::Request {
                number: take.u64()?,
                kind: take.u32()?,
                payload: take.blob()?.to_vec(),
            },
            REPLY => Packet::Reply { number: take.u64()?, payload: take.blob()?.to_vec() },
            BROADCAST => {
                Packet::Broadcast { kind: take.u32()?, payload: take.blob()?.to_vec() }
            }
            INTRODUCE => Packet::Introduce { address: take.text()? },
            _ => return Err(Malformed),
        };
        take.end()?;
        Ok(packet)
    }

    /// The class whose connections carry it.
    pub fn class(&self) -> Class {
        match self {
            Packet::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                Class::Snapshot
            }
            Packet::Request { .. } | Packet::Reply { .. } | Packet::Broadcast { .. } => {
                Class::Talk
            }
            _ => Class::Raft,
        }
    }
}

fn put_renewal(out: &mut Vec<u8>, renewal: &Renewal) {
    out.put_u8(RENEWAL);
    out.put_i64(renewal.epoch);
    out.put_i64(renewal.incarnation);
    out.put_u64(renewal.number);
    out.put_i64(renewal.evidence_age_ns);
    out.put_i64(renewal.pause_revision);
    out.put_i64(renewal.paused);
    out.put_i64(renewal.policy_revision);
}

fn take_renewal(take: &mut Take) -> Result<Renewal, Malformed> {
    Ok(Renewal {
        epoch: take.i64()?,
        incarnation: take.i64()?,
        number: take.u64()?,
        evidence_age_ns: take.i64()?,
        pause_revision: take.i64()?,
        paused: take.i64()?,
        policy_revision: take.i64()?,
    })
}

fn put_answer(out: &mut Vec<u8>, epoch: i64, number: u64, answer: &Answer) {
    let (code, lease_ns) = match answer {
        Answer::Granted { lease_ns } => (0, *lease_ns),
        Answer::Denied(Denial::Closed) => (1, 0),
        Answer::Denied(Denial::NotHolder) => (2, 0),
        Answer::Denied(Denial::Incarnation) => (3, 0),
    };
    out.put_u8(ANSWER);
    out.put_i64(epoch);
    out.put_u64(number);
    out.put_u8(code);
    out.put_i64(lease_ns);
}

fn take_answer(take: &mut Take) -> Result<Packet, Malformed> {
    let (epoch, number) = (take.i64()?, take.u64()?);
    let (code, lease_ns) = (take.u8()?, take.i64()?);
    let answer = match code {
        0 if lease_ns > 0 => Answer::Granted { lease_ns },
        1 => Answer::Denied(Denial::Closed),
        2 => Answer::Denied(Denial::NotHolder),
        3 => Answer::Denied(Denial::Incarnation),
        _ => return Err(Malformed),
    };
    Ok(Packet::Answer { epoch, number, answer })
}
