//! How many bytes may wait in sockets: those that the agent sends by, and those of a sensor on this host.

use std::io;

use anyhow::Result;

use crate::doctor::{
    buffers::{RMEM_DEFAULT, RMEM_MAX, WMEM_MAX},
    capability,
    check::Check,
    finding::Finding,
    host::Host,
    sysctl,
};

/// See the module.
pub const CHECK: Check = Check {
    id: "socket-buffers",
    title: "bytes that may wait in sockets (net.core.rmem_max, rmem_default, wmem_max, wmem_default)",
    look,
    counters: None,
};

const RECEIVE: &str = "datagrams that come while the sensor is busy wait in its socket; where they find no room they are lost, \
                       as RcvbufErrors, after the agent has counted them as sent";
const SEND: &str = "without CAP_NET_ADMIN the agent gets no larger buffer than this: a burst makes it wait, and its ring \
                    fills";

fn look(host: &Host) -> Result<Vec<Finding>> {
    let is_local = host.has_local_sensor()?;
    // A program with this right may go beyond what is allowed (SO_SNDBUFFORCE).
    let is_free = host.may(capability::NET_ADMIN);
    Ok(vec![
        setting("net.core.rmem_max", is_local.then_some(RMEM_MAX), RECEIVE, NO_SENSOR)?,
        setting("net.core.rmem_default", is_local.then_some(RMEM_DEFAULT), RECEIVE, NO_SENSOR)?,
        setting("net.core.wmem_max", (!is_free).then_some(WMEM_MAX), SEND, "the agent may go beyond it")?,
        setting("net.core.wmem_default", None, "", "the agent asks for more")?,
    ])
}

const NO_SENSOR: &str = "matters where the sensor is: run doctor there";

fn setting(key: &str, enough: Option<u64>, why: &str, unconcerned: &str) -> Result<Finding> {
    let value = match sysctl::number(key) {
        Ok(value) => value,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sysctl::hidden(key)),
        Err(error) => return Err(error.into()),
    };
    Ok(match enough {
        None => Finding::ok(format!("{key} is {value}: {unconcerned}")),
        Some(enough) if value >= enough => Finding::ok(format!("{key} is {value}")),
        Some(enough) => sysctl::mend(
            Finding::warn(format!("{key} is {value}, less than {enough}"), why),
            &[(key, value, enough)],
        ),
    })
}
