//! Guests that reboot, switch themselves off, panic, lose their agent, never get ready, or are no
//! Linux at all: each is reported as what it is, and nothing of it is left behind.

use ringfence_tests::bare_metal::{self, Program};
use ringfence_tests::{Isolation, Lab, Outcome, Scenario, engine, guest};

const VM: &[Isolation] = &[Isolation::Vm];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::on("a_reboot_is_one", VM, a_reboot_is_one).unless(emulated),
    Scenario::on("a_power_off_is_one", VM, a_power_off_is_one).unless(emulated),
    Scenario::on("a_panic_is_one", VM, a_panic_is_one).unless(emulated),
    Scenario::on("a_killed_agent_is_one", VM, a_killed_agent_is_one).unless(emulated),
    Scenario::on("ends_without_linux", VM, ends_without_linux).unless(emulated),
    Scenario::on("a_hang_is_diagnosed", VM, a_hang_is_diagnosed).unless(emulated),
    Scenario::on("oddities_are_survived", VM, oddities_are_survived).unless(emulated),
    Scenario::on("random_registers", VM, random_registers).unless(emulated),
];

/// These are about what our own engines do and say.
fn emulated() -> Option<String> {
    (engine() == "qemu").then(|| "engine qemu is not a monitor of our own".into())
}

/// Runs a program in the guest whose name is a request to the probe beside the agent.
fn ask_for(lab: &Lab, deed: &str) -> Outcome {
    let script = format!("cp \"$(command -v sleep)\" {deed}; exec ./{deed} 300");
    let run = lab.run(["sh", "-c", &script]);
    run.option("--image", guest::with_probe(lab))
        .option("--timeout", "200s")
        .outcome()
}

fn a_reboot_is_one(lab: &Lab) {
    ask_for(lab, "do-reboot").assert_error(125, &["it rebooted"]);
}

fn a_power_off_is_one(lab: &Lab) {
    ask_for(lab, "do-poweroff").assert_error(125, &["it powered off"]);
}

fn a_panic_is_one(lab: &Lab) {
    let words = ["its kernel panicked", "Attempted to kill init"];
    ask_for(lab, "do-panic").assert_error(125, &words);
}

fn a_killed_agent_is_one(lab: &Lab) {
    let words = ["it powered off", "the agent was killed by signal 9"];
    ask_for(lab, "do-kill-agent").assert_error(125, &words);
}

/// Runs a kernel of a few instructions, with this much time to get ready, which it never does.
fn boot(lab: &Lab, kernel: &[u8], time: &str) -> Outcome {
    lab.run(["true"])
        .option("--image", guest::bare_metal(lab, kernel))
        .option("--boot-timeout", time)
        .outcome()
}

fn ends_without_linux(lab: &Lab) {
    let call = |function| Program::new().psci(function).hang().image();
    let ends = |function, how| {
        boot(lab, &call(function), "60s")
            .assert_error(125, &[how])
            .code()
    };
    ends(bare_metal::SYSTEM_OFF, "it powered off");
    ends(bare_metal::SYSTEM_RESET, "it rebooted");
}

/// The error says what the console had, where each processor is and what it did last.
fn a_hang_is_diagnosed(lab: &Lab) {
    const UART: u64 = 0x0900_0000;
    let mut program = Program::new().set(1, UART);
    for letter in b"stuck here\n" {
        program = program.set(2, u64::from(*letter)).access(2, false, 2, 1);
    }
    let words = ["was not ready after 2.0 s", "stuck here", "pl011", "vcpu 0"];
    boot(lab, &program.hang().image(), "2s").assert_error(125, &words);
}

/// What Linux never does ends in time, one way or the other, and never takes this side along.
fn oddities_are_survived(lab: &Lab) {
    let programs = [
        ("an unknown call", Program::new().psci(0xdead_beef)),
        (
            "a call with an immediate",
            Program::new().word(0xd400_0002 | 0x1234 << 5),
        ),
        (
            "a secure call",
            Program::new()
                .set(0, bare_metal::SYSTEM_OFF)
                .word(0xd400_0003),
        ),
        (
            "the only processor goes",
            Program::new().psci(bare_metal::CPU_OFF),
        ),
        ("a wait without end", Program::new().word(0xd503_207f)),
        (
            "a pair from a device",
            Program::new().set(1, 0x0a00_0000).word(0xa940_0c22),
        ),
        (
            "a load with write-back from a device",
            Program::new().set(1, 0x0a00_0000).word(0xf840_8422),
        ),
        (
            "a read where nothing is",
            Program::new().set(1, 0x1000).access(2, true, 2, 1),
        ),
        (
            "a write where nothing is",
            Program::new().set(1, 0xf_ffff_f000).access(3, false, 2, 1),
        ),
        (
            "code where nothing is",
            Program::new().set(1, 0x1000).word(0xd61f_0020),
        ),
        (
            "code in a device",
            Program::new().set(1, 0x0900_0000).word(0xd61f_0020),
        ),
        (
            "an unknown system register",
            Program::new().word(0xd538_f802),
        ),
        ("an undefined instruction", Program::new().word(0)),
        ("a breakpoint", Program::new().word(0xd420_0000)),
    ];
    for (name, program) in programs {
        let outcome = boot(lab, &program.hang().image(), "1s");
        let said = outcome.assert_error(125, &[]).errors();
        let known = [
            "was not ready",
            "it powered off",
            "it rebooted",
            "it cannot go on",
        ];
        assert!(known.iter().any(|end| said.contains(end)), "{name}: {said}");
    }
}

/// A guest that writes whatever it likes into every register of every device.
fn random_registers(lab: &Lab) {
    const COUNT: u64 = 20_000;
    for seed in [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321] {
        let kernel = bare_metal::registers(seed, COUNT);
        boot(lab, &kernel, "120s").assert_error(125, &["it powered off"]);
    }
}
