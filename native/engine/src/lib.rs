//! The consensus engine of pgbastion: a Raft loop with its log and its connections in
//! threads of their own, which Python commands and listens to but never holds up.

pub mod authority;
pub mod bell;
pub mod bytes;
pub mod channel;
pub mod clock;
pub mod core;
pub mod credentials;
pub mod desk;
pub mod disk;
pub mod driver;
pub mod event;
pub mod gossip;
pub mod guest;
pub mod handshake;
pub mod home;
pub mod inbox;
pub mod link;
pub mod listener;
pub mod loud;
pub mod members;
pub mod memlog;
pub mod net;
pub mod node;
pub mod offline;
pub mod outbox;
pub mod page;
pub mod peers;
#[cfg(feature = "python")]
pub mod python;
pub mod records;
pub mod room;
pub mod shared;
pub mod talk;
pub mod wire;
pub mod writer;
