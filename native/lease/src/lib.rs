//! The arithmetic of the primary lease, pure: every instant comes in as nanoseconds of
//! the node's CLOCK_BOOTTIME, nothing is read from the world.
//!
//! [`Holder`] is the side that renews, [`Granter`] the Raft leader that answers, and
//! [`Confirmations`] what every voter remembers of the leaders that it confirmed, so
//! that a new leader can bound what an older one may have granted.
//!
//! Source: docs/explanation/lease.md, "Renewal" and "Assigning another node".

mod ages;
mod granter;
mod holder;
#[cfg(feature = "python")]
pub mod python;

pub use ages::Confirmations;
pub use granter::{Answer, Denial, Granter, Leased, Pending};
pub use holder::{Hold, Holder, Outcome, PageWords, Renewal, Withheld};

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: i64 = 1_000_000;
