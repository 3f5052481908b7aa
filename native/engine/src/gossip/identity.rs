//! Who gossips: an address, and what its node says of itself.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};

use crate::bytes::{Malformed, Put, Take};

/// Grows when a field is added; older nodes read what they know and leave the rest.
const FACTS_VERSION: u8 = 1;
/// Longest text of one fact, in bytes.
pub const FACT_MAX: usize = 128;
/// What a refused identity is set ahead by, in milliseconds: the refusing side knows a
/// later one of the same address, of a time when this node's clock was ahead.
const AHEAD_MS: u64 = 1 << 36;

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub name: String,
    /// Empty: it is no member yet.
    pub cluster_id: String,
    pub raft_address: String,
    pub api_url: String,
    pub version: String,
}

impl Facts {
    /// Return the facts for the wire.
    ///
    /// Fails on a text that is too long.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let mut out = vec![FACTS_VERSION];
        for fact in
            [&self.name, &self.cluster_id, &self.raft_address, &self.api_url, &self.version]
        {
            if fact.len() > FACT_MAX {
                return Err(format!("{fact}: longer than {FACT_MAX} bytes"));
            }
            out.put_blob(fact.as_bytes());
        }
        Ok(out)
    }

    /// Read the facts of this version or of a later one.
    pub fn decode(bytes: &[u8]) -> Result<Facts, Malformed> {
        let mut take = Take(bytes);
        if take.u8()? < FACTS_VERSION {
            return Err(Malformed);
        }
        let mut fact = || {
            let text = take.text()?;
            if text.len() > FACT_MAX {
                return Err(Malformed);
            }
            Ok(text)
        };
        Ok(Facts {
            name: fact()?,
            cluster_id: fact()?,
            raft_address: fact()?,
            api_url: fact()?,
            version: fact()?,
        })
    }
}

/// A node as gossip knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gossiper {
    pub address: SocketAddr,
    /// Of two with one address the later is the node.
    pub incarnation: u64,
    pub facts: Vec<u8>,
}

impl Gossiper {
    /// Whoever is at this address.
    pub fn at(address: SocketAddr) -> Gossiper {
        Gossiper { address, incarnation: 0, facts: Vec::new() }
    }
}

impl Identity for Gossiper {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Gossiper> {
        let incarnation = self.incarnation.saturating_add(AHEAD_MS);
        Some(Gossiper { incarnation, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Gossiper) -> bool {
        self.incarnation > adversary.incarnation
    }
}
