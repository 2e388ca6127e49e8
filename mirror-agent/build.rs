//! Builds the kernel programs, and says where libpcap is, so that `cargo build` needs no step before it.

use std::{env, path::Path};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

/// The compiler that rust-toolchain.toml pins. aya-build asks rustup for it by name.
const TOOLCHAIN: &str = "1.95.0";

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("mirror-agent has no parent folder")?;
    println!("cargo:rerun-if-changed={}", root.join("mirror-common/src").display());
    // A C library of its own needs a libpcap of its own.
    let is_musl = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl");
    link_libpcap(&root.join(if is_musl { "target/tools/libpcap-musl" } else { "target/tools/libpcap" }));

    // `cargo xtask setup` puts a bpf-linker that matches the compiler here; else one on the PATH serves.
    let own_tools = root.join("target/tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(own_tools).chain(env::split_paths(&path)))?;
    // SAFETY: the build script has one thread, so nothing reads the environment meanwhile.
    unsafe {
        env::set_var("PATH", path);
        // core for the BPF target is not shipped: it is built with `-Z build-std`, which a stable cargo
        // takes only so.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build shows what the inner cargo prints as warnings: let that be real ones only.
        env::set_var("CARGO_TERM_QUIET", "true");
    }

    let ebpf = root.join("mirror-ebpf");
    let package = Package {
        name: "mirror-ebpf",
        root_dir: ebpf.to_str().context("the path to the checkout is not UTF-8")?,
        ..Package::default()
    };
    build_ebpf([package], Toolchain::Custom(TOOLCHAIN))
        .context("cannot build the kernel programs: run `cargo xtask setup` first")
}

/// `cargo xtask setup` builds one that needs nothing where the agent runs; else the system's serves.
fn link_libpcap(own: &Path) {
    let library = own.join("libpcap.a");
    println!("cargo:rerun-if-changed={}", library.display());
    if library.exists() {
        println!("cargo:rustc-link-search=native={}", own.display());
        println!("cargo:rustc-link-lib=static=pcap");
    } else {
        println!("cargo:rustc-link-lib=pcap");
    }
}
