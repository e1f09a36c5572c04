//! Weights in the order the micro-kernels read them: panels of 16 columns, KR values of K per column together.
//!
//! ```text
//! [N/16] panels × [⌈K/KR⌉] groups × [16] columns × [KR]      zeros beyond K and N, each panel 64-byte aligned
//! ```

use std::fmt;

use wide::{bytemuck::cast, u8x16, u16x8, u32x4, u64x2};

use crate::{KernelError, epilogue::NR, error::checked_product};

/// Alignment of panels: a cache line, and the widest vector.
pub(crate) const ALIGN: usize = 64;

/// Bytes that start at a multiple of [`ALIGN`].
#[derive(Clone)]
pub(crate) struct AlignedBytes(Vec<Line>);

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len() * ALIGN)
    }
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([i8; ALIGN]);

impl AlignedBytes {
    /// `len` zeros, rounded up to whole lines.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self(vec![Line([0; ALIGN]); len.div_ceil(ALIGN)])
    }

    pub(crate) fn as_slice(&self) -> &[i8] {
        // SAFETY: a `Line` is 64 i8 without padding, and the vector owns as many as it says.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * ALIGN) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [i8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * ALIGN) }
    }
}

/// The sizes of a packed K × N matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelLayout {
    pub(crate) k: usize,
    pub(crate) n: usize,
    kr: usize,
}

impl PanelLayout {
    /// Fails if the packed size overflows.
    pub(crate) fn new(k: usize, n: usize, kr: usize) -> Result<Self, KernelError> {
        let round = |x: usize, to: usize| {
            x.checked_next_multiple_of(to).ok_or(KernelError::Overflow { what: "packed weights" })
        };
        // With the bytes of a panel, even if there is none.
        checked_product("packed weights", &[round(k, ALIGN)?, round(n.max(1), NR)?])?;
        Ok(Self { k, n, kr })
    }

    /// The same columns of another K, of which the caller knows that panels do not overflow.
    pub(crate) fn with_k(&self, k: usize) -> Self {
        Self { k, ..*self }
    }

    /// Panels of 16 columns.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Bytes from one panel to the next.
    pub(crate) fn panel_bytes(&self) -> usize {
        (self.k.next_multiple_of(self.kr) * NR).next_multiple_of(ALIGN)
    }

    /// Bytes of all panels.
    pub(crate) fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// Writes the panels of the matrix whose element (k, n) is `at(k, n)` into the first [`Self::bytes`] of `packed`.
    pub(crate) fn pack(&self, packed: &mut [i8], at: impl Fn(usize, usize) -> i8) {
        if self.bytes() == 0 {
            return;
        }
        for (p, panel) in packed[..self.bytes()].chunks_exact_mut(self.panel_bytes()).enumerate() {
            let cols = (self.n - p * NR).min(NR);
            panel.fill(0);
            for (g, group) in panel.chunks_exact_mut(NR * self.kr).enumerate() {
                let depth = self.k.saturating_sub(g * self.kr).min(self.kr);
                for (c, values) in group.chunks_exact_mut(self.kr).take(cols).enumerate() {
                    for (r, value) in values.iter_mut().take(depth).enumerate() {
                        *value = at(g * self.kr + r, p * NR + c);
                    }
                }
            }
        }
    }

    /// Writes the panels of a row-major matrix `[k, n]`, or `[n, k]` if `transposed`, whose rows start `ldb` elements
    /// apart; `to_s8` makes weights of its elements.
    ///
    /// # Panics
    /// If `b` or `packed` is too short.
    pub(crate) fn pack_matrix<T: Copy>(
        &self,
        packed: &mut [i8],
        (b, ldb): (&[T], usize),
        transposed: bool,
        to_s8: impl Fn(T) -> i8 + Copy,
    ) {
        let b = (b, ldb);
        match (self.kr, transposed) {
            (2, false) => self.pack_rows::<2, T>(packed, b, to_s8),
            (4, false) => self.pack_rows::<4, T>(packed, b, to_s8),
            (8, false) => self.pack_rows::<8, T>(packed, b, to_s8),
            (2, true) => {
                self.pack_columns::<2, 8, T>(packed, b, to_s8, |x| cast(u16x8::transpose(cast(x))));
            }
            (4, true) => {
                self.pack_columns::<4, 4, T>(packed, b, to_s8, |x| cast(u32x4::transpose(cast(x))));
            }
            (8, true) => {
                self.pack_columns::<8, 2, T>(packed, b, to_s8, |x| cast(u64x2::transpose(cast(x))));
            }
            (_, false) => self.pack(packed, |k, n| to_s8(b.0[k * ldb + n])),
            (_, true) => self.pack(packed, |k, n| to_s8(b.0[n * ldb + k])),
        }
    }

    /// From rows of B: `KR` of them are interleaved at a time.
    fn pack_rows<const KR: usize, T: Copy>(
        &self,
        packed: &mut [i8],
        (b, ldb): (&[T], usize),
        to_s8: impl Fn(T) -> i8 + Copy,
    ) {
        if self.bytes() == 0 {
            return;
        }
        for (p, panel) in packed[..self.bytes()].chunks_exact_mut(self.panel_bytes()).enumerate() {
            let cols = (self.n - p * NR).min(NR);
            for (g, group) in panel.chunks_exact_mut(NR * KR).enumerate() {
                let mut rows = [u8x16::ZERO; KR];
                for (row, k) in rows.iter_mut().zip(g * KR..self.k) {
                    *row = bytes(&b[k * ldb + p * NR..][..cols], to_s8);
                }
                for (to, row) in group.as_chunks_mut::<NR>().0.iter_mut().zip(interleaved(rows)) {
                    *to = cast(row);
                }
            }
        }
    }

    /// From columns of B, each contiguous: 16 bytes of `COLS` columns are 16 bytes of as many groups.
    fn pack_columns<const KR: usize, const COLS: usize, T: Copy>(
        &self,
        packed: &mut [i8],
        (b, ldb): (&[T], usize),
        to_s8: impl Fn(T) -> i8 + Copy,
        transpose: impl Fn([u8x16; COLS]) -> [u8x16; COLS],
    ) {
        if self.bytes() == 0 {
            return;
        }
        for (p, panel) in packed[..self.bytes()].chunks_exact_mut(self.panel_bytes()).enumerate() {
            let (first, cols) = (p * NR, (self.n - p * NR).min(NR));
            panel[self.k.next_multiple_of(KR) * NR..].fill(0);
            for c in (0..NR).step_by(COLS) {
                for from in (0..self.k).step_by(NR) {
                    let len = (self.k - from).min(NR);
                    let mut block = [u8x16::ZERO; COLS];
                    for (column, n) in block.iter_mut().zip(c..cols) {
                        *column = bytes(&b[(first + n) * ldb + from..][..len], to_s8);
                    }
                    let groups = panel[from * NR..].chunks_exact_mut(NR * KR);
                    for (group, line) in groups.zip(transpose(block)) {
                        group[c * KR..][..NR].copy_from_slice(&cast::<u8x16, [i8; NR]>(line));
                    }
                }
            }
        }
    }

    /// The sum of each column of the matrix that `packed` holds.
    pub(crate) fn column_sums(&self, packed: &[i8]) -> Vec<i32> {
        let mut sums = vec![0; self.panels() * NR];
        let panels = packed.chunks_exact(self.panel_bytes().max(1));
        for (panel, sums) in panels.zip(sums.chunks_exact_mut(NR)) {
            for group in panel.chunks_exact(NR * self.kr) {
                for (values, sum) in group.chunks_exact(self.kr).zip(&mut *sums) {
                    *sum += values.iter().map(|&v| i32::from(v)).sum::<i32>();
                }
            }
        }
        sums.truncate(self.n);
        sums
    }
}

/// Up to 16 elements as bytes, and zeros.
#[inline(always)]
fn bytes<T: Copy>(from: &[T], to_s8: impl Fn(T) -> i8) -> u8x16 {
    cast(match <&[T; NR]>::try_from(from) {
        Ok(from) => from.map(to_s8),
        Err(_) => {
            let mut bytes = [0; NR];
            bytes.iter_mut().zip(from).for_each(|(byte, &from)| *byte = to_s8(from));
            bytes
        }
    })
}

/// The first bytes of all rows, then the second ones, and so on: `KR` is a power of two.
#[inline(always)]
fn interleaved<const KR: usize>(mut rows: [u8x16; KR]) -> [u8x16; KR] {
    // Interleaving the halves of a sequence rotates the bits of positions by one.
    for _ in 0..KR.ilog2() {
        rows = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2], rows[i / 2 + KR / 2]);
            if i % 2 == 0 { u8x16::unpack_low(a, b) } else { u8x16::unpack_high(a, b) }
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn panels_hold_groups_of_columns_and_zeros_beyond() {
        let layout = PanelLayout::new(5, 17, 4).unwrap();
        assert_eq!((layout.panels(), layout.panel_bytes(), layout.bytes()), (2, 128, 256));
        let mut packed = AlignedBytes::zeroed(layout.bytes());
        assert_eq!(packed.as_slice().as_ptr() as usize % ALIGN, 0);
        layout.pack(packed.as_mut_slice(), |k, n| (k * 17 + n) as i8);
        let packed = packed.as_slice();
        assert_eq!(packed[..8], [0, 17, 34, 51, 1, 18, 35, 52]);
        assert_eq!(packed[64..72], [68, 0, 0, 0, 69, 0, 0, 0]);
        assert_eq!(packed[128..136], [16, 33, 50, 67, 0, 0, 0, 0]);
        let sum = |n: usize| (0..5).map(|k| i32::from((k * 17 + n) as i8)).sum();
        assert_eq!(layout.column_sums(packed), (0..17).map(sum).collect::<Vec<i32>>());
    }

    #[test]
    fn matrices_are_packed_as_their_elements_are() {
        for (k, n, kr) in
            [(5, 17, 4), (8, 32, 4), (7, 5, 2), (19, 33, 8), (1, 1, 8), (3, 16, 1), (0, 4, 4)]
        {
            let layout = PanelLayout::new(k, n, kr).unwrap();
            for transposed in [false, true] {
                let (rows, cols) = if transposed { (n, k) } else { (k, n) };
                let ld = cols + 3;
                let b: Vec<u8> = (0..rows * ld).map(|i| (i * 37 + 11) as u8).collect();
                let at = |k: usize, n: usize| {
                    (b[if transposed { n * ld + k } else { k * ld + n }] ^ 0x80) as i8
                };
                let mut want = vec![0; layout.bytes()];
                layout.pack(&mut want, at);
                let mut got = vec![77; layout.bytes()];
                layout.pack_matrix(&mut got, (&b, ld), transposed, |v| (v ^ 0x80) as i8);
                assert_eq!(got, want, "{k} {n} {kr} {transposed}");
            }
        }
    }

    #[test]
    fn sizes_beyond_memory_are_refused() {
        assert!(PanelLayout::new(usize::MAX / 8, 16, 4).is_err());
        assert!(PanelLayout::new(usize::MAX, 1, 4).is_err());
    }
}
