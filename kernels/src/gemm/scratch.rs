//! Memory that a thread keeps between GEMMs for what they stage: up to 512 KB of A, or a few rows where K is so large,
//! and a panel of B, where K is long on AVX2 and AVX-512BW also up to 1 MB of sums; with tile registers also up to 512 KB of
//! sums where K is long, or 1.25 MB of B.

use std::cell::Cell;

use super::pack::AlignedBytes;

thread_local! {
    static KEPT: Cell<Option<AlignedBytes>> = const { Cell::new(None) };
}

/// Calls `f` on `bytes` bytes of any contents, aligned to a cache line.
pub(crate) fn with_scratch(bytes: usize, f: impl FnOnce(&mut [i8])) {
    // Taken out while in use: a nested call would get memory of its own.
    let mut memory = KEPT
        .take()
        .filter(|kept| kept.as_slice().len() >= bytes)
        .unwrap_or_else(|| AlignedBytes::zeroed(bytes));
    f(&mut memory.as_mut_slice()[..bytes]);
    KEPT.set(Some(memory));
}
