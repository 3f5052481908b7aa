//! The directory of a member that does not run.

use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use raft::eraftpb::EntryType;

use super::EngineError;
use crate::offline::{begin, look, Beginning};

/// Read a Raft directory and check all of it; `None`: nobody has been there.
#[pyfunction]
pub fn read_log<'py>(py: Python<'py>, dir: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let found = py.detach(|| look(Path::new(dir))).map_err(EngineError::new_err)?;
    let Some(found) = found else { return Ok(None) };
    let said = PyDict::new(py);
    let members = found.members();
    let base = &found.recovered.base;
    let state = &found.recovered.hard_state;
    said.set_item("cluster_id", PyBytes::new(py, &found.identity.cluster))?;
    said.set_item("member_id", found.identity.member)?;
    said.set_item("voters", members.voters)?;
    said.set_item("learners", members.learners)?;
    said.set_item("known_ids", found.known_ids().into_iter().collect::<Vec<_>>())?;
    said.set_item("base_index", base.index)?;
    said.set_item("base_data", PyBytes::new(py, &base.data))?;
    said.set_item("term", state.term.max(base.term))?;
    said.set_item("committed", state.commit.max(base.index))?;
    said.set_item("segments", found.segments)?;
    let torn = found.torn.as_ref();
    said.set_item("torn", torn.map(|cut| (cut.file.display().to_string(), cut.offset)))?;
    let entries: Vec<_> = found
        .recovered
        .entries
        .iter()
        .map(|entry| {
            let normal = entry.get_entry_type() == EntryType::EntryNormal;
            let data: &[u8] = if normal { &entry.data } else { &[] };
            let id = PyBytes::new(py, &entry.context).unbind();
            (entry.index, entry.term, id, PyBytes::new(py, data).unbind())
        })
        .collect();
    said.set_item("entries", entries)?;
    Ok(Some(said))
}

/// Put a cluster of one that begins with `data` into a directory that nobody uses.
#[pyfunction]
#[pyo3(signature = (dir, *, cluster_id, member_id, address, index, term, removed, data))]
#[allow(clippy::too_many_arguments)]
pub fn begin_cluster(
    py: Python<'_>,
    dir: &str,
    cluster_id: &[u8],
    member_id: u64,
    address: &str,
    index: u64,
    term: u64,
    removed: Vec<u64>,
    data: &[u8],
) -> PyResult<()> {
    let beginning = Beginning {
        cluster: cluster_id.to_vec(),
        member: member_id,
        address: address.to_owned(),
        index,
        term,
        removed: removed.into_iter().collect(),
        data: data.to_vec(),
    };
    py.detach(|| begin(Path::new(dir), beginning)).map_err(EngineError::new_err)
}
