//! Any numbers as the sizes and steps of any kernel: refused, or computed within the memory of its operands.
#![no_main]

#[path = "../../kernels/tests/absurd_sizes/calls/mod.rs"]
mod calls;

use libfuzzer_sys::fuzz_target;
use requant_kernels::testing::LimitedMemory;

#[global_allocator]
static MEMORY: LimitedMemory = LimitedMemory { most: 1 << 28 };

fuzz_target!(|data: &[u8]| {
    let _ = calls::call(data);
});
