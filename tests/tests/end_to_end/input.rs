//! Bad input: each gets a clear error under the right exit status, and nothing is left behind.

use ringfence_tests::{Isolation, Lab, Scenario};
use std::fs;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::everywhere("programs_that_cannot_run", programs_that_cannot_run),
    Scenario::everywhere("arguments_that_cannot_be", arguments_that_cannot_be),
    Scenario::everywhere("files_that_escape", files_that_escape),
    Scenario::everywhere("input_that_cannot_be_read", input_that_cannot_be_read),
    Scenario::everywhere("links_do_not_redirect_files", links_do_not_redirect_files),
    Scenario::on(
        "options_that_do_not_exist",
        &[Isolation::Process],
        options_that_do_not_exist,
    ),
    Scenario::everywhere("layers_that_cannot_be_had", layers_that_cannot_be_had),
    Scenario::on("damaged_images", &[Isolation::Vm], damaged_images),
];

/// Unknown: 127. A directory, or without execute permission: 126. Each message names the program.
fn programs_that_cannot_run(lab: &Lab) {
    lab.run(["no-such-program"])
        .outcome()
        .assert_error(127, &["no-such-program"]);
    lab.run(["/usr/bin/no-such"])
        .outcome()
        .assert_error(127, &["/usr/bin/no-such"]);
    lab.run(["./no-such"])
        .outcome()
        .assert_error(127, &["no-such"]);
    lab.run(["/usr"])
        .outcome()
        .assert_error(126, &["/usr", "directory"]);
    let plain = lab.file("plain", "echo x\n");
    let run = lab.run(["./plain"]).option("--file", &plain);
    run.outcome().assert_error(126, &["plain"]);
}

/// No program at all, an empty name, an argument beyond the kernel's limit.
fn arguments_that_cannot_be(lab: &Lab) {
    lab.run([""; 0]).outcome().assert_error(125, &["PROGRAM"]);
    lab.run([""]).outcome().assert_error(125, &["empty"]);
    // A command line cannot hold 2 MiB in one argument, for the same reason; the public API can,
    // and is asked in `api`.
    let large = "x".repeat(131_000);
    let many: Vec<_> = std::iter::once("true").chain([large.as_str(); 5]).collect();
    lab.run(many).outcome().assert_error(125, &["655", "bytes"]);
    lab.run(["true"])
        .option("--env", "=x")
        .outcome()
        .assert_error(125, &["environment"]);
}

/// Destinations outside of the workspace, sources that are no files, two for one place.
fn files_that_escape(lab: &Lab) {
    let source = lab
        .file("source", "x")
        .into_os_string()
        .into_string()
        .unwrap();
    for destination in ["../x", "/etc/x", "a/../../x", "./x", "a//x", ".."] {
        let run = lab
            .run(["true"])
            .option("--file", format!("{source}:{destination}"));
        run.outcome().assert_error(125, &[destination, "workspace"]);
    }
    let twice = lab
        .run(["true"])
        .options(["--file", &source, "--file", &source]);
    twice.outcome().assert_error(125, &["source"]);
    let nowhere = lab.run(["true"]).option("--file", lab.path("nowhere"));
    nowhere
        .outcome()
        .assert_error(125, &["nowhere", "that is there"]);
    let directory = lab
        .run(["true"])
        .option("--file", lab.open_directory("folder"));
    directory
        .outcome()
        .assert_error(125, &["folder", "regular file"]);
    // Nobody will ever write to it.
    let fifo = lab.path("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let fifo = lab.run(["true"]).option("--file", fifo);
    fifo.outcome().assert_error(125, &["fifo", "regular file"]);
    // A file where another one needs a directory.
    let both = [format!("{source}:a"), format!("{source}:a/b")];
    let run = lab
        .run(["true"])
        .options(["--file", &both[0], "--file", &both[1]]);
    assert_ne!(run.outcome().code(), Some(0));
}

/// Standard input that cannot be read is named before anything runs.
fn input_that_cannot_be_read(lab: &Lab) {
    let call = || lab.run(["sh", "-c", "echo ran"]);
    let stdin = |path: &str| call().option("--stdin", path).outcome();
    stdin("/etc").assert_error(125, &["/etc", "directory", "give a file"]);
    stdin("/proc/self/mem").assert_error(125, &["/proc/self/mem", "os error 5"]);
    stdin("/no/such").assert_error(125, &["/no/such"]);
    let directory = call().input_file(fs::File::open("/etc").unwrap());
    directory
        .outcome()
        .assert_error(125, &["standard input", "directory"]);
    // Nothing has been taken out of what can be read.
    let file = lab.file("input", "all of it");
    let run = lab.run(["cat"]).option("--stdin", &file);
    run.outcome().assert_code(0).assert_stdout("all of it");
}

/// A source that is a symbolic link gives what it leads to, as a file of its own: writing to it
/// inside changes nothing outside.
fn links_do_not_redirect_files(lab: &Lab) {
    let target = lab.file("target", "as it was");
    let link = lab.path("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let script = "cat link; echo changed > link; test ! -L link";
    let outcome = lab
        .run(["sh", "-c", script])
        .option("--file", &link)
        .outcome();
    outcome.assert_code(0).assert_stdout("as it was");
    assert_eq!(fs::read_to_string(&target).unwrap(), "as it was");
}

/// ringfence's own error: 125, with what would have been right.
fn options_that_do_not_exist(lab: &Lab) {
    lab.run(["true"])
        .options(["--no-such-option"])
        .outcome()
        .assert_error(125, &["no-such-option"]);
    let wrong = [
        ("--timeout", "soon", "30s"),
        ("--memory", "much", "KiB"),
        ("--isolation", "docker", "process"),
        ("--engine", "xen", "qemu"),
        ("--require", "luck", "landlock"),
        ("--pids", "-1", "give 1 or more"),
        ("--cpus", "0", "1 to 255"),
        ("--max-output", "-1", "KiB"),
    ];
    for (option, value, hint) in wrong {
        // The fixture's own choice of an isolation would come first.
        for words in [
            vec![format!("{option}={value}")],
            vec![option.into(), value.into()],
        ] {
            let run = lab.command("run").options(words).options(["true"]);
            let run = run.program([""; 0]);
            run.outcome().assert_error(125, &[option, value, hint]);
        }
    }
}

/// A required layer that cannot be had: nothing runs, and the message names it.
fn layers_that_cannot_be_had(lab: &Lab) {
    let layer = if lab.isolation == Isolation::Vm {
        "user_ns"
    } else {
        "vm"
    };
    let run = lab.run(["sh", "-c", "echo ran"]).option("--require", layer);
    run.outcome().assert_error(125, &[layer]);
    lab.run(["true"])
        .option("--require", "landlock")
        .outcome()
        .assert_code(0);
}

/// An image that is missing, damaged, truncated or without a manifest is named, and not booted.
fn damaged_images(lab: &Lab) {
    let run = |image: &std::path::Path| lab.run(["true"]).option("--image", image).outcome();
    run(&lab.path("nowhere")).assert_error(125, &["nowhere", "build"]);

    let image = ringfence::image::Image::find(ringfence::image::Arch::Aarch64).unwrap();
    let copy = lab.open_directory("image");
    let parts = [image.kernel(), image.initramfs(), image.rootfs()];
    for part in &parts {
        fs::copy(part, copy.join(part.file_name().unwrap())).unwrap();
    }
    let manifest = fs::read(image.directory().join("manifest.json")).unwrap();
    fs::write(copy.join("manifest.json"), &manifest).unwrap();
    run(&copy).assert_code(0);

    let victim = copy.join(parts[2].file_name().unwrap());
    let mut bytes = fs::read(&victim).unwrap();
    bytes[5000] ^= 1;
    fs::write(&victim, &bytes).unwrap();
    run(&copy).assert_error(125, &["SHA-256", "rootfs"]);
    fs::write(&victim, &bytes[..5000]).unwrap();
    run(&copy).assert_error(125, &["5000 bytes", "rootfs"]);
    fs::remove_file(&victim).unwrap();
    run(&copy).assert_error(125, &["rootfs"]);
    fs::write(copy.join("manifest.json"), &manifest[..manifest.len() / 2]).unwrap();
    run(&copy).assert_error(125, &["manifest"]);
}
