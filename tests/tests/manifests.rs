//! The manifests of deploy/kubernetes and deploy/compose say what Kubernetes and Compose understand, and what the agent
//! needs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use mirror_tests::{
    agent, command,
    manifests::{Checker, VERSIONS},
    scratch::Scratch,
};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes").canonicalize().unwrap()
}

/// What is put in the place of something right, and what the refusal has to name.
type Mistake = (&'static str, &'static str, &'static str);

/// The manifests of folders, which are accepted; those of the last one are not with any of these mistakes.
fn accepted<const N: usize>(
    checker: &Checker,
    folders: [PathBuf; N],
    mistakes: &[Mistake],
) -> [Vec<Value>; N] {
    let mut texts: Vec<String> = folders.iter().map(|folder| checker.build(folder)).collect();
    let last = texts.last().unwrap().clone();
    texts.extend(mistakes.iter().map(|(right, wrong, _)| {
        assert!(last.contains(right), "no {right}");
        last.replacen(right, wrong, 1)
    }));
    let mut checked = checker.check(&texts).into_iter();
    let manifests = folders.map(|folder| {
        let manifests =
            checked.next().unwrap().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let versions = VERSIONS.join(" and ");
        println!("{}: {} manifests, taken by Kubernetes {versions}", folder.display(), manifests.len());
        manifests
    });
    for ((_, wrong, name), checked) in mistakes.iter().zip(checked) {
        let error = checked.expect_err(wrong);
        assert!(error.contains(name), "{wrong}: {error}");
        println!("refused: {wrong}");
    }
    manifests
}

fn one<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    let mut of_kind = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    let first = of_kind.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(of_kind.next().is_none(), "several {kind}");
    first
}

fn container(daemon_set: &Value) -> &Value {
    let containers = daemon_set["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// The capabilities that the agent asks for where it has none.
fn asked_for() -> BTreeSet<String> {
    let output = command::finish(
        Command::new("setpriv")
            .args(["--bounding-set", "-all", "--inh-caps", "-all"])
            .arg(agent::binary())
            .args(["-i", "lo", "--dest", "127.0.0.1", "--transmit", "packet"]),
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = said.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let names: BTreeSet<_> = words.filter_map(|word| word.strip_prefix("CAP_")).map(str::to_owned).collect();
    assert!(names.len() > 2, "{said}");
    names
}

#[test]
fn overlays_are_what_kubernetes_understands_and_the_agent_needs() {
    let Some(checker) = Checker::find() else { return };
    let overlays = ["privileged", "capabilities"];
    let all = accepted(&checker, overlays.map(|overlay| folder().join("overlays").join(overlay)), &[]);
    for (overlay, manifests) in overlays.into_iter().zip(all) {
        let namespace = &one(&manifests, "Namespace")["metadata"];
        let level = &namespace["labels"]["pod-security.kubernetes.io/enforce"];
        assert_eq!((&namespace["name"], level), (&json!("mirror-agent"), &json!("privileged")));
        assert_eq!(one(&manifests, "ServiceAccount")["automountServiceAccountToken"], false);

        let daemon_set = one(&manifests, "DaemonSet");
        assert_eq!(daemon_set["metadata"]["namespace"], "mirror-agent");
        let pod = &daemon_set["spec"]["template"]["spec"];
        assert_eq!(pod["hostNetwork"], true);
        assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet", "else names of services are unknown to it");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
        assert_eq!(pod["priorityClassName"], one(&manifests, "PriorityClass")["metadata"]["name"]);
        assert_eq!(pod["serviceAccountName"], one(&manifests, "ServiceAccount")["metadata"]["name"]);

        let container = container(daemon_set);
        assert!(container["resources"]["limits"]["cpu"].is_null(), "a thread that waits loses frames");
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        if overlay == "privileged" {
            assert_eq!(security["privileged"], true);
        } else {
            assert_eq!(security["privileged"], false);
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
            let added = security["capabilities"]["add"].as_array().unwrap();
            let added: BTreeSet<_> = added.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
            assert_eq!(added, asked_for());
        }
        assert_configured(&manifests, container, pod);
    }
}

/// The agent takes the configuration, which is where it looks for it, and answers where it is asked.
fn assert_configured(manifests: &[Value], container: &Value, pod: &Value) {
    let config_map = one(manifests, "ConfigMap");
    let volumes = pod["volumes"].as_array().unwrap();
    let config = volumes.iter().find(|volume| volume["name"] == "config").unwrap();
    assert_eq!(config["configMap"]["name"], config_map["metadata"]["name"]);
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "config").unwrap();
    let path = format!("{}/config.toml", mount["mountPath"].as_str().unwrap());
    assert_eq!(container["args"], json!(["--config", path]));

    let config = config_map["data"]["config.toml"].as_str().unwrap();
    let scratch = Scratch::new();
    let file = scratch.path("config.toml");
    fs::write(&file, config).unwrap();
    let said = command::run(Command::new(agent::binary()).arg("validate").arg("--config").arg(&file));
    assert!(said.ends_with("ok\n"), "{said}");

    let metrics = config.lines().find_map(|line| line.strip_prefix("metrics = ")).unwrap();
    let port: u16 = metrics.trim_matches('"').rsplit(':').next().unwrap().parse().unwrap();
    let ports = container["ports"].as_array().unwrap();
    let named = ports.iter().find(|port| port["name"] == "metrics").unwrap();
    assert_eq!((&named["containerPort"], &named["hostPort"]), (&json!(port), &json!(port)));
    for (probe, route) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(container[probe]["httpGet"], json!({ "path": route, "port": "metrics" }), "{probe}");
    }
    // Rings as large as the file says, for each of four processors, and as much again.
    let rings = 4 * 16;
    let limit = container["resources"]["limits"]["memory"].as_str().unwrap();
    let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
    assert!(config.contains("ring-size = \"16MiB\"") && limit >= 2 * rings, "{limit} Mi");
}

#[test]
fn the_demo_and_the_pod_monitor_are_what_kubernetes_understands() {
    let Some(checker) = Checker::find() else { return };
    // Kustomize takes no absolute paths.
    let scratch = Scratch::new();
    for part in ["base", "components", "overlays"] {
        command::run(Command::new("cp").arg("-r").arg(folder().join(part)).arg(scratch.folder()));
    }
    let own = scratch.path("overlays/own");
    fs::create_dir(&own).unwrap();
    let kustomization = "resources: [../capabilities]\ncomponents: [../../components/pod-monitor]\n";
    fs::write(own.join("kustomization.yaml"), kustomization).unwrap();
    let mistakes = [
        ("hostNetwork: true", "hostNetworks: true", "hostNetworks"),
        ("hostNetwork: true", "hostNetwork: \"yes\"", "yes"),
        ("path: /readyz", "paths: /readyz", "paths"),
        ("operator: Exists", "operators: Exists", "operators"),
        ("interval: 15s", "intervals: 15s", "intervals"),
        ("kind: PriorityClass", "kind: Priority", "Priority mirror-agent"),
    ];
    let [demo, manifests] = accepted(&checker, [folder().join("overlays/demo"), own], &mistakes);

    let (zeek, service) = (one(&demo, "Deployment"), one(&demo, "Service"));
    let port = &service["spec"]["ports"][0];
    assert_eq!((&port["port"], &port["protocol"]), (&json!(4789), &json!("UDP")));
    assert_eq!(service["spec"]["selector"], zeek["spec"]["selector"]["matchLabels"]);
    let names =
        [&service["metadata"]["name"], &service["metadata"]["namespace"]].map(|name| name.as_str().unwrap());
    let config = one(&demo, "ConfigMap")["data"]["config.toml"].as_str().unwrap().to_owned();
    assert!(config.contains(&format!("dest = [\"{}.svc.cluster.local\"]", names.join("."))), "{config}");

    let (monitor, daemon_set) = (one(&manifests, "PodMonitor"), one(&manifests, "DaemonSet"));
    assert_eq!(monitor["metadata"]["namespace"], daemon_set["metadata"]["namespace"]);
    assert_eq!(monitor["spec"]["selector"], daemon_set["spec"]["selector"]);
    let ports = container(daemon_set)["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]));
}

#[test]
fn the_compose_file_is_what_compose_understands_and_the_agent_takes() {
    let Some(checker) = Checker::find() else { return };
    let text = fs::read_to_string(folder().join("../compose/compose.yaml")).unwrap();
    let broken = text.replacen("network_mode: host", "network_modes: host", 1);
    let mut checked = checker.check(&[text, broken]).into_iter();
    let compose = checked.next().unwrap().unwrap_or_else(|error| panic!("{error}"));
    let error = checked.next().unwrap().expect_err("network_modes");
    assert!(error.contains("network_modes"), "{error}");

    let (zeek, service) = (&compose[0]["services"]["zeek"], &compose[0]["services"]["mirror-agent"]);
    assert_eq!((&zeek["network_mode"], &service["network_mode"]), (&json!("host"), &json!("host")));
    assert!(zeek["command"].as_array().unwrap().contains(&json!("udp::0.0.0.0:4789:vxlan")));
    assert_eq!(service["privileged"], true);
    let dockerfile = service["build"]["dockerfile"].as_str().unwrap();
    assert!(folder().join("../..").join(dockerfile).is_file(), "no {dockerfile}");
    let words = service["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let words = words.map(|word| word.replace("${IFACE:-eth0}", "eth0"));
    // Reads all of it, and attaches nothing.
    command::run(Command::new(agent::binary()).args(words).args(["--dump-filter", "ip"]));
}
