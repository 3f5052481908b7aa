//! `Core` and `Storage`: the engine without thread, file and socket, for a simulation.

use pgbastion_lease::python::page_words;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::node::{change_of, hold_of, leased_of};
use super::{events, EngineError};
use crate::core::{mix, Core as Inner, Output, Settings};
use crate::event::Event;
use crate::records::{founding, joining, Recovered};
use crate::wire::Packet;

/// A log in memory that has what was appended, and nothing else.
#[pyclass(skip_from_py_object, module = "pgbastion.consensus._engine")]
#[derive(Clone)]
pub struct Storage {
    writes: Vec<Vec<u8>>,
}

#[pymethods]
impl Storage {
    /// The log of a member that joins, or of each first voter of a cluster.
    #[new]
    #[pyo3(signature = (voters = Vec::new()))]
    fn new(voters: Vec<(u64, String)>) -> Self {
        let first = if voters.is_empty() { joining() } else { founding(&voters) };
        Self { writes: vec![first] }
    }

    /// These records are on disk from now on.
    fn append(&mut self, records: Vec<u8>) {
        self.writes.push(records);
    }

    /// What a restart finds.
    fn crash(&self) -> Self {
        self.clone()
    }
}

impl Storage {
    fn recover(&self) -> PyResult<Recovered> {
        let mut recovered = Recovered::default();
        for records in &self.writes {
            recovered
                .read(records)
                .map_err(|_| PyValueError::new_err("senseless records"))?;
        }
        Ok(recovered)
    }
}

#[pyclass(module = "pgbastion.consensus._engine")]
pub struct Core {
    inner: Inner,
    tokens: u64,
}

impl Core {
    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }
}

fn after_ms(now_ns: i64, timeout_ms: i64) -> i64 {
    now_ns + timeout_ms * 1_000_000
}

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (*, member_id, heartbeat_ticks, election_ticks, tick_ms, seed,
                        lock_ns, storage))]
    fn new(
        member_id: u64,
        heartbeat_ticks: usize,
        election_ticks: usize,
        tick_ms: u64,
        seed: u64,
        lock_ns: i64,
        storage: &Storage,
    ) -> PyResult<Self> {
        let settings = Settings {
            member: member_id,
            tick_ms,
            heartbeat_ticks,
            election_ticks,
            seed,
            nonce: mix(seed ^ mix(lock_ns as u64)),
            lock_ns,
        };
        let inner = Inner::new(settings, storage.recover()?)
            .map_err(|e| EngineError::new_err(e.to_string()))?;
        Ok(Self { inner, tokens: 0 })
    }

    fn tick(&mut self, now_ns: i64) {
        self.inner.tick(now_ns);
    }

    fn receive(&mut self, from_member: u64, frame: &[u8], now_ns: i64) -> PyResult<()> {
        let packet =
            Packet::decode(frame).map_err(|_| PyValueError::new_err("senseless frame"))?;
        self.inner.receive(from_member, packet, now_ns);
        Ok(())
    }

    fn persisted(&mut self, token: u64, now_ns: i64) {
        self.inner.persisted(token, now_ns);
    }

    /// Words that are not named are 0.
    fn set_page(&mut self, words: &Bound<'_, PyDict>) -> PyResult<()> {
        self.inner.set_page(page_words(words)?);
        Ok(())
    }

    fn propose(&mut self, data: Vec<u8>, timeout_ms: i64, now_ns: i64) -> u64 {
        let token = self.token();
        self.inner.propose(token, data, after_ms(now_ns, timeout_ms), now_ns);
        token
    }

    fn read_index(&mut self, timeout_ms: i64, now_ns: i64) -> u64 {
        let token = self.token();
        self.inner.read_index(token, after_ms(now_ns, timeout_ms), now_ns);
        token
    }

    fn change(
        &mut self,
        op: &str,
        member_id: u64,
        address: &str,
        timeout_ms: i64,
        now_ns: i64,
    ) -> PyResult<u64> {
        let (change, token) = (change_of(op)?, self.token());
        let deadline_ns = after_ms(now_ns, timeout_ms);
        self.inner.change(token, change, (member_id, address), deadline_ns, now_ns);
        Ok(token)
    }

    fn transfer(&mut self, member_id: u64, timeout_ms: i64, now_ns: i64) -> u64 {
        let token = self.token();
        self.inner.transfer(token, member_id, after_ms(now_ns, timeout_ms), now_ns);
        token
    }

    fn ages(&mut self, timeout_ms: i64, now_ns: i64) -> u64 {
        let token = self.token();
        self.inner.ages(token, after_ms(now_ns, timeout_ms), now_ns);
        token
    }

    fn applied(&mut self, index: u64, now_ns: i64) {
        self.inner.applied(index, now_ns);
    }

    fn lease(
        &mut self,
        member_id: u64,
        epoch: i64,
        incarnation: i64,
        lease_ms: i64,
        _now_ns: i64,
    ) -> PyResult<i64> {
        let leased = leased_of(member_id, epoch, incarnation, lease_ms)?;
        Ok(self.inner.granter().lock().expect("no holder panics").lease(leased))
    }

    #[pyo3(signature = (epoch, incarnation, *, renew_ms, deadline_ms, evidence_max_ms,
                        asked_max_ms, now_ns))]
    #[allow(clippy::too_many_arguments)]
    fn hold(
        &mut self,
        epoch: i64,
        incarnation: i64,
        renew_ms: i64,
        deadline_ms: i64,
        evidence_max_ms: i64,
        asked_max_ms: i64,
        now_ns: i64,
    ) {
        let hold = hold_of(
            (epoch, incarnation),
            (renew_ms, deadline_ms),
            (evidence_max_ms, asked_max_ms),
        );
        self.inner.hold(hold, now_ns);
    }

    fn pace(&mut self, tick_ms: u64, heartbeat_ticks: usize) {
        self.inner.pace(tick_ms, heartbeat_ticks);
    }

    fn compact(&mut self, index: u64, data: Vec<u8>, now_ns: i64) {
        self.inner.compact(index, data, now_ns);
    }

    fn unreachable(&mut self, member_id: u64, now_ns: i64) {
        self.inner.unreachable(member_id, now_ns);
    }

    fn snapshot_sent(&mut self, member_id: u64, arrived: bool, now_ns: i64) {
        self.inner.snapshot_sent(member_id, arrived, now_ns);
    }

    fn status<'py>(&self, py: Python<'py>, now_ns: i64) -> PyResult<Bound<'py, PyDict>> {
        let status = self.inner.status();
        let lock_ns = status.lock_ns;
        events::status(py, Some(status), now_ns, lock_ns)
    }

    /// Take what there is to do, in the order in which it has to be done.
    fn outputs<'py>(&mut self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let mut taken = Vec::new();
        for output in self.inner.outputs() {
            let tuple = match output {
                Output::Send { to, frame, .. } => {
                    ("send", to, PyBytes::new(py, &frame)).into_pyobject(py)?
                }
                Output::Persist { token, records } => {
                    ("persist", token, PyBytes::new(py, &records)).into_pyobject(py)?
                }
                Output::Expiry { epoch, expiry_ns } => {
                    taken.push(("expiry", epoch, expiry_ns).into_pyobject(py)?);
                    events::event(py, Event::Granted { epoch, expiry_ns })?
                }
                // The event of the same change follows it.
                Output::Peers(_) => continue,
                Output::Event(event) => events::event(py, event)?,
            };
            taken.push(tuple);
        }
        Ok(taken)
    }
}
