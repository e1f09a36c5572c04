//! Blockwise quantized weights in the order the micro-kernels read them: one stream per panel of 16 columns.
//!
//! ```text
//! panel = one record per block of K, in order, all 64-byte aligned:
//!
//!   | 16 f32 scales | 16 f32 zero points (only if there are any) | codes of the block's depth K |
//!
//! s8 codes: a row of 16 bytes per k, columns in order, zeros up to a multiple of 64 bytes
//! 4-bit codes: 64 bytes per 8 values of K, a 32-bit word per column, two codes per byte (u4 is stored as s4, −8):
//!
//!   bit 31        24        16         8         0
//!       | k0 | k1 | k2 | k3 | k4 | k5 | k6 | k7 |        k beyond the block: 0
//! ```
//! The first k is on top, so that a word yields its codes by `>> 28` and `<< 4`, with the sign extended for free;
//! or, rotated left, by table look-up in its low four bits.

use std::fmt;

use crate::{
    KernelError,
    epilogue::NR,
    error::{check_backed, check_len, checked_product},
    gemm::pack::{ALIGN, AlignedBytes},
};

/// Values of K in one word of 4-bit codes.
pub(super) const WORD: usize = 8;

/// Bytes of the words of a panel's columns.
pub(super) const WORD_BYTES: usize = NR * size_of::<u32>();

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// −128 … 127
    S8,
    /// −8 … 7
    S4,
    /// 0 … 15
    U4,
}

impl WeightType {
    /// The smallest and the largest code.
    pub const fn range(self) -> (i8, i8) {
        match self {
            Self::S8 => (-128, 127),
            Self::S4 => (-8, 7),
            Self::U4 => (0, 15),
        }
    }

    /// What is subtracted from codes and zero points to store them as signed.
    const fn shift(self) -> i8 {
        match self {
            Self::S8 | Self::S4 => 0,
            Self::U4 => 8,
        }
    }
}

/// A K × N matrix of quantized weights, blocks running along K; the last block may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct BlockWeights<'a> {
    /// Type of codes and zero points.
    pub weight_type: WeightType,
    /// One code per element, row-major `[k, n]`, or `[n, k]` if `transposed`.
    pub codes: &'a [i8],
    /// Rows.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Whether all matrices here are stored with columns first.
    pub transposed: bool,
    /// Values of K that share a scale: a multiple of 8.
    pub block: usize,
    /// One scale per block and column, `[⌈k/block⌉, n]`, or `[n, ⌈k/block⌉]` if `transposed`.
    pub scales: &'a [f32],
    /// Zero points in the order of the scales, or none, which means 0.
    pub zero_points: &'a [i8],
}

/// The sizes of packed weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) k: usize,
    n: usize,
    pub(super) block: usize,
    pub(super) four_bits: bool,
    pub(super) zeros: bool,
}

impl Layout {
    /// Bytes of a record before its codes.
    pub(super) fn head(&self) -> usize {
        ALIGN * (1 + usize::from(self.zeros))
    }

    /// Bytes of the record of a block of `depth` values of K.
    pub(super) fn record(&self, depth: usize) -> usize {
        let codes = if self.four_bits {
            depth.div_ceil(WORD) * WORD_BYTES
        } else {
            (depth * NR).next_multiple_of(ALIGN)
        };
        self.head() + codes
    }

    /// Bytes from one panel to the next.
    pub(super) fn panel_bytes(&self) -> usize {
        let rest = self.k % self.block;
        let last = if rest == 0 { 0 } else { self.record(rest) };
        self.k / self.block * self.record(self.block) + last
    }

    fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }
}

/// Blockwise quantized weights, packed. Immutable and shareable; all ISAs read this packing.
pub struct PackedBlocks {
    layout: Layout,
    data: AlignedBytes,
}

impl fmt::Debug for PackedBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedBlocks").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl PackedBlocks {
    /// Packs `weights`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says, the block is not a multiple of 8, a code or zero point is
    /// outside its type, a scale is not finite, N is beyond 65,536 without weights, or sizes overflow.
    pub fn pack(weights: &BlockWeights<'_>) -> Result<Self, KernelError> {
        let &BlockWeights { weight_type, codes, k, n, transposed, block, scales, zero_points } =
            weights;
        if block == 0 || !block.is_multiple_of(WORD) {
            return Err(KernelError::invalid("the block", block, "a multiple of 8, at least 8"));
        }
        let blocks = k.div_ceil(block);
        check_len("weights", codes.len(), checked_product("weights", &[k, n])?)?;
        check_len("scales", scales.len(), checked_product("scales", &[blocks, n])?)?;
        check_backed("columns of weights", n, codes.len())?;
        if !zero_points.is_empty() {
            check_len("zero points", zero_points.len(), scales.len())?;
        }
        let (min, max) = weight_type.range();
        for (what, list) in [("a weight", codes), ("a zero point", zero_points)] {
            if let Some(code) = list.iter().find(|&&code| code < min || code > max) {
                return Err(KernelError::invalid(what, code, "a value of the weights' type"));
            }
        }
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
            return Err(KernelError::invalid("a scale", scale, "finite"));
        }

        let shift = weight_type.shift();
        let four_bits = weight_type != WeightType::S8;
        let zeros =
            zero_points.iter().any(|&z| z != shift) || (zero_points.is_empty() && shift != 0);
        // At most 16 bytes per block of 8 and column besides the codes.
        let column = k.checked_next_multiple_of(ALIGN).and_then(|k| k.checked_mul(4));
        let column = column.ok_or(KernelError::Overflow { what: "packed weights" })?;
        checked_product("packed weights", &[column, n.max(1).next_multiple_of(NR)])?;
        // A block may be longer than all of K, by any number.
        let block = block.min(k.max(1).next_multiple_of(WORD));
        let layout = Layout { k, n, block, four_bits, zeros };

        let mut data = AlignedBytes::zeroed(layout.panels() * layout.panel_bytes());
        let at = |row: usize, col: usize, rows: usize| {
            if transposed { col * rows + row } else { row * n + col }
        };
        let code = |k_: usize, n_: usize| codes[at(k_, n_, k)] - shift;
        let mut rest = data.as_mut_slice();
        for panel in 0..layout.panels() {
            let cols = panel * NR..(panel * NR + NR).min(n);
            for b in 0..blocks {
                let depth = (k - b * block).min(block);
                let record;
                (record, rest) = std::mem::take(&mut rest).split_at_mut(layout.record(depth));
                let (head, codes) = record.split_at_mut(layout.head());
                for (c, n_) in cols.clone().enumerate() {
                    let i = at(b, n_, blocks);
                    write(head, c, scales[i].to_ne_bytes());
                    if zeros {
                        let zero =
                            zero_points.get(i).map_or(0, |z| i32::from(*z)) - i32::from(shift);
                        write(head, NR + c, (zero as f32).to_ne_bytes());
                    }
                    if four_bits {
                        for word in 0..depth.div_ceil(WORD) {
                            let from = b * block + word * WORD;
                            let nibbles =
                                (from..from + WORD).map(|k_| if k_ < k { code(k_, n_) } else { 0 });
                            let bits = nibbles.fold(0, |bits, code| bits << 4 | (code as u32 & 15));
                            write(codes, word * NR + c, bits.to_ne_bytes());
                        }
                    } else {
                        for i in 0..depth {
                            codes[i * NR + c] = code(b * block + i, n_);
                        }
                    }
                }
            }
        }
        Ok(Self { layout, data })
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.layout.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.layout.n
    }

    /// Bytes of memory held, scales and zero points included: what a GEMV reads.
    pub fn bytes(&self) -> usize {
        self.layout.panels() * self.layout.panel_bytes()
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bytes from panel `panel` on.
    pub(super) fn panel(&self, panel: usize) -> &[i8] {
        &self.data.as_slice()[panel * self.layout.panel_bytes()..]
    }
}

/// Writes the 32-bit word `i` of `bytes`.
fn write(bytes: &mut [i8], i: usize, word: [u8; 4]) {
    for (byte, value) in bytes[4 * i..][..4].iter_mut().zip(word) {
        *byte = value as i8;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn four_bit_words_hold_the_first_k_on_top() {
        let codes: Vec<i8> = (0..10).flat_map(|k| (0..17).map(move |n| (k + n) % 16)).collect();
        let scales: Vec<f32> = (0..34).map(|i| i as f32).collect();
        let zero_points = [3; 34];
        let weights = BlockWeights {
            weight_type: WeightType::U4,
            codes: &codes,
            k: 10,
            n: 17,
            transposed: false,
            block: 8,
            scales: &scales,
            zero_points: &zero_points,
        };
        let packed = PackedBlocks::pack(&weights).unwrap();
        // Two records of scales, zero points and one group of words in each of two panels.
        assert_eq!((packed.layout.panel_bytes(), packed.bytes()), (2 * 192, 4 * 192));
        let word = |panel: usize, i: usize| {
            let bytes: Vec<u8> =
                packed.panel(panel)[4 * i..][..4].iter().map(|&b| b as u8).collect();
            u32::from_ne_bytes(bytes.try_into().unwrap())
        };
        assert_eq!(f32::from_bits(word(0, 48 + 2)), 19.0);
        assert_eq!(f32::from_bits(word(1, 16)), -5.0);
        // Column 1, k = 0 … 7: codes 1 … 8, stored less 8; then k = 8, 9 and zeros.
        assert_eq!(word(0, 32 + 1), 0x9abc_def0);
        assert_eq!(word(0, 48 + 32 + 1), 0x1200_0000);
    }

    #[test]
    fn bad_weights_are_refused() {
        let good = BlockWeights {
            weight_type: WeightType::S4,
            codes: &[7; 32],
            k: 16,
            n: 2,
            transposed: true,
            block: 8,
            scales: &[1.0; 4],
            zero_points: &[],
        };
        assert!(PackedBlocks::pack(&good).is_ok());
        for bad in [
            BlockWeights { codes: &[8; 32], ..good },
            BlockWeights { codes: &[0; 31], ..good },
            BlockWeights { weight_type: WeightType::U4, codes: &[-1; 32], ..good },
            BlockWeights { block: 12, ..good },
            BlockWeights { block: 0, ..good },
            BlockWeights { scales: &[1.0; 3], ..good },
            BlockWeights { scales: &[f32::NAN; 4], ..good },
            BlockWeights { zero_points: &[0; 3], ..good },
            BlockWeights { zero_points: &[-9; 4], ..good },
            BlockWeights { k: usize::MAX, n: usize::MAX, ..good },
            BlockWeights { codes: &[], scales: &[], k: usize::MAX / 2, n: 0, ..good },
        ] {
            assert!(PackedBlocks::pack(&bad).is_err(), "{bad:?}");
        }
    }
}
