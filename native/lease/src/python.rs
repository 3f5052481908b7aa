//! The arithmetic as Python classes, for a simulation and for tests of its rules.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::{
    Answer, Confirmations, Granter, Hold, Holder, Leased, Outcome, PageWords, Renewal,
};

/// Read the words of a page; those that are not named are 0.
pub fn page_words(words: &Bound<'_, PyDict>) -> PyResult<PageWords> {
    let word = |name: &str| -> PyResult<i64> {
        words.get_item(name)?.map_or(Ok(0), |value| value.extract())
    };
    Ok(PageWords {
        evidence_ns: word("evidence_ns")?,
        asked_ns: word("asked_ns")?,
        released_epoch: word("released_epoch")?,
        ended_epoch: word("ended_epoch")?,
        pause_revision: word("pause_revision")?,
        paused: word("paused")?,
        policy_revision: word("policy_revision")?,
    })
}

fn renewal_words<'py>(py: Python<'py>, renewal: &Renewal) -> PyResult<Bound<'py, PyDict>> {
    let words = PyDict::new(py);
    words.set_item("epoch", renewal.epoch)?;
    words.set_item("incarnation", renewal.incarnation)?;
    words.set_item("number", renewal.number)?;
    words.set_item("evidence_age_ns", renewal.evidence_age_ns)?;
    words.set_item("pause_revision", renewal.pause_revision)?;
    words.set_item("paused", renewal.paused)?;
    words.set_item("policy_revision", renewal.policy_revision)?;
    Ok(words)
}

/// The side that renews.
#[pyclass(name = "LeaseHolder")]
#[derive(Default)]
pub struct PyHolder {
    inner: Holder,
}

#[pymethods]
impl PyHolder {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Renew this epoch from now on; epoch 0: stop.
    #[pyo3(signature = (epoch, incarnation, *, renew_ns, deadline_ns, evidence_max_ns,
                        asked_max_ns))]
    fn hold(
        &mut self,
        epoch: i64,
        incarnation: i64,
        renew_ns: i64,
        deadline_ns: i64,
        evidence_max_ns: i64,
        asked_max_ns: i64,
    ) {
        let hold = Hold {
            epoch,
            incarnation,
            renew_ns,
            deadline_ns,
            evidence_max_ns,
            asked_max_ns,
        };
        self.inner.hold((epoch > 0).then_some(hold));
    }

    fn leader_changed(&mut self) {
        self.inner.leader_changed();
    }

    /// Return the renewal to send now as a dictionary, a word that says why none is
    /// sent although one is due, or `None` if none is due.
    fn due<'py>(
        &mut self,
        py: Python<'py>,
        now_ns: i64,
        page: &Bound<'py, PyDict>,
    ) -> PyResult<Option<Py<PyAny>>> {
        match self.inner.due(now_ns, &page_words(page)?) {
            Ok(None) => Ok(None),
            Ok(Some(renewal)) => Ok(Some(renewal_words(py, &renewal)?.into_any().unbind())),
            Err(withheld) => {
                Ok(Some(withheld.word().into_pyobject(py)?.into_any().unbind()))
            }
        }
    }

    /// Take a positive answer; return until when the lease runs if that is new.
    fn granted(
        &mut self,
        epoch: i64,
        number: u64,
        lease_ns: i64,
        page: &Bound<'_, PyDict>,
    ) -> PyResult<Option<i64>> {
        match self.inner.granted(epoch, number, lease_ns, &page_words(page)?) {
            Outcome::Until { expiry_ns, .. } => Ok(Some(expiry_ns)),
            Outcome::Ignored => Ok(None),
        }
    }
}

/// The leader's side.
#[pyclass(name = "LeaseGranter")]
#[derive(Default)]
pub struct PyGranter {
    inner: Granter,
}

#[pymethods]
impl PyGranter {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Say whose renewals may be answered (member 0: nobody's); return the last answer.
    fn lease(&mut self, member: u64, epoch: i64, incarnation: i64, lease_ms: i64) -> i64 {
        let leased = Leased { member, epoch, incarnation, lease_ms };
        self.inner.lease((member > 0).then_some(leased))
    }

    fn elected(&mut self) {
        self.inner.elected();
    }

    fn deposed(&mut self) {
        self.inner.deposed();
    }

    /// A renewal has come from this member.
    fn arrived(&mut self, member: u64, epoch: i64, incarnation: i64, number: u64) {
        let renewal = Renewal {
            epoch,
            incarnation,
            number,
            evidence_age_ns: 0,
            pause_revision: 0,
            paused: 0,
            policy_revision: 0,
        };
        self.inner.arrived(member, renewal);
    }

    fn wants_read(&self) -> bool {
        self.inner.wants_read()
    }

    fn read_begun(&mut self, read: u64) -> PyResult<()> {
        if read == 0 {
            return Err(PyValueError::new_err("reads are numbered from 1"));
        }
        self.inner.read_begun(read);
        Ok(())
    }

    fn read_confirmed(&mut self, read: u64, index: u64) {
        self.inner.read_confirmed(read, index);
    }

    /// Return (member, number, lease_ns or why not) of all that are answered now.
    fn answers<'py>(
        &mut self,
        py: Python<'py>,
        now_ns: i64,
        applied: u64,
    ) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let answers = self.inner.answers(now_ns, applied);
        answers
            .into_iter()
            .map(|(member, renewal, answer)| match answer {
                Answer::Granted { lease_ns } => {
                    (member, renewal.number, lease_ns).into_pyobject(py)
                }
                Answer::Denied(denial) => {
                    (member, renewal.number, denial.word()).into_pyobject(py)
                }
            })
            .collect()
    }
}

/// What a voter remembers of the leaders that it confirmed.
#[pyclass(name = "Confirmations")]
pub struct PyConfirmations {
    inner: Confirmations,
}

#[pymethods]
impl PyConfirmations {
    #[new]
    fn new(lock_ns: i64) -> Self {
        Self { inner: Confirmations::new(lock_ns) }
    }

    fn confirmed(&mut self, term: u64, now_ns: i64) {
        self.inner.confirmed(term, now_ns);
    }

    fn age_ns(&self, asked_term: u64, now_ns: i64) -> i64 {
        self.inner.age_ns(asked_term, now_ns)
    }
}

/// Put the classes into a module.
pub fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyHolder>()?;
    module.add_class::<PyGranter>()?;
    module.add_class::<PyConfirmations>()
}

#[pymodule]
fn pgbastion_lease(module: &Bound<'_, PyModule>) -> PyResult<()> {
    add_to(module)
}
