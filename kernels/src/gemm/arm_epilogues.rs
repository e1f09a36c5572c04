//! What the Arm tiers do alike once a tile is accumulated.

/// The methods of [`super::kernel::Dot`] that finish tiles. `$row` makes the 16 sums of a row of its accumulators. Names
/// are those that the tiers' files import.
macro_rules! epilogues {
    ($row:expr) => {
        #[inline(always)]
        unsafe fn requantize<const MR: usize, const NV: usize>(
            acc: &mut [[Self::Acc; NV]; MR],
            stored: Stored,
            multiplier: *const f32,
            cols: usize,
            out: *mut u8,
            ldc: usize,
            _refill: &impl Refill<Self::Acc>,
        ) -> bool {
            let rows = acc.map(|row| row.map($row));
            let to = TileOut { out, ldc, residual: std::ptr::null(), ldr: 0 };
            // SAFETY: the caller grants `cols` bytes of MR rows, and NV·16 multipliers.
            unsafe { requantize_tile(&rows, stored, HalfEven { m: multiplier }, (0, cols), to) }
            true
        }

        #[inline(always)]
        unsafe fn quantize<const MR: usize, const NV: usize, R: Refill<Self::Acc>>(
            acc: &mut [[Self::Acc; NV]; MR],
            quant: &Quant,
            col: usize,
            to: TileOut,
            _refill: &R,
        ) -> bool {
            // SAFETY: same contract.
            unsafe { quantize_tile(&acc.map(|row| row.map($row)), quant, col, to) }
        }

        #[inline(never)]
        unsafe fn finish(spill: Spill<'_>) {
            // SAFETY: same contract; NEON is part of the target, so LLVM uses it here too.
            unsafe { spill.finish() }
        }
    };
}
pub(crate) use epilogues;
