//! The connections to all other members.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::channel::Tls;
use crate::link::{Link, Notice, Route};
use crate::members::Members;
use crate::wire::{Class, Packet};

const CLASSES: [Class; 3] = [Class::Raft, Class::Talk, Class::Snapshot];

/// Called from a link's thread with the member and the class.
pub type Tell = Arc<dyn Fn(u64, Class, Notice) + Send + Sync>;

/// Dials whom the membership names, and answers to whom it does not name yet.
pub struct Peers {
    cluster: Arc<Vec<u8>>,
    secret: Arc<Vec<u8>>,
    member: u64,
    listens: SocketAddr,
    tls: Tls,
    tell: Tell,
    /// Named when this node joined, or by themselves; the log's word wins.
    hearsay: BTreeMap<u64, String>,
    members: Members,
    links: BTreeMap<(u64, Class), Link>,
}

impl Peers {
    pub fn new(
        (cluster, member): (Vec<u8>, u64),
        (secret, tls): (Arc<Vec<u8>>, Tls),
        listens: SocketAddr,
        hearsay: BTreeMap<u64, String>,
        tell: Tell,
    ) -> Peers {
        let mut peers = Peers {
            cluster: Arc::new(cluster),
            secret,
            member,
            listens,
            tls,
            tell,
            hearsay,
            members: Members::default(),
            links: BTreeMap::new(),
        };
        peers.dial();
        peers
    }

    /// Follow the membership.
    pub fn follow(&mut self, members: Members) {
        self.members = members;
        self.dial();
    }

    /// A member says where it listens: of use until the log says so. It is there, so
    /// whoever waits before the next call to it calls now.
    pub fn introduced(&mut self, member: u64, address: String) {
        for class in CLASSES {
            if let Some(link) = self.links.get(&(member, class)) {
                link.call_now();
            }
        }
        let known = self.members.addresses.contains_key(&member);
        if !known && self.hearsay.get(&member) != Some(&address) {
            self.hearsay.insert(member, address);
            self.dial();
        }
    }

    /// Ids that have an address, and are not this node.
    pub fn ids(&self) -> BTreeSet<u64> {
        self.wanted().into_keys().collect()
    }

    pub fn send(&self, to: u64, class: Class, frame: Vec<u8>) -> bool {
        self.links.get(&(to, class)).is_some_and(|link| link.push(frame))
    }

    fn wanted(&self) -> BTreeMap<u64, String> {
        let mut wanted = self.hearsay.clone();
        wanted.extend(self.members.addresses.clone());
        wanted.retain(|id, _| *id != self.member && !self.members.removed.contains(id));
        if self.members.removed.contains(&self.member) {
            wanted.clear();
        }
        wanted
    }

    fn dial(&mut self) {
        let wanted = self.wanted();
        self.links.retain(|(id, _), link| {
            wanted.get(id).is_some_and(|address| address == link.address())
        });
        for (id, address) in wanted {
            for class in CLASSES {
                if self.links.contains_key(&(id, class)) {
                    continue;
                }
                let tell = Arc::clone(&self.tell);
                let route = self.route(id, class, &address);
                // Without a thread now, the next change of members tries again.
                if let Ok(link) = Link::start(route, move |notice| tell(id, class, notice))
                {
                    self.links.insert((id, class), link);
                }
            }
        }
    }

    fn route(&self, to: u64, class: Class, address: &str) -> Route {
        let own = self.members.addresses.get(&self.member);
        let listens = own.cloned().unwrap_or_else(|| self.listens.to_string());
        let greeting =
            (class == Class::Raft).then(|| Packet::Introduce { address: listens }.encode());
        Route {
            class,
            secret: Arc::clone(&self.secret),
            cluster: Arc::clone(&self.cluster),
            from: self.member,
            to,
            address: address.to_owned(),
            source: Some(self.listens),
            tls: self.tls.clone(),
            greeting,
        }
    }
}
