//! The directory of a member: exclusive lock, identity, log.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bytes::{Malformed, Put, Take};
use crate::clock::boottime_ns;
use crate::disk::{has_log, Cut, DiskLog};
use crate::records::Recovered;
use crate::room::sync_dir;

const MAGIC: &[u8; 8] = b"pgbid\0\0\x01";
const IDENTITY: &str = "identity";
const DRAFT: &str = "identity.tmp";
/// Longest id of a cluster, in bytes.
pub const CLUSTER_ID_MAX: usize = 64;

/// Who this member is. It is drafted before the log, and gets its name after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: Vec<u8>,
    pub member: u64,
    /// Members to dial before the log has told of them.
    pub peers: Vec<(u64, String)>,
}

impl Identity {
    /// The addresses of members that it knows, before the log has told of them.
    pub fn addresses(&self) -> BTreeMap<u64, String> {
        self.peers.iter().cloned().collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.put_u64(self.member);
        out.put_blob(&self.cluster);
        out.put_u32(self.peers.len() as u32);
        for (id, address) in &self.peers {
            out.put_u64(*id);
            out.put_blob(address.as_bytes());
        }
        out.put_u32(crc32fast::hash(&out));
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Identity, Malformed> {
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
        let mut take = Take(body);
        let magic = take.array::<8>()?;
        if magic != *MAGIC || crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(Malformed);
        }
        let (member, cluster) = (take.u64()?, take.blob()?.to_vec());
        let count = take.u32()?;
        let peers = (0..count)
            .map(|_| Ok((take.u64()?, take.text()?)))
            .collect::<Result<_, Malformed>>()?;
        take.end()?;
        Ok(Identity { cluster, member, peers })
    }

    /// Read who the member of this directory is; `None`: nobody yet.
    ///
    /// A crash may have come between the log and the identity's name: then the draft
    /// counts. A log without either is somebody's, and nobody may write over it.
    pub fn read(dir: &Path) -> Result<Option<Identity>, String> {
        if let Some(identity) = Identity::read_file(&dir.join(IDENTITY))? {
            return Ok(Some(identity));
        }
        if !dir.exists() || !has_log(dir)? {
            return Ok(None);
        }
        match Identity::read_file(&dir.join(DRAFT))? {
            Some(identity) => Ok(Some(identity)),
            None => Err(format!("{}: there is a log, but no {IDENTITY}", dir.display())),
        }
    }

    fn read_file(path: &Path) -> Result<Option<Identity>, String> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("{}: cannot read: {e}", path.display())),
        };
        Identity::decode(&bytes)
            .map(Some)
            .map_err(|_| format!("{}: damaged, or of another version", path.display()))
    }

    fn draft(&self, dir: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(dir.join(DRAFT))?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        sync_dir(dir)
    }

    fn publish(dir: &Path) -> io::Result<()> {
        fs::rename(dir.join(DRAFT), dir.join(IDENTITY))?;
        sync_dir(dir)
    }
}

/// A locked directory.
pub struct Home {
    dir: PathBuf,
    /// When the exclusive lock was taken: no other process of this member has spoken
    /// since.
    pub lock_ns: i64,
    /// Given back when its last holder has ended.
    pub lock: Arc<File>,
}

impl Home {
    /// Take the directory, made first if it is absent, for this process alone.
    pub fn lock(dir: &Path) -> Result<Home, String> {
        let name = dir.display();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| format!("{name}: cannot make the directory of the log: {e}"))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // So that the name survives a power cut. A parent that this user may not read
            // is one that an administrator has made.
            let _ = sync_dir(parent);
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(|e| format!("{name}: cannot open the lock: {e}"))?;
        // SAFETY: the descriptor is open for as long as `lock` lives.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Err(format!(
                    "{name}: another process is using this Raft directory"
                ));
            }
            return Err(format!("{name}: cannot lock: {error}"));
        }
        Ok(Home { dir: dir.into(), lock_ns: boottime_ns(), lock: Arc::new(lock) })
    }

    /// Who the member is, and its log; `None`: nobody yet.
    #[allow(clippy::type_complexity)]
    pub fn open(
        &self,
    ) -> Result<Option<(Identity, DiskLog, Recovered, Option<Cut>)>, String> {
        let Some(identity) = Identity::read(&self.dir)? else {
            return Ok(None);
        };
        if !self.dir.join(IDENTITY).exists() {
            Identity::publish(&self.dir).map_err(|e| self.cannot_write(&e))?;
        }
        let (log, recovered, cut) = DiskLog::open(&self.dir)?;
        Ok(Some((identity, log, recovered, cut)))
    }

    /// Become a member with this first log.
    pub fn settle(
        &self,
        identity: &Identity,
        records: &[u8],
    ) -> Result<(DiskLog, Recovered), String> {
        if has_log(&self.dir)? {
            return Err(format!("{}: there is a log already", self.dir.display()));
        }
        identity.draft(&self.dir).map_err(|e| self.cannot_write(&e))?;
        let log = DiskLog::create(&self.dir, records)?;
        let mut recovered = Recovered::default();
        recovered.read(records).expect("records of our own making follow the format");
        Identity::publish(&self.dir).map_err(|e| self.cannot_write(&e))?;
        Ok((log, recovered))
    }

    /// Begin again from these records, which stand alone, as another member.
    ///
    /// The log first: a crash in between leaves the old identity with a membership that
    /// it does not belong to, which can neither vote nor lead, and can begin again.
    pub fn begin_again(&self, identity: &Identity, records: &[u8]) -> Result<(), String> {
        if !has_log(&self.dir)? {
            return self.settle(identity, records).map(drop);
        }
        let (mut log, _, _) = DiskLog::open(&self.dir)?;
        log.append(records)
            .map_err(|e| format!("{}: cannot write the log: {e}", self.dir.display()))?;
        let written = identity.draft(&self.dir).and_then(|()| Identity::publish(&self.dir));
        written.map_err(|e| self.cannot_write(&e))
    }

    fn cannot_write(&self, error: &io::Error) -> String {
        format!("{}: cannot write the identity: {error}", self.dir.display())
    }
}
