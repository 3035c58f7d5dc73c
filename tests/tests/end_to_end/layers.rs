//! Which layers are in force: what this machine must have, and what `doctor` says beforehand.

use ringfence_tests::{Isolation, Lab, Scenario};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("namespaces_are_in_force", namespaces_are_in_force),
    Scenario::on(
        "doctor_tells_what_a_run_tells",
        &Isolation::ON_THIS_KERNEL,
        doctor_tells_what_a_run_tells,
    ),
];

const REQUIRED: [&str; 5] = [
    "landlock",
    "seccomp",
    "no_new_privs",
    "capabilities",
    "rlimits",
];
const NAMESPACES: [&str; 5] = ["mount_ns", "pid_ns", "net_ns", "ipc_ns", "uts_ns"];

/// The layers in force.
fn active(place: &Value) -> BTreeSet<&str> {
    let layers = place["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer.as_str().unwrap()).collect()
}

/// The layers that are missing, and why.
fn missing(place: &Value) -> BTreeMap<&str, &str> {
    let missing = place["missing"].as_array().unwrap().iter();
    missing
        .map(|each| {
            (
                each["layer"].as_str().unwrap(),
                each["why"].as_str().unwrap(),
            )
        })
        .collect()
}

/// Whether namespaces that are not there are a failure.
fn demanded(lab: &Lab) -> bool {
    let value = std::env::var("RINGFENCE_TEST_REQUIRE_NAMESPACES");
    match value.as_deref() {
        Ok("1") => true,
        Ok("root") => lab.caller_is_root(),
        _ => false,
    }
}

/// All namespaces are in force where whoever started the tests demands it, and in the VM, and none
/// where they are refused. The host's name is hidden wherever the report says so.
fn namespaces_are_in_force(lab: &Lab) {
    let (outcome, report) = lab.run(["uname", "-n"]).json();
    outcome.assert_code(0);
    let active = active(&report["isolation"]);
    let name = if active.contains("uts_ns") {
        "sandbox\n".to_owned()
    } else {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap()
    };
    assert_eq!(report["stdout"], name, "{report:#}");
    let mut wanted = BTreeSet::from(NAMESPACES);
    match lab.isolation {
        Isolation::Vm => {}
        isolation if isolation.is_bare() => {
            wanted.insert("user_ns");
            assert!(active.is_disjoint(&wanted), "{report:#}");
            return;
        }
        _ if !demanded(lab) => return,
        _ if lab.caller_is_root() => {}
        _ => {
            wanted.insert("user_ns");
        }
    }
    let absent: Vec<_> = wanted.difference(&active).collect();
    assert!(absent.is_empty(), "{absent:?} not in force: {report:#}");
}

/// `doctor` tells every layer's state, and a program then runs with just these; where one is
/// missing, both say the same reason, but for the VM, of which each speaks in its own words.
fn doctor_tells_what_a_run_tells(lab: &Lab) {
    let (outcome, diagnosis) = lab.command("doctor").json();
    outcome.assert_code(0);
    let told = &diagnosis["process"];
    assert_eq!(told["usable"], true, "{diagnosis:#}");
    let (_, report) = lab.run(["true"]).json();
    let found = &report["isolation"];
    assert_eq!(active(told), active(found), "{diagnosis:#}");
    let [mut missing, mut of_run] = [told, found].map(missing);
    assert!(missing.remove("vm").is_some() && of_run.remove("vm").is_some());
    assert_eq!(missing, of_run, "{diagnosis:#}");

    let active = active(told);
    for layer in REQUIRED {
        assert!(active.contains(layer), "{layer}: {diagnosis:#}");
    }
    for layer in NAMESPACES.iter().chain(&["cgroup", "user_ns"]) {
        let known = active.contains(layer) || missing.contains_key(layer);
        assert!(known, "{layer}: {diagnosis:#}");
    }
    if lab.isolation.is_bare() {
        for layer in NAMESPACES.iter().chain(&["user_ns"]) {
            assert!(missing.contains_key(layer), "{layer}: {diagnosis:#}");
        }
    }

    let engines = diagnosis["vm"]["engines"].as_array().unwrap();
    assert!(!engines.is_empty(), "{diagnosis:#}");
    for engine in engines {
        let usable = engine["usable"].as_bool().unwrap();
        assert_eq!(usable, engine["why"].is_null(), "{engine}");
    }
    let image = &diagnosis["vm"]["image"];
    assert_ne!(image["path"].is_null(), image["why"].is_null(), "{image}");

    // The text says the same.
    let outcome = lab.command("doctor").outcome();
    let text = outcome.text();
    for layer in &active {
        assert!(
            text.contains(&format!("\n  + {layer}\n")),
            "{layer}: {text}"
        );
    }
    for (layer, why) in &missing {
        let line = format!("\n  - {layer}: {why}\n");
        assert!(text.contains(&line), "{layer}: {text}");
    }
}
