//! The manifests of deploy/kubernetes, put together by kubectl and checked with Kubernetes' own schemas.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;
use serde_json::Value;

use crate::command;

/// The program that checks.
const CHECK: &str = include_str!("manifests/check.py");

/// The versions of Kubernetes whose schemas are asked: an old one, and the newest.
pub const VERSIONS: [&str; 2] = ["1.28", "1.37"];

/// What checks manifests.
#[derive(Debug, Clone)]
pub struct Checker {
    kubectl: PathBuf,
    libraries: PathBuf,
}

impl Checker {
    /// What `cargo xtask test` got. `None` where there is none, which is said.
    #[must_use]
    pub fn find() -> Option<Self> {
        let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/kubernetes");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let kubectl = std::env::split_paths(&path)
            .chain([libraries.join("bin")])
            .map(|folder| folder.join("kubectl"))
            .find(|kubectl| kubectl.is_file());
        let has_schemas = libraries.join("kubernetes_validate").is_dir();
        match kubectl {
            Some(kubectl) if has_schemas => Some(Self { kubectl, libraries }),
            _ => {
                println!("skipped: `cargo xtask test` could not get kubectl and Kubernetes' schemas");
                None
            }
        }
    }

    /// What `kubectl apply -k` would send, as YAML.
    ///
    /// # Panics
    /// Where it cannot be put together.
    #[must_use]
    pub fn build(&self, folder: &Path) -> String {
        command::run(Command::new(&self.kubectl).arg("kustomize").arg(folder))
    }

    /// Checks texts of manifests with the schemas of [`VERSIONS`]: for each its manifests, or what is wrong with them.
    ///
    /// # Panics
    /// Where that cannot be done.
    #[must_use]
    pub fn check(&self, texts: &[String]) -> Vec<Result<Vec<Value>, String>> {
        let mut check = Command::new("python3");
        check.args(["-c", CHECK]).args(VERSIONS).env("PYTHONPATH", &self.libraries);
        check.env("PYTHONDONTWRITEBYTECODE", "1");
        check.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = check.spawn().expect("cannot run python3");
        let mut stdin = child.stdin.take().expect("a pipe");
        serde_json::to_writer(&mut stdin, texts).expect("python3 does not read");
        drop(stdin);
        let output = child.wait_with_output().expect("python3");
        assert!(output.status.success(), "the checker failed: {}", output.status);
        let results: Vec<Checked> = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(results.len(), texts.len());
        let result = |checked: Checked| match checked.wrong.is_empty() {
            true => Ok(checked.manifests),
            false => Err(checked.wrong),
        };
        results.into_iter().map(result).collect()
    }
}

#[derive(Deserialize)]
struct Checked {
    wrong: String,
    manifests: Vec<Value>,
}
