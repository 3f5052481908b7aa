//! A member as the host holds it: commands go in, outcomes come out as events.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pgbastion_lease::Leased;

use crate::channel::Tls;
use crate::core::CoreStatus;
use crate::desk::Desk;
use crate::disk::check_room;
use crate::driver::{Driver, NodeSettings};
use crate::event::Event;
use crate::handshake::fresh_number;
use crate::home::{Home, Identity, CLUSTER_ID_MAX};
use crate::listener::{Doorplate, Listener};
use crate::loud;
use crate::page::Page;
use crate::records::{founding, joining};
use crate::shared::{Command, Shared};

/// A member, or a node that may become one.
pub struct Node {
    shared: Arc<Shared>,
    pub address: SocketAddr,
    pub lock_ns: i64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// Take the directory, open the log, listen, and run Raft if there is an identity.
    pub fn start(settings: NodeSettings, tls: Tls) -> Result<Node, String> {
        if settings.heartbeat_ticks == 0
            || settings.election_ticks <= settings.heartbeat_ticks
        {
            return Err("election_ticks must be more than heartbeat_ticks".into());
        }
        if settings.tick_ms == 0 || settings.secret.is_empty() {
            return Err("tick_ms and secret must not be empty".into());
        }
        let home = Home::lock(&settings.dir)?;
        let lock_ns = home.lock_ns;
        let member = home.open()?;
        if member.is_none() {
            // Else a cluster would let it in, and lose it, at each of its starts.
            check_room(&settings.dir)?;
        }
        let page = match settings.page_path.as_str() {
            "" => None,
            path => Some(Page::open(path, settings.generation)?),
        };
        let shared = Arc::new(Shared::default());
        shared.tokens.store(fresh_number(), Ordering::Relaxed);
        let doorplate = Arc::new(Mutex::new(Doorplate::default()));
        let secret = Arc::new(settings.secret.clone());
        let desk = Desk::new(Arc::clone(&shared));
        let listener = Listener::start(
            &settings.listen,
            Arc::clone(&secret),
            tls.clone(),
            Arc::clone(&doorplate),
            desk,
        )
        .map_err(|e| format!("cannot listen on {}: {e}", settings.listen))?;
        let address = listener.address;
        let ours = Arc::clone(&shared);
        let mut driver =
            Driver::new(settings, home, page, ours, doorplate, listener, (secret, tls));
        if let Some((identity, log, recovered, cut)) = member {
            if let Some(cut) = cut {
                driver.log_was_cut(&cut);
            }
            driver.become_member(identity, log, recovered)?;
        }
        let thread = loud::spawn("raft", move || driver.run())
            .map_err(|e| format!("cannot start the Raft thread: {e}"))?;
        Ok(Node { shared, address, lock_ns, thread: Mutex::new(Some(thread)) })
    }

    pub fn identity(&self) -> Option<(Vec<u8>, u64)> {
        self.shared.identity.lock().expect("no holder panics").clone()
    }

    /// Found a cluster of one.
    pub fn form(&self, cluster: &[u8], member: u64, address: &str) -> Result<(), String> {
        let records = founding(&[(member, address.to_owned())]);
        self.settle(cluster, member, Vec::new(), records)
    }

    /// Become the member that a cluster has admitted; `peers` are its others.
    pub fn join(
        &self,
        cluster: &[u8],
        member: u64,
        peers: Vec<(u64, String)>,
    ) -> Result<(), String> {
        self.settle(cluster, member, peers, joining())
    }

    fn settle(
        &self,
        cluster: &[u8],
        member: u64,
        peers: Vec<(u64, String)>,
        records: Vec<u8>,
    ) -> Result<(), String> {
        if cluster.is_empty() || cluster.len() > CLUSTER_ID_MAX || member == 0 {
            return Err(format!(
                "a cluster id has 1 to {CLUSTER_ID_MAX} bytes, ids start at 1"
            ));
        }
        let identity = Identity { cluster: cluster.to_vec(), member, peers };
        let (reply, answer) = sync_channel(1);
        self.shared.inbox.command(Command::Settle { identity, records, reply });
        answer.recv().map_err(|_| "the engine was stopped".to_owned())?
    }

    /// Put a command into the inbox; return the token of its outcome.
    pub fn ask(&self, command: impl FnOnce(u64) -> Command) -> u64 {
        let token = self.shared.tokens.fetch_add(1, Ordering::Relaxed);
        self.shared.inbox.command(command(token));
        token
    }

    pub fn tell(&self, command: Command) {
        self.shared.inbox.command(command);
    }

    /// The host's state has everything up to `index`.
    pub fn applied(&self, index: u64) {
        self.shared.host_applied.fetch_max(index, Ordering::AcqRel);
        self.shared.inbox.command(Command::Applied { index });
    }

    /// Set whose renewals are answered, at once; return the last answer's instant.
    pub fn lease(&self, leased: Option<Leased>) -> i64 {
        let granter = self.shared.granter.lock().expect("no holder panics");
        granter
            .as_ref()
            .map_or(0, |granter| granter.lock().expect("no holder panics").lease(leased))
    }

    pub fn status(&self) -> Option<CoreStatus> {
        let mut status = self.shared.status.lock().expect("no holder panics").clone()?;
        let granter = self.shared.granter.lock().expect("no holder panics");
        // The host may look before the thread has heard of its last word.
        let applied = self.shared.host_applied.load(Ordering::Acquire);
        status.applied = status.applied.max(applied.min(status.committed));
        if let Some(granter) = granter.as_ref() {
            status.last_answer_ns =
                granter.lock().expect("no holder panics").last_answer_ns();
        }
        Some(status)
    }

    pub fn events(&self, wait: Duration, most: usize) -> Vec<Event> {
        self.shared.outbox.take(wait, most)
    }

    /// End the threads, close the sockets, give the directory back.
    pub fn stop(&self) {
        self.shared.inbox.command(Command::Stop);
        if let Some(thread) = self.thread.lock().expect("no holder panics").take() {
            // A panic in it has ended the process already.
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
