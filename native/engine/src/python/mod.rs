//! What Python sees. No type of the Raft library appears here.

mod core;
mod events;
mod node;

use std::path::Path;
use std::time::Duration;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

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

/// Ask a node one question as a guest, and return its answer.
#[pyfunction]
fn guest_request<'py>(
    py: Python<'py>,
    address: &str,
    secret: &[u8],
    kind: u32,
    payload: &[u8],
    timeout_ms: u64,
) -> PyResult<Bound<'py, PyBytes>> {
    let wait = Duration::from_millis(timeout_ms.max(1));
    let answer = py.detach(|| guest::ask(address, secret, kind, payload, wait));
    answer
        .map(|answer| PyBytes::new(py, &answer))
        .map_err(|error| EngineError::new_err(format!("{address}: {error}")))
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(inspect, module)?)?;
    module.add_function(wrap_pyfunction!(boottime_ns, module)?)?;
    module.add_function(wrap_pyfunction!(guest_request, module)?)?;
    module.add("EngineError", module.py().get_type::<EngineError>())?;
    module.add_class::<node::Node>()?;
    module.add_class::<core::Core>()?;
    module.add_class::<core::Storage>()?;
    pgbastion_lease::python::add_to(module)
}
