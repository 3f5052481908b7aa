//! What Python sees. No type of the Raft library appears here.

mod certificates;
mod core;
mod events;
mod gossip;
mod node;
mod offline;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use self::certificates::Credentials;
use crate::clock;
use crate::guest;
use crate::home::Identity;

create_exception!(
    pgbastion.consensus._engine,
    EngineError,
    PyException,
    "The engine cannot do it; the message names the directory, file or address."
);

/// Return cluster id and member id of a Raft directory, `None` if it has none.
#[pyfunction]
fn inspect(py: Python<'_>, dir: &str) -> PyResult<Option<(Py<PyBytes>, u64)>> {
    let identity = Identity::read(Path::new(dir)).map_err(EngineError::new_err)?;
    Ok(identity.map(|who| (PyBytes::new(py, &who.cluster).unbind(), who.member)))
}

/// Return now on CLOCK_BOOTTIME, in nanoseconds.
#[pyfunction]
fn boottime_ns() -> i64 {
    clock::boottime_ns()
}

/// Ask a node one question as a guest, and return its answer; without credentials over
/// plain transport.
#[pyfunction]
#[pyo3(signature = (address, secret, kind, payload, timeout_ms, credentials = None))]
fn guest_request<'py>(
    py: Python<'py>,
    address: &str,
    secret: &[u8],
    kind: u32,
    payload: &[u8],
    timeout_ms: u64,
    credentials: Option<&Credentials>,
) -> PyResult<Bound<'py, PyBytes>> {
    let wait = Duration::from_millis(timeout_ms.max(1));
    let tls = credentials.map(|credentials| Arc::clone(&credentials.held));
    let answer = py.detach(|| guest::ask(address, secret, kind, payload, wait, &tls));
    answer
        .map(|answer| PyBytes::new(py, &answer))
        .map_err(|error| EngineError::new_err(format!("{address}: {error}")))
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(inspect, module)?)?;
    module.add_function(wrap_pyfunction!(boottime_ns, module)?)?;
    module.add_function(wrap_pyfunction!(guest_request, module)?)?;
    module.add_function(wrap_pyfunction!(offline::read_log, module)?)?;
    module.add_function(wrap_pyfunction!(offline::begin_cluster, module)?)?;
    module.add("EngineError", module.py().get_type::<EngineError>())?;
    module.add_function(wrap_pyfunction!(certificates::certificate_facts, module)?)?;
    module.add_class::<Credentials>()?;
    module.add_class::<certificates::Authority>()?;
    module.add_class::<gossip::Gossip>()?;
    module.add_class::<node::Node>()?;
    module.add_class::<core::Core>()?;
    module.add_class::<core::Storage>()?;
    pgbastion_lease::python::add_to(module)
}
