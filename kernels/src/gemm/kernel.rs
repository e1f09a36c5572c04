//! The GEMM micro-kernel, written once: a register tile of MR rows × NV panels accumulated over the whole of K,
//! then the epilogue. ISAs supply the handful of vector operations of [`Dot`].
//!
//! ```text
//! for each tile of MR rows:
//!   acc[MR][NV] = bias
//!   for each group of KR values of K:                        A is read in place, or staged KC at a time
//!     for each panel v: b[v] = load 16·KR weights
//!     for each row r:   a = broadcast KR values;  acc[r][v] += dot(a, b[v])
//!   epilogue: fused in registers, or spilled and finished row by row
//! ```
//! Nothing of C is read or written before it is finished, so K needs no blocking for its sake.

use std::mem::MaybeUninit;

use crate::{
    cpu::{Cpu, Isa},
    epilogue::{Epilogue, NR, Quant, Sign, TileOut, finish_tile},
};

/// Values of a row of A that are staged at a time: small enough for the stack and L1, a multiple of every KR.
const KC: usize = 256;

/// The vector operations of one ISA. `Acc` and `B` span the 16 columns of a panel.
///
/// # Safety
/// Every method requires that the ISA's target features are supported; pointers must be valid for what is said.
/// Methods are `#[inline(always)]` and take the features of the entry point they end up in.
pub(crate) trait Dot {
    /// Consecutive values of K that one weight load holds per column.
    const KR: usize;
    /// The sign of activations that are read in place; others, or all, are staged through [`Dot::stage`].
    const IN_PLACE: Option<Sign>;
    /// An activation as the dot product reads it.
    type A: Copy;
    /// KR activations, broadcast.
    type Splat: Copy;
    /// 16·KR weights.
    type B: Copy;
    /// 16 accumulators.
    type Acc: Copy;

    /// Accumulators that start from the 16 biases at `bias`.
    unsafe fn start(bias: *const i32) -> Self::Acc;
    /// Loads the 16·KR weights at `b`.
    unsafe fn load_b(b: *const i8) -> Self::B;
    /// Broadcasts the KR activations at `a`.
    unsafe fn splat(a: *const Self::A) -> Self::Splat;
    /// `acc[j] += Σ_r a[r]·b[j][r]`, exact modulo 2³².
    unsafe fn dot(acc: Self::Acc, a: Self::Splat, b: Self::B) -> Self::Acc;
    /// Writes the 16 accumulators to `out`.
    unsafe fn store(acc: Self::Acc, out: *mut i32);
    /// Converts the `len` raw bytes at `src` into `len` rounded up to KR values at `dst`.
    unsafe fn stage(src: *const u8, len: usize, sign: Sign, dst: *mut Self::A);
    /// Writes a tile whose epilogue is a plain `HalfEven`: `multiplier` and `out` belong to its first column,
    /// `cols` of the NV·16 columns exist. Answers false, having done nothing, where the ISA has no such form.
    unsafe fn requantize<const MR: usize, const NV: usize>(
        _acc: &[[Self::Acc; NV]; MR],
        _quant: &Quant,
        _multiplier: *const f32,
        _cols: usize,
        _out: *mut u8,
        _ldc: usize,
    ) -> bool {
        false
    }
    /// Calls [`Spill::finish`] under the ISA's target features.
    unsafe fn finish(spill: Spill<'_>);
}

/// What [`Dot::stage`] adds to activations of `sign`, to be undone in the bias.
const fn stage_offset(in_place: Option<Sign>, sign: Sign) -> i32 {
    match (in_place, sign) {
        (Some(Sign::U8), Sign::S8) => 128,
        (Some(Sign::S8), Sign::U8) => -128,
        _ => 0,
    }
}

/// [`Dot::stage`] for kernels on i16 operands: sign or zero extension, zeros up to a multiple of `kr`.
#[inline(always)]
pub(crate) unsafe fn stage_i16(src: *const u8, len: usize, sign: Sign, dst: *mut i16, kr: usize) {
    // SAFETY: the caller grants `len` readable bytes and room for `len` rounded up to `kr` values.
    let (src, dst) = unsafe {
        (
            std::slice::from_raw_parts(src, len),
            std::slice::from_raw_parts_mut(dst, len.next_multiple_of(kr)),
        )
    };
    let (values, padding) = dst.split_at_mut(len);
    match sign {
        Sign::U8 => values.iter_mut().zip(src).for_each(|(d, s)| *d = i16::from(*s)),
        Sign::S8 => values.iter_mut().zip(src).for_each(|(d, s)| *d = i16::from(*s as i8)),
    }
    padding.fill(0);
}

/// [`Dot::stage`] for kernels on bytes: `XOR mask`, zeros up to a multiple of `kr`.
#[inline(always)]
pub(crate) unsafe fn stage_bytes(src: *const u8, len: usize, mask: u8, dst: *mut u8, kr: usize) {
    // SAFETY: as in `stage_i16`.
    let (src, dst) = unsafe {
        (
            std::slice::from_raw_parts(src, len),
            std::slice::from_raw_parts_mut(dst, len.next_multiple_of(kr)),
        )
    };
    let (values, padding) = dst.split_at_mut(len);
    values.iter_mut().zip(src).for_each(|(d, s)| *d = s ^ mask);
    padding.fill(0);
}

/// Rows of A times some neighbouring panels of B.
pub(crate) struct Block<'a> {
    /// `rows` rows of `k` bytes, `lda` apart.
    pub(crate) a: *const u8,
    pub(crate) lda: usize,
    pub(crate) k: usize,
    pub(crate) a_sign: Sign,
    /// The first panel; panels are `panel` bytes apart.
    pub(crate) b: *const i8,
    pub(crate) panel: usize,
    /// A multiple of the tile's MR.
    pub(crate) rows: usize,
    /// First column, a multiple of 16, and how many columns exist.
    pub(crate) col: usize,
    pub(crate) cols: usize,
    pub(crate) epilogue: &'a Epilogue,
    /// At row 0, column `col`.
    pub(crate) to: TileOut,
}

/// A tile's accumulators in memory, with all that the epilogue may ask for.
pub(crate) struct Spill<'a> {
    block: &'a Block<'a>,
    acc: &'a mut [i32],
    width: usize,
    a: *const u8,
    to: TileOut,
}

impl Spill<'_> {
    /// Runs the epilogue.
    ///
    /// # Safety
    /// As the tile that made the spill: its block is valid.
    #[inline(always)]
    pub(crate) unsafe fn finish(self) {
        let Block { lda, k, a_sign, col, cols, .. } = *self.block;
        let row_sum = |r: usize| {
            // SAFETY: row `r` of the block's A holds `k` bytes.
            let row = unsafe { std::slice::from_raw_parts(self.a.add(r * lda), k) };
            match a_sign {
                Sign::U8 => row.iter().map(|&v| i32::from(v)).sum(),
                Sign::S8 => row.iter().map(|&v| i32::from(v as i8)).sum::<i32>(),
            }
        };
        // SAFETY: the block's output and residual regions, offset to this tile's rows.
        unsafe {
            finish_tile(self.block.epilogue, self.acc, self.width, (col, cols), self.to, row_sum)
        }
    }
}

/// A tile function and the number of rows it computes at a time.
pub(crate) struct Ukernel {
    pub(crate) mr: usize,
    /// # Safety
    /// The set's ISA is supported; the block is valid: A readable, the panels packed for the set's KR with `cols`
    /// in the last NV of them, the output exclusive, `rows` a multiple of `mr`.
    pub(crate) run: unsafe fn(&Block<'_>),
}

/// All GEMM micro-kernels of one ISA.
pub(crate) struct KernelSet {
    pub(crate) isa: Isa,
    /// KR of the packed weights.
    pub(crate) kr: usize,
    pub(crate) in_place: Option<Sign>,
    /// `tiles[nv − 1]`: tiles of `nv` panels, by falling MR down to 1.
    pub(crate) tiles: &'static [&'static [Ukernel]],
}

impl std::fmt::Debug for KernelSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.isa.name())
    }
}

impl KernelSet {
    /// The kernels that `cpu` stands for.
    pub(crate) fn of(cpu: Cpu) -> &'static Self {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => &super::x86_avx2::SET,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &super::x86_avx512vnni::SET,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => &super::arm_neon::SET,
            _ => &super::scalar::SET,
        }
    }

    /// What is added to every activation of `sign` before it is multiplied.
    pub(crate) fn offset(&self, sign: Sign) -> i32 {
        stage_offset(self.in_place, sign)
    }

    /// How many of the `left` panels the next tiles should span, for a block of `rows` rows.
    pub(crate) fn panels_per_tile(&self, rows: usize, left: usize) -> usize {
        let widest = self.tiles.len();
        let wanted = if rows <= 6 && left >= 4 {
            4
        } else if left % 2 == 1 && left != 1 {
            3
        } else {
            left.min(2)
        };
        wanted.min(widest)
    }
}

/// Computes a block, MR rows at a time.
///
/// # Safety
/// As [`Ukernel::run`].
#[inline(always)]
pub(crate) unsafe fn run_block<D: Dot, const MR: usize, const NV: usize>(block: &Block<'_>) {
    for row in (0..block.rows).step_by(MR) {
        // SAFETY: `row + MR <= block.rows`, so the tile's rows lie inside the block's.
        unsafe { tile::<D, MR, NV>(block, row) }
    }
}

/// Repeats a block for each row of a tile. LLVM does not unroll loops with long bodies, and an accumulator that is
/// indexed by a variable lives in memory instead of a register.
macro_rules! for_each_row {
    ($r:ident < $rows:ident $body:block) => {
        for_each_row!(@ $r, $rows, $body, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15])
    };
    (@ $r:ident, $rows:ident, $body:block, [$($i:literal)+]) => {
        const { assert!($rows <= 16, "a tile has at most 16 rows") };
        $(if $i < $rows {
            let $r: usize = $i;
            $body
        })+
    };
}
#[cfg(target_arch = "x86_64")]
pub(crate) use for_each_row;

/// Computes the tile of `MR` rows that starts at `row`.
#[inline(always)]
unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(block: &Block<'_>, row: usize) {
    let Block { lda, k, a_sign, b, panel, col, cols, epilogue, .. } = *block;
    // SAFETY: the tile's rows and columns lie in the block, whose pointers are valid (contract of `Ukernel::run`);
    // biases and multipliers are padded to whole panels; the features are the entry point's.
    unsafe {
        let a = block.a.add(row * lda);
        let bias = epilogue.bias.as_ptr().add(col);
        let mut acc = [[D::start(bias); NV]; MR];
        #[allow(clippy::needless_range_loop, reason = "v is the second index of acc")]
        for v in 1..NV {
            let start = D::start(bias.add(v * NR));
            for_each_row!(r < MR { acc[r][v] = start; });
        }

        let mut staged = MaybeUninit::<[[D::A; KC]; MR]>::uninit();
        let mut done = 0;
        while done < k {
            let in_place = (k - done) / D::KR;
            let (rows, ld, groups) = if D::IN_PLACE == Some(a_sign) && in_place > 0 {
                (a.add(done).cast::<D::A>(), lda, in_place)
            } else {
                let len = (k - done).min(KC);
                let rows = staged.as_mut_ptr().cast::<D::A>();
                for r in 0..MR {
                    D::stage(a.add(r * lda + done), len, a_sign, rows.add(r * KC));
                }
                (rows.cast_const(), KC, len.div_ceil(D::KR))
            };
            let weights = b.add(done * NR);
            for g in 0..groups {
                let mut bv = [D::load_b(weights.add(g * NR * D::KR)); NV];
                for (v, bv) in bv.iter_mut().enumerate().skip(1) {
                    *bv = D::load_b(weights.add(v * panel + g * NR * D::KR));
                }
                for_each_row!(r < MR {
                    let av = D::splat(rows.add(r * ld + g * D::KR));
                    for (acc, bv) in acc[r].iter_mut().zip(bv) {
                        *acc = D::dot(*acc, av, bv);
                    }
                });
            }
            done += groups * D::KR;
        }

        let TileOut { out, ldc, residual, ldr } = block.to;
        let out = out.add(row * ldc);
        if let Some((quant, multiplier)) = epilogue.plain_half_even()
            && D::requantize(&acc, quant, multiplier.as_ptr().add(col), cols, out, ldc)
        {
            return;
        }
        let residual =
            if epilogue.residual().is_some() { residual.add(row * ldr) } else { residual };
        let mut spilled = MaybeUninit::<[[[i32; NR]; NV]; MR]>::uninit();
        let memory = spilled.as_mut_ptr().cast::<i32>();
        for_each_row!(r < MR {
            for (v, acc) in acc[r].iter().enumerate() {
                D::store(*acc, memory.add((r * NV + v) * NR));
            }
        });
        let acc = std::slice::from_raw_parts_mut(memory, MR * NV * NR);
        D::finish(Spill { block, acc, width: NV * NR, a, to: TileOut { out, ldc, residual, ldr } });
    }
}

/// The table of an ISA's tiles: one row per number of panels, tiles by falling MR. Each entry is the generic tile
/// compiled under the given attribute.
macro_rules! kernel_set {
    (#[$attr:meta] $isa:ident, $dot:ty, $([$($mr:literal x $nv:literal),+]),+) => {
        pub(crate) static SET: $crate::gemm::kernel::KernelSet = $crate::gemm::kernel::KernelSet {
            isa: $crate::cpu::Isa::$isa,
            kr: <$dot as $crate::gemm::kernel::Dot>::KR,
            in_place: <$dot as $crate::gemm::kernel::Dot>::IN_PLACE,
            tiles: &[$(&[$({
                #[$attr]
                unsafe fn run(block: &$crate::gemm::kernel::Block<'_>) {
                    // SAFETY: the caller keeps the contract of `Ukernel::run`.
                    unsafe { $crate::gemm::kernel::run_block::<$dot, $mr, $nv>(block) }
                }
                $crate::gemm::kernel::Ukernel { mr: $mr, run }
            }),+]),+],
        };
    };
}
pub(crate) use kernel_set;
