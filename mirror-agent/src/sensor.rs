//! Where the sensor is.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

/// Finds the sensor's address. A name may have several: the first is taken, as the host's own resolver
/// configuration orders them.
///
/// # Errors
///
/// The name does not resolve.
pub async fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    tokio::net::lookup_host((host, port))
        .await
        .map_err(anyhow::Error::from)
        .and_then(|mut addresses| addresses.next().context("no address"))
        .with_context(|| format!("--dest {host} does not resolve: name another sensor, or its address"))
}
