//! Transposing in tiles.
//!
//! A tile of 16-byte rows, as many as elements fit into one, is transposed by interleaving row `i` with row
//! `i + half` until every element has arrived. Registers of 32 or 64 bytes hold several such tiles, one per 16-byte
//! lane: lanes are loaded from several rows of the input and stored as one longer piece of an output row.

use crate::cpu::Cpu;
use crate::multiversion::{Tier, tier};
use crate::simd::{BaselineBytes, Bytes, blocks};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Bytes16, Bytes32, Bytes64};

/// Bytes of a tile's row, one register.
const ROW: usize = 16;

/// Two matrices, each the other's transpose: `y[a·y_stride + b] = x[a + b·x_stride]` for a < `a_len`, b < `b_len`.
#[derive(Clone, Copy)]
pub(super) struct Transpose {
    pub(super) x_stride: usize,
    pub(super) y_stride: usize,
    pub(super) a_len: usize,
    pub(super) b_len: usize,
}

impl Transpose {
    /// Writes `y`.
    pub(super) fn run<const E: usize>(self, cpu: Cpu, x: &[[u8; E]], y: &mut [[u8; E]]) {
        match tier(cpu) {
            _ if !matches!(E, 1 | 2 | 4) => transpose_plain(self, x, y),
            // SAFETY: `cpu` reports this tier only where its features were detected (cpu.rs).
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => unsafe { avx2(self, x, y) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => unsafe { avx512(self, x, y) },
            Tier::Baseline => baseline(self, x, y),
        }
    }
}

fn baseline<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    if !wide_tiles::<BaselineBytes, E>(t, x, y) {
        transpose_plain(t, x, y);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    if !(wide_tiles::<Bytes32, E>(t, x, y) || wide_tiles::<Bytes16, E>(t, x, y)) {
        transpose_plain(t, x, y);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    let done = wide_tiles::<Bytes64, E>(t, x, y)
        || wide_tiles::<Bytes32, E>(t, x, y)
        || wide_tiles::<Bytes16, E>(t, x, y);
    if !done {
        transpose_plain(t, x, y);
    }
}

/// The statement for every row below `$n`, without a loop that might keep the rows in memory.
macro_rules! each_row {
    (|$j:ident| $n:expr, $body:expr) => {
        each_row!(@ $j $n, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $j:ident $n:expr, $body:expr; $($i:literal)*) => {
        $(if $i < $n {
            let $j = $i;
            $body;
        })*
    };
}

/// Interleaves each listed row with the one `$half` further: one of log2(rows) rounds.
macro_rules! interleave {
    ($rows:expr, $half:literal; $($i:literal)*) => {{
        let rows = $rows;
        [$(
            rows[$i].unpack_low::<E>(rows[$i + $half]),
            rows[$i].unpack_high::<E>(rows[$i + $half]),
        )*]
    }};
}

/// Transposes, unless the matrix is smaller than a tile.
#[inline(always)]
fn wide_tiles<V: Bytes, const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) -> bool {
    let Transpose { x_stride, y_stride, a_len, b_len } = t;
    let (long, short) = (V::N / E, ROW / E);
    if a_len < short || b_len < long {
        return false;
    }
    // Registers that are a fourth of a cache line fill lines of `y` one after the other.
    let narrow = V::N == ROW;
    let (rows, columns) = ((a_len, short), (b_len, long));
    let (outer, inner) = if narrow { (rows, columns) } else { (columns, rows) };
    for o in blocks(outer.0, outer.1) {
        for i in blocks(inner.0, inner.1) {
            let (a, b) = if narrow { (o, i) } else { (i, o) };
            let (x, lanes) = (&x[b * x_stride + a..], short * x_stride * E);
            let mut rows = [V::load_lanes(x.as_flattened(), lanes); ROW];
            each_row!(|j| short, {
                rows[j] = V::load_lanes(x[j * x_stride..].as_flattened(), lanes)
            });
            let rows = transpose_lanes::<V, E>(rows);
            let y = &mut y[a * y_stride + b..];
            each_row!(|i| short, rows[i].store(y[i * y_stride..].as_flattened_mut()));
        }
    }
    true
}

/// Transposes the tile in each lane; its rows are the first `16 / E` registers.
#[inline(always)]
fn transpose_lanes<V: Bytes, const E: usize>(rows: [V; ROW]) -> [V; ROW] {
    match E {
        1 => {
            let rows = interleave!(rows, 8; 0 1 2 3 4 5 6 7);
            let rows = interleave!(rows, 8; 0 1 2 3 4 5 6 7);
            let rows = interleave!(rows, 8; 0 1 2 3 4 5 6 7);
            interleave!(rows, 8; 0 1 2 3 4 5 6 7)
        }
        2 => {
            let r = interleave!(rows, 4; 0 1 2 3);
            let r = interleave!(r, 4; 0 1 2 3);
            let [a, b, c, d, e, f, g, h] = interleave!(r, 4; 0 1 2 3);
            [a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h]
        }
        _ => {
            let r = interleave!(rows, 2; 0 1);
            let [a, b, c, d] = interleave!(r, 2; 0 1);
            [a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d]
        }
    }
}

/// The definition.
fn transpose_plain<const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    for a in 0..t.a_len {
        for b in 0..t.b_len {
            y[a * t.y_stride + b] = x[a + b * t.x_stride];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::testing::cpus;
    use proptest::prelude::*;

    fn check<const E: usize>(t: Transpose) {
        let bytes = |n: usize| -> Vec<[u8; E]> {
            (0..n * E)
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect::<Vec<u8>>()
                .as_chunks()
                .0
                .to_vec()
        };
        let x = bytes((t.b_len - 1) * t.x_stride + t.a_len);
        for cpu in cpus() {
            let mut y = vec![[0; E]; (t.a_len - 1) * t.y_stride + t.b_len];
            t.run(cpu, &x, &mut y);
            for (i, y) in y.iter().enumerate() {
                let (a, b) = (i / t.y_stride, i % t.y_stride);
                let want = if b < t.b_len { x[a + b * t.x_stride] } else { [0; E] };
                assert_eq!(*y, want, "{} at {a}, {b}", cpu.isa());
            }
        }
    }

    proptest! {
        #[test]
        fn every_isa_transposes_and_writes_nothing_else(
            a_len in 1usize..140, b_len in 1usize..140, x_more in 0usize..90, y_more in 0usize..90,
        ) {
            let t = Transpose { x_stride: a_len + x_more, y_stride: b_len + y_more, a_len, b_len };
            check::<1>(t);
            check::<2>(t);
            check::<4>(t);
            check::<8>(t);
        }
    }
}
