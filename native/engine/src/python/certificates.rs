//! Certificates as Python makes, reads and hands them over.

use std::sync::Arc;

use pyo3::prelude::*;

use super::EngineError;
use crate::authority::{Authority as Inner, Subject};
use crate::credentials::{self, Credentials as Held, Facts};

/// What a certificate says: subject, places, and from when to when in seconds since 1970.
type Said = (String, Vec<String>, i64, i64);

fn said(facts: Facts) -> Said {
    (facts.subject, facts.places, facts.not_before_s, facts.not_after_s)
}

/// Return what the first certificate of a PEM file says.
#[pyfunction]
pub fn certificate_facts(pem: &[u8]) -> PyResult<Said> {
    credentials::facts(pem).map(said).map_err(EngineError::new_err)
}

/// A certificate authority with its key.
#[pyclass(frozen, module = "pgbastion.consensus._engine")]
pub struct Authority {
    inner: Inner,
}

#[pymethods]
impl Authority {
    /// The authority that follows from 32 secret bytes.
    #[staticmethod]
    fn of_seed(seed: [u8; 32]) -> PyResult<Self> {
        let inner = Inner::of_seed(&seed).map_err(EngineError::new_err)?;
        Ok(Self { inner })
    }

    /// A new one.
    #[staticmethod]
    fn generate(name: &str, days: u32) -> PyResult<Self> {
        let inner = Inner::generate(name, days).map_err(EngineError::new_err)?;
        Ok(Self { inner })
    }

    /// Read one from its two PEM files.
    #[staticmethod]
    fn from_pem(certificate: &str, key: &str) -> PyResult<Self> {
        let inner = Inner::from_pem(certificate, key).map_err(EngineError::new_err)?;
        Ok(Self { inner })
    }

    fn certificate(&self) -> &str {
        &self.inner.certificate
    }

    fn key(&self) -> &str {
        self.inner.key_pem()
    }

    /// Make a key and sign its certificate; return both.
    fn issue(
        &self,
        name: String,
        places: Vec<String>,
        days: u32,
    ) -> PyResult<(String, String)> {
        let issued = self
            .inner
            .issue(&Subject { name, places, days })
            .map_err(EngineError::new_err)?;
        Ok((issued.certificate, issued.key))
    }
}

/// What a node shows on its port and whom it accepts there.
#[pyclass(frozen, module = "pgbastion.consensus._engine")]
pub struct Credentials {
    pub(super) held: Arc<Held>,
}

#[pymethods]
impl Credentials {
    #[new]
    fn new(certificate: &[u8], key: &[u8], authority: &[u8]) -> PyResult<Self> {
        let held = Held::new(certificate, key, authority).map_err(EngineError::new_err)?;
        Ok(Self { held: Arc::new(held) })
    }

    /// Show and accept others from now on; what cannot be used changes nothing.
    fn replace(
        &self,
        py: Python<'_>,
        certificate: &[u8],
        key: &[u8],
        authority: &[u8],
    ) -> PyResult<()> {
        py.detach(|| self.held.replace(certificate, key, authority))
            .map_err(EngineError::new_err)
    }

    /// What this node's certificate says, and what the authority's does.
    fn facts(&self) -> (Said, Said) {
        let (node, authority) = self.held.facts();
        (said(node), said(authority))
    }
}
