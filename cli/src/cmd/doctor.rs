//! `requant doctor`

use crate::engine;
use anyhow::Result;
use requant_kernels::{Cpu, Isa};

pub(crate) fn run() -> Result<()> {
    say!("requant {} ({})", env!("CARGO_PKG_VERSION"), env!("REQUANT_COMMIT"));
    say!("build: {}", if cfg!(debug_assertions) { "debug: times say little" } else { "release" });
    say!("cpu: {}", engine::cpu_name());
    say!("cores: {}", std::thread::available_parallelism().map_or(1, usize::from));
    let available = Cpu::available();
    for isa in Isa::ALL {
        let state = if available.contains(&isa) {
            "yes"
        } else if Cpu::built().contains(&isa) {
            "built, but not supported here"
        } else {
            "not built"
        };
        say!("isa {}: {state}", isa.name());
    }
    if let Ok(value) = std::env::var("REQUANT_ISA") {
        say!("REQUANT_ISA: {value}");
    }
    say!("used: {}", Cpu::from_env().map_err(requant::Error::from)?.isa());
    Ok(())
}
