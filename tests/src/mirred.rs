//! The kernel's own mirror: `tc` u32 and mirred, both directions, into a VXLAN device.

use crate::{
    host::Host,
    lab::{DEFAULT_VNI, MIRRORED, SENSOR, UPLINK, VXLAN_PORT},
};

/// The VXLAN device that it sends into.
pub const DEVICE: &str = "vx0";

/// Makes the VXLAN device on the router.
///
/// # Panics
/// Where the kernel refuses it.
pub fn add_device(router: &Host) {
    router.ip(&format!(
        "link add {DEVICE} type vxlan id {DEFAULT_VNI} remote {SENSOR} dstport {VXLAN_PORT} dev {UPLINK}"
    ));
    router.ip(&format!("link set {DEVICE} up"));
}

/// Removes it.
///
/// # Panics
/// Where it is not there.
pub fn remove_device(router: &Host) {
    router.ip(&format!("link del {DEVICE}"));
}

/// Has the router mirror its interface.
///
/// # Panics
/// Where `tc` fails.
pub fn start(router: &Host) {
    add_device(router);
    router.run(&format!("tc qdisc add dev {MIRRORED} clsact"));
    for hook in ["ingress", "egress"] {
        router.run(&format!(
            "tc filter add dev {MIRRORED} {hook} protocol all u32 match u8 0 0 \
             action mirred egress mirror dev {DEVICE}"
        ));
    }
}

/// Ends it.
///
/// # Panics
/// Where it does not run.
pub fn stop(router: &Host) {
    router.run(&format!("tc qdisc del dev {MIRRORED} clsact"));
    remove_device(router);
}
