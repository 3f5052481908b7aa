//! Events and status as tuples and dictionaries.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pyo3::IntoPyObjectExt;

use crate::core::CoreStatus;
use crate::event::{Event, Payload};
use crate::members::Members;

fn bytes<'py>(py: Python<'py>, value: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, value)
}

fn payload(py: Python<'_>, payload: Payload) -> PyResult<Py<PyAny>> {
    match payload {
        Payload::Nothing => Ok(py.None()),
        Payload::Index(index) => (index,).into_py_any(py),
        Payload::Read { index, sent_ns } => (index, sent_ns).into_py_any(py),
        Payload::Bytes(value) => bytes(py, &value).into_py_any(py),
        Payload::Reason(reason) => reason.into_py_any(py),
        Payload::Ages(ages) => ages
            .iter()
            .map(|age| (age.member, age.term, age.age_ns, age.receipt_ns))
            .collect::<Vec<_>>()
            .into_py_any(py),
    }
}

fn members<'py>(
    py: Python<'py>,
    index: u64,
    members: Members,
) -> PyResult<Bound<'py, PyTuple>> {
    let Members { voters, learners, addresses, .. } = members;
    ("members", index, voters, learners, addresses).into_pyobject(py)
}

/// Return an event as a tuple whose first item is its name.
pub fn event(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyTuple>> {
    match event {
        Event::Committed { index, term, id, data } => {
            ("committed", index, term, bytes(py, &id), bytes(py, &data)).into_pyobject(py)
        }
        Event::Members { index, members: after } => members(py, index, after),
        Event::Snapshot { index, data } => {
            ("snapshot", index, bytes(py, &data)).into_pyobject(py)
        }
        Event::BaseWanted => ("base_wanted",).into_pyobject(py),
        Event::Leader { term, leader } => ("leader", term, leader).into_pyobject(py),
        Event::Done { token, status, payload: with } => {
            ("done", token, status.word(), payload(py, with)?).into_pyobject(py)
        }
        Event::Request { id, from, kind, payload } => {
            ("request", id, from, kind, bytes(py, &payload)).into_pyobject(py)
        }
        Event::Granted { epoch, expiry_ns } => {
            ("granted", epoch, expiry_ns).into_pyobject(py)
        }
        Event::Denied { epoch, reason } => ("denied", epoch, reason).into_pyobject(py),
        Event::Log { level, event, fields } => {
            let said = PyDict::new(py);
            for (name, value) in fields {
                said.set_item(name, value)?;
            }
            ("log", level.word(), event, said).into_pyobject(py)
        }
    }
}

/// Return the status as a dictionary; `None`: this node is no member.
pub fn status(
    py: Python<'_>,
    status: Option<CoreStatus>,
    now_ns: i64,
    lock_ns: i64,
) -> PyResult<Bound<'_, PyDict>> {
    let said = PyDict::new(py);
    let Some(status) = status else {
        return nobody(said, lock_ns);
    };
    said.set_item("member_id", status.member)?;
    said.set_item("address", status.address)?;
    said.set_item("role", status.role)?;
    said.set_item("term", status.term)?;
    said.set_item("leader", status.leader)?;
    said.set_item("committed", status.committed)?;
    said.set_item("applied", status.applied)?;
    said.set_item("last_index", status.last_index)?;
    said.set_item("voters", status.voters)?;
    said.set_item("learners", status.learners)?;
    said.set_item("configurations", status.configurations)?;
    let own_entry_applied = status.own_index.is_some_and(|index| status.applied >= index);
    said.set_item("own_entry_applied", own_entry_applied)?;
    said.set_item("lock_ns", status.lock_ns)?;
    said.set_item("elected_ns", status.elected_ns)?;
    said.set_item("last_answer_ns", status.last_answer_ns)?;
    said.set_item("pending_change", status.pending_change)?;
    let writing_ms =
        status.writing_since_ns.map_or(0, |since| (now_ns - since) / 1_000_000);
    said.set_item("writing_ms", writing_ms.max(0))?;
    let peers = PyDict::new(py);
    for (id, peer) in status.peers {
        let one = PyDict::new(py);
        one.set_item("address", peer.address)?;
        one.set_item("matched", peer.matched)?;
        let heard = peer.heard_ns > 0;
        let recent_ms = heard.then(|| (now_ns - peer.heard_ns).max(0) / 1_000_000);
        one.set_item("recent_ms", recent_ms)?;
        peers.set_item(id, one)?;
    }
    said.set_item("peers", peers)?;
    Ok(said)
}

fn nobody(said: Bound<'_, PyDict>, lock_ns: i64) -> PyResult<Bound<'_, PyDict>> {
    let none: Vec<u64> = Vec::new();
    said.set_item("address", "")?;
    said.set_item("role", "none")?;
    for name in [
        "member_id",
        "term",
        "leader",
        "committed",
        "applied",
        "last_index",
        "elected_ns",
        "last_answer_ns",
        "writing_ms",
    ] {
        said.set_item(name, 0)?;
    }
    for name in ["voters", "learners", "configurations"] {
        said.set_item(name, none.clone())?;
    }
    said.set_item("own_entry_applied", false)?;
    said.set_item("pending_change", false)?;
    said.set_item("lock_ns", lock_ns)?;
    said.set_item("peers", PyDict::new(said.py()))?;
    Ok(said)
}
