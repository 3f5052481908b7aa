//! `Gossip` as Python holds it.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::EngineError;
use crate::gossip::identity::Facts;
use crate::gossip::{Gossip as Inner, Settings};

/// Name, cluster id, Raft address, address of the API, version.
type Said = (String, String, String, String, String);

fn facts((name, cluster_id, raft_address, api_url, version): Said) -> Facts {
    Facts { name, cluster_id, raft_address, api_url, version }
}

/// A node's part in the gossip.
#[pyclass(frozen, module = "pgbastion.consensus._engine")]
pub struct Gossip {
    inner: Inner,
}

#[pymethods]
impl Gossip {
    #[new]
    #[pyo3(signature = (*, bind, address, secret, cluster, facts))]
    fn new(
        py: Python<'_>,
        bind: String,
        address: String,
        secret: &[u8],
        cluster: String,
        facts: Said,
    ) -> PyResult<Self> {
        let (secret, facts) = (secret.to_vec(), self::facts(facts));
        let settings = Settings { bind, address, secret, cluster, facts };
        let inner = py.detach(|| Inner::start(&settings)).map_err(EngineError::new_err)?;
        Ok(Self { inner })
    }

    fn address(&self) -> String {
        self.inner.address.to_string()
    }

    /// Greet these places until each is known.
    fn learn(&self, seeds: Vec<String>) {
        self.inner.learn(seeds);
    }

    /// Say something else of this node from now on.
    fn describe(&self, facts: Said) -> PyResult<()> {
        self.inner.describe(&self::facts(facts)).map_err(EngineError::new_err)
    }

    /// What gossip knows now.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let view = py.detach(|| self.inner.view());
        let said = PyDict::new(py);
        let seen: Vec<(String, &str, Option<Said>)> = view
            .seen
            .into_iter()
            .map(|one| {
                let facts = one
                    .facts
                    .map(|f| (f.name, f.cluster_id, f.raft_address, f.api_url, f.version));
                (one.address.to_string(), one.state, facts)
            })
            .collect();
        said.set_item("seen", seen)?;
        said.set_item("sent", view.sent)?;
        said.set_item("received", view.received)?;
        said.set_item("refused", view.refused)?;
        let from: Vec<String> = view.refused_from.iter().map(ToString::to_string).collect();
        said.set_item("refused_from", from)?;
        said.set_item("failed", view.failed)?;
        Ok(said)
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.inner.stop());
    }
}
