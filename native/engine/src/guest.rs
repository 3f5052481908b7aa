//! One question of a node that is no member, and its answer.

use std::io;
use std::time::Duration;

use crate::bytes::{Malformed, Put, Take};
use crate::channel::Tls;
use crate::handshake::SPOKEN;
use crate::net::{read_frame, write_frame, Call, CallError};
use crate::wire::{Class, GUEST_MAX};

/// A guest's question as a frame.
pub fn encode_question(kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 8);
    out.put_u32(kind);
    out.put_blob(payload);
    out
}

pub fn decode_question(frame: &[u8]) -> Result<(u32, Vec<u8>), Malformed> {
    let mut take = Take(frame);
    let (kind, payload) = (take.u32()?, take.blob()?.to_vec());
    take.end()?;
    Ok((kind, payload))
}

/// Ask the node at `address`, and wait so long for its answer.
pub fn ask(
    address: &str,
    secret: &[u8],
    kind: u32,
    payload: &[u8],
    wait: Duration,
    tls: &Tls,
) -> Result<Vec<u8>, CallError> {
    if payload.len() > GUEST_MAX {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "the question is too long");
        return Err(error.into());
    }
    let call =
        Call { class: Class::Guest, secret, cluster: None, from: 0, to: 0, spoken: SPOKEN };
    let (mut stream, mut keys) = call.open(address, None, tls)?;
    write_frame(&mut stream, &mut keys.from_caller, &encode_question(kind, payload))?;
    stream.set_read_timeout(Some(wait))?;
    let most = Class::Guest.frame_max();
    Ok(read_frame(&mut stream, &mut keys.from_listener, most)?)
}
