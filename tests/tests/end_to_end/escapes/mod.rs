//! Ways out that others have found, each tried against something outside that would show it.
//!
//! As in [`refusals`](crate::refusals) every answer is exact. Beyond it, what is outside is looked at
//! afterwards: it is as it was.

mod files;
mod privileges;
mod processes;
mod sockets;
mod terminals;

use ringfence_tests::{Isolation, Scenario};

/// Where a mount namespace makes one file system of what can be written to.
const WITH_MOUNTS: &[Isolation] = &[Isolation::Process, Isolation::ProcessUser, Isolation::Vm];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("further_interfaces", privileges::further_interfaces),
    Scenario::everywhere("files_of_the_kernel", privileges::files_of_the_kernel),
    Scenario::everywhere("terminals_of_its_own", terminals::terminals_of_its_own),
    Scenario::everywhere(
        "the_terminal_of_the_caller",
        terminals::the_terminal_of_the_caller,
    ),
    Scenario::everywhere("descriptors_left_open", processes::descriptors_left_open),
    Scenario::everywhere("descriptors_sent_over", processes::descriptors_sent_over),
    Scenario::everywhere("signals_to_others", processes::signals_to_others),
    Scenario::everywhere("the_supervisor", processes::the_supervisor),
    Scenario::everywhere("objects_of_ipc", processes::objects_of_ipc),
    Scenario::everywhere("programs_in_memory", processes::programs_in_memory),
    Scenario::everywhere("plants_for_the_caller", files::plants_for_the_caller),
    Scenario::on(
        "set_user_id_programs",
        &Isolation::ON_THIS_KERNEL,
        privileges::set_user_id,
    )
    .unless(privileges::no_root),
    Scenario::everywhere(
        "programs_that_change_user",
        privileges::programs_that_change_user,
    ),
    Scenario::everywhere("links_in_the_workspace", files::links_in_the_workspace),
    Scenario::everywhere(
        "names_that_change_meaning",
        files::names_that_change_meaning,
    ),
    Scenario::everywhere("memory_of_files", files::memory_of_files),
    Scenario::everywhere("programs_of_the_host", files::programs_of_the_host),
    Scenario::everywhere("sockets_behind_links", sockets::sockets_behind_links),
    Scenario::on(
        "services_in_a_granted_directory",
        &Isolation::ON_THIS_KERNEL,
        sockets::services_in_a_granted_directory,
    ),
    Scenario::on(
        "names_of_services",
        &[Isolation::ProcessBare, Isolation::ProcessBareRoot],
        sockets::names_of_services,
    ),
    Scenario::everywhere("names_of_the_network", sockets::names_of_the_network),
    Scenario::on("a_full_workspace", WITH_MOUNTS, files::a_full_workspace),
    Scenario::everywhere(
        "the_children_of_the_dead",
        processes::the_children_of_the_dead,
    ),
    Scenario::everywhere(
        "characters_that_control",
        terminals::characters_that_control,
    ),
];

/// Names with the same expectation.
fn all<'a>(names: &[&str], expected: &'a [&'a str]) -> Vec<(String, &'a [&'a str])> {
    names
        .iter()
        .map(|name| ((*name).to_owned(), expected))
        .collect()
}
