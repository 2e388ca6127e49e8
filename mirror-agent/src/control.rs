//! How a run is asked how it goes: HTTP on a Unix socket of its own, and where the user wants it on TCP.
//!
//! [`listen`] binds, before anything is attached; [`server`] answers, on a thread of its own without any rights; what only
//! the control plane knows it is asked for at its [`desk`]. [`client`] is the other end, for who wants to know.

pub mod client;
pub mod desk;
pub mod folder;
pub mod listen;
pub mod routes;
pub mod server;
