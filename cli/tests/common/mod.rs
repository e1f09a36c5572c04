//! How the tests start the program.
#![allow(dead_code, reason = "not every test asks everything")]

use std::process::Command;

/// An emulator with its arguments, where the program is not for this machine: what cargo's runner is to tests.
const RUNNER: &str = "REQUANT_TEST_RUNNER";

/// An ISA of another architecture.
pub(crate) const FOREIGN_ISA: &str = if cfg!(target_arch = "x86_64") { "neon" } else { "amx" };

/// Whether the program runs in an emulator.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os(RUNNER).is_some()
}

/// The program, without arguments.
pub(crate) fn program() -> Command {
    let exe = env!("CARGO_BIN_EXE_requant");
    let Ok(runner) = std::env::var(RUNNER) else { return Command::new(exe) };
    let mut words = runner.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or(exe));
    command.args(words).arg(exe);
    command
}
