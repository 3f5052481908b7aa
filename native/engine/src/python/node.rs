//! `Node`: a member with its thread, its files and its sockets.

use std::sync::Arc;
use std::time::Duration;

use pgbastion_lease::{Hold, Leased, NS_PER_MS};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::certificates::Credentials;
use super::{events, EngineError};
use crate::clock::boottime_ns;
use crate::clock::deadline_ns;
use crate::core::Change;
use crate::driver::NodeSettings;
use crate::node::Node as Inner;
use crate::shared::Command;

#[pyclass(frozen, module = "pgbastion.consensus._engine")]
pub struct Node {
    inner: Inner,
}

/// Read the word for a change of members.
pub(super) fn change_of(op: &str) -> PyResult<Change> {
    Change::of(op).ok_or_else(|| {
        PyValueError::new_err(format!("{op}: neither add_learner, promote nor remove"))
    })
}

/// Read whose renewals may be answered; member 0: nobody's.
pub(super) fn leased_of(
    member: u64,
    epoch: i64,
    incarnation: i64,
    lease_ms: i64,
) -> PyResult<Option<Leased>> {
    if member == 0 {
        return Ok(None);
    }
    if epoch <= 0 || lease_ms <= 0 {
        return Err(PyValueError::new_err("epoch and lease_ms must be positive"));
    }
    Ok(Some(Leased { member, epoch, incarnation, lease_ms }))
}

/// Read what to renew; epoch 0: nothing.
pub(super) fn hold_of(
    (epoch, incarnation): (i64, i64),
    (renew_ms, deadline_ms): (i64, i64),
    (evidence_max_ms, asked_max_ms): (i64, i64),
) -> Option<Hold> {
    (epoch > 0).then_some(Hold {
        epoch,
        incarnation,
        renew_ns: renew_ms * NS_PER_MS,
        deadline_ns: deadline_ms * NS_PER_MS,
        evidence_max_ns: evidence_max_ms * NS_PER_MS,
        asked_max_ns: asked_max_ms * NS_PER_MS,
    })
}

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (*, dir, listen, secret, tick_ms, heartbeat_ticks, election_ticks,
                        page_path, generation, seed = 0, credentials = None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        dir: &str,
        listen: &str,
        secret: &[u8],
        tick_ms: u64,
        heartbeat_ticks: usize,
        election_ticks: usize,
        page_path: &str,
        generation: i64,
        seed: u64,
        credentials: Option<&Credentials>,
    ) -> PyResult<Self> {
        let settings = NodeSettings {
            dir: dir.into(),
            listen: listen.into(),
            secret: secret.to_vec(),
            tick_ms,
            heartbeat_ticks,
            election_ticks,
            page_path: page_path.into(),
            generation,
            seed,
        };
        let tls = credentials.map(|credentials| Arc::clone(&credentials.held));
        let inner =
            py.detach(|| Inner::start(settings, tls)).map_err(EngineError::new_err)?;
        Ok(Self { inner })
    }

    fn identity(&self, py: Python<'_>) -> Option<(Py<PyBytes>, u64)> {
        let (cluster, member) = self.inner.identity()?;
        Some((PyBytes::new(py, &cluster).unbind(), member))
    }

    /// Where it listens, with the port that the system chose for 0.
    fn address(&self) -> String {
        self.inner.address.to_string()
    }

    fn form(
        &self,
        py: Python<'_>,
        cluster_id: &[u8],
        member_id: u64,
        address: &str,
    ) -> PyResult<()> {
        py.detach(|| self.inner.form(cluster_id, member_id, address))
            .map_err(EngineError::new_err)
    }

    fn join(
        &self,
        py: Python<'_>,
        cluster_id: &[u8],
        member_id: u64,
        peers: Vec<(u64, String)>,
    ) -> PyResult<()> {
        py.detach(|| self.inner.join(cluster_id, member_id, peers))
            .map_err(EngineError::new_err)
    }

    fn propose(&self, data: Vec<u8>, timeout_ms: u64) -> u64 {
        let deadline_ns = deadline_ns(timeout_ms);
        self.inner.ask(|token| Command::Propose { token, data, deadline_ns })
    }

    fn read_index(&self, timeout_ms: u64) -> u64 {
        let deadline_ns = deadline_ns(timeout_ms);
        self.inner.ask(|token| Command::ReadIndex { token, deadline_ns })
    }

    fn change(
        &self,
        op: &str,
        member_id: u64,
        address: &str,
        timeout_ms: u64,
    ) -> PyResult<u64> {
        let (change, address) = (change_of(op)?, address.to_owned());
        let (member, deadline_ns) = (member_id, deadline_ns(timeout_ms));
        Ok(self.inner.ask(|token| Command::Change {
            token,
            change,
            member,
            address,
            deadline_ns,
        }))
    }

    fn transfer(&self, member_id: u64, timeout_ms: u64) -> u64 {
        let (member, deadline_ns) = (member_id, deadline_ns(timeout_ms));
        self.inner.ask(|token| Command::Transfer { token, member, deadline_ns })
    }

    fn request(&self, member_id: u64, kind: u32, payload: Vec<u8>, timeout_ms: u64) -> u64 {
        let (member, deadline_ns) = (member_id, deadline_ns(timeout_ms));
        self.inner.ask(|token| Command::Request {
            token,
            member,
            kind,
            payload,
            deadline_ns,
        })
    }

    fn broadcast(&self, kind: u32, payload: Vec<u8>) {
        self.inner.tell(Command::Broadcast { kind, payload });
    }

    fn answer(&self, request_id: u64, payload: Vec<u8>) {
        self.inner.tell(Command::Answer { id: request_id, payload });
    }

    fn ages(&self, timeout_ms: u64) -> u64 {
        let deadline_ns = deadline_ns(timeout_ms);
        self.inner.ask(|token| Command::Ages { token, deadline_ns })
    }

    fn applied(&self, index: u64) {
        self.inner.applied(index);
    }

    /// It takes effect before it returns.
    fn lease(
        &self,
        py: Python<'_>,
        member_id: u64,
        epoch: i64,
        incarnation: i64,
        lease_ms: i64,
    ) -> PyResult<i64> {
        let leased = leased_of(member_id, epoch, incarnation, lease_ms)?;
        Ok(py.detach(|| self.inner.lease(leased)))
    }

    #[pyo3(signature = (epoch, incarnation, *, renew_ms, deadline_ms, evidence_max_ms,
                        asked_max_ms))]
    fn hold(
        &self,
        epoch: i64,
        incarnation: i64,
        renew_ms: i64,
        deadline_ms: i64,
        evidence_max_ms: i64,
        asked_max_ms: i64,
    ) {
        let hold = hold_of(
            (epoch, incarnation),
            (renew_ms, deadline_ms),
            (evidence_max_ms, asked_max_ms),
        );
        self.inner.tell(Command::Hold { hold });
    }

    fn pace(&self, tick_ms: u64, heartbeat_ticks: usize) -> PyResult<()> {
        if tick_ms == 0 || heartbeat_ticks == 0 {
            return Err(PyValueError::new_err("neither a tick nor a heartbeat is 0"));
        }
        self.inner.tell(Command::Pace { tick_ms, heartbeat_ticks });
        Ok(())
    }

    /// The host lives, and says so again within so long: who has one that does not
    /// leads nobody.
    fn lives(&self, within_ms: u64) {
        self.inner.tell(Command::Lives { within_ms });
    }

    fn compact(&self, index: u64, data: Vec<u8>) {
        self.inner.tell(Command::Compact { index, data });
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let status = py.detach(|| self.inner.status());
        let said = events::status(py, status, boottime_ns(), self.inner.lock_ns)?;
        let cluster = self.inner.identity().map(|(cluster, _)| PyBytes::new(py, &cluster));
        said.set_item("cluster_id", cluster)?;
        Ok(said)
    }

    fn events<'py>(
        &self,
        py: Python<'py>,
        timeout_ms: u64,
        most: usize,
    ) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let wait = Duration::from_millis(timeout_ms);
        let taken = py.detach(|| self.inner.events(wait, most));
        taken.into_iter().map(|event| events::event(py, event)).collect()
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.inner.stop());
    }
}
