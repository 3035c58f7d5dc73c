//! What a hostile program tries, and exactly how it is refused.
//!
//! Every try is made by the probe from inside, against a target that exists: a file that belongs to
//! the caller and that anybody may change, listeners that accept, a process of the caller's. So a
//! refusal is the sandbox's and not the target's. The expected answers are exact; "it failed
//! somehow" proves nothing.

use ringfence_tests::{Isolation, Lab, Scenario, process};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere(
        "kernel_interfaces_are_refused",
        kernel_interfaces_are_refused,
    ),
    Scenario::everywhere("sockets_are_refused", sockets_are_refused),
    Scenario::everywhere(
        "listeners_outside_are_out_of_reach",
        listeners_outside_are_out_of_reach,
    ),
    Scenario::everywhere(
        "processes_outside_are_out_of_reach",
        processes_outside_are_out_of_reach,
    ),
    Scenario::everywhere(
        "own_processes_cannot_be_traced",
        own_processes_cannot_be_traced,
    ),
    Scenario::everywhere("secrets_are_out_of_reach", secrets_are_out_of_reach),
    Scenario::everywhere(
        "files_outside_are_out_of_reach",
        files_outside_are_out_of_reach,
    ),
    Scenario::everywhere("metadata_outside_stays", metadata_outside_stays),
    Scenario::on(
        "granted_files_stay_as_they_are",
        &Isolation::ON_THIS_KERNEL,
        granted_files_stay_as_they_are,
    ),
    Scenario::everywhere("the_process_holds_nothing", the_process_holds_nothing),
    Scenario::everywhere(
        "the_callers_environment_is_not_in_proc",
        the_callers_environment_is_not_in_proc,
    ),
    Scenario::everywhere("sandboxes_do_not_meet", sandboxes_do_not_meet),
];

/// A try with the answers that count as refused.
type Expected<'a> = (&'a str, &'a [&'a str]);

/// Makes all tries in one run and compares the answers.
#[track_caller]
fn check(lab: &Lab, expected: &[(String, &[&str])]) {
    check_run(lab.probe(expected.iter().map(|(name, _)| name)), expected);
}

#[track_caller]
fn check_run(run: ringfence_tests::Run<'_>, expected: &[(String, &[&str])]) {
    // One probe each: the name is in the first one's arguments, which it may see of itself.
    let connect = lab.probe([format!("abstract-connect={name}")]);
    connect.start().finish_beside().assert_code(0);
    let find = lab.probe([format!("find-in-proc={hex}")]);
    find.start().finish_beside().assert_code(0);
    first.signal(rustix::process::Signal::TERM);
    first.finish_killed();
}
