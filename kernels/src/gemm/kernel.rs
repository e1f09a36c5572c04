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

pub(crate) use super::dot::{Dot, stage_bytes, stage_i16, stage_offset};
pub(crate) use super::strided::Strided;
use super::whole_rows::run_whole;

use super::{amx::TileUnit, driver::Grain, pack::PanelLayout};
use crate::{
    conv::BandSet,
    cpu::{Cpu, Isa},
    epilogue::{Epilogue, Keep, Kind, NR, Refill, Sign, TileOut, finish_tile},
};

/// Values of a row of A that are staged at a time: small enough for the stack and L1, a multiple of every KR.
const KC: usize = 256;

/// Rows of A times some neighbouring panels of B.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// `rows` rows of `k` values, `lda` bytes apart: raw bytes, or if `staged` what [`Dot::stage`] makes of them, with
    /// `k` a multiple of KR.
    pub(crate) a: *const u8,
    pub(crate) lda: usize,
    pub(crate) k: usize,
    pub(crate) a_sign: Sign,
    pub(crate) staged: bool,
    /// `Σ_k a` of each row, where weights have zero points.
    pub(crate) row_sums: *const i32,
    /// The first panel; panels are `panel` bytes apart.
    pub(crate) b: *const i8,
    pub(crate) panel: usize,
    /// How many groups of panels, each as wide as the tile, are covered one after the other.
    pub(crate) spans: usize,
    /// Weights that are read after those of the first span, as many for each: they are fetched meanwhile.
    pub(crate) ahead: &'a [i8],
    /// A multiple of the tile's MR.
    pub(crate) rows: usize,
    /// First column, a multiple of 16, and how many columns exist.
    pub(crate) col: usize,
    pub(crate) cols: usize,
    pub(crate) epilogue: &'a Epilogue,
    /// At row 0, column `col`.
    pub(crate) to: TileOut,
    /// Where K comes in several parts, for kernels that can: accumulators of earlier parts, 16 for each row.
    pub(crate) partial: Partial,
    /// Where `a` has raw rows although they are staged: where tiles stage them.
    pub(crate) ring: Option<Ring>,
}

/// Room for the rows of two tiles: those of the next are staged between products of this one. All panels go over a
/// tile's rows before the next rows come.
#[derive(Clone, Copy)]
pub(crate) struct Ring {
    pub(crate) to: *mut u8,
    /// Bytes from one staged row to the next.
    pub(crate) ld: usize,
    /// Values of a raw row.
    pub(crate) k: usize,
}

/// Which part of K a block is.
#[derive(Clone, Copy)]
pub(crate) struct Partial {
    /// Accumulators of 16 columns per row; unused where the block is all of K.
    pub(crate) sums: *mut i32,
    /// Accumulators start from `sums`, not from the bias.
    pub(crate) resumed: bool,
    /// Accumulators end in `sums`, not in the epilogue.
    pub(crate) suspended: bool,
}

impl Partial {
    /// All of K.
    pub(crate) const NONE: Self =
        Self { sums: std::ptr::null_mut(), resumed: false, suspended: false };
}

impl Block<'_> {
    /// The same from row `rows` on.
    pub(crate) fn skip_rows(self, rows: usize) -> Self {
        Self {
            a: self.a.wrapping_add(rows * self.lda),
            rows: self.rows - rows,
            row_sums: self.row_sums.wrapping_add(rows),
            to: self.to.at_row(rows),
            partial: Partial { sums: self.partial.sums.wrapping_add(rows * NR), ..self.partial },
            ..self
        }
    }
}

/// A tile's accumulators in memory, zero-point terms subtracted, with all that the epilogue may ask for.
pub(crate) struct Spill<'a> {
    pub(crate) epilogue: &'a Epilogue,
    pub(crate) acc: &'a mut [i32],
    pub(crate) width: usize,
    pub(crate) columns: (usize, usize),
    pub(crate) to: TileOut,
}

impl Spill<'_> {
    /// Runs the epilogue.
    ///
    /// # Safety
    /// As [`finish`], which made the spill.
    #[inline(always)]
    pub(crate) unsafe fn finish(self) {
        let Self { epilogue, acc, width, columns, to } = self;
        // SAFETY: same contract.
        unsafe { finish_tile(epilogue, acc, width, columns, to) }
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
    pub(crate) staged_as: Option<Sign>,
    /// `tiles[nv − 1]`: tiles of `nv` panels, by falling MR down to 1.
    pub(crate) tiles: &'static [&'static [Ukernel]],
    /// The same tiles over the pixels of a band, where the ISA has them.
    pub(crate) band: Option<&'static BandSet>,
    /// How rows of A are staged for all panels at once; without it the tiles do it, each for itself.
    pub(crate) stage: Option<Stage>,
    /// Writes `Σ_k a` of each of `rows` to `sums`.
    ///
    /// # Safety
    /// The set's ISA is supported, the rows are readable, and `sums` has room for as many values.
    pub(crate) row_sums: unsafe fn(rows: &Rows, sums: *mut i32),
    /// Tiles for panels that are widened to i16 before several rows go over them.
    pub(crate) wide: Option<Wide>,
    /// What computes blocks of many rows, where the ISA multiplies i16.
    #[cfg(target_arch = "x86_64")]
    pub(crate) crossed: Option<&'static super::crossed::CrossedSet>,
    /// What computes most blocks on tile registers, where the ISA has them.
    pub(crate) tiles_unit: Option<&'static TileUnit>,
}

/// Raw rows of A.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) a: *const u8,
    pub(crate) lda: usize,
    pub(crate) k: usize,
    pub(crate) count: usize,
    pub(crate) sign: Sign,
}

/// Staging of whole rows of A.
#[derive(Clone, Copy)]
pub(crate) struct Stage {
    /// Bytes of a staged value.
    pub(crate) bytes: usize,
    /// [`Dot::RING_K`].
    pub(crate) ring_k: usize,
    /// Writes what the dot product reads, each row `ld` bytes after the last, K rounded up to KR.
    ///
    /// # Safety
    /// The set's ISA is supported, the rows are readable, and `to` has room for as many.
    pub(crate) run: unsafe fn(rows: &Rows, to: *mut u8, ld: usize),
}

/// Tiles one panel wide on i16 panels. Their K counts bytes: 4 are two i16 of A or of a column of B.
#[derive(Clone, Copy)]
pub(crate) struct Wide {
    pub(crate) tiles: &'static [Ukernel],
    /// How many rows are computed by `first`.
    pub(crate) first_rows: usize,
    /// Computes the first rows of a block whose K counts values, widening the panel's weights to i16 on the way.
    ///
    /// # Safety
    /// That of [`Ukernel::run`], and there is room for the widened weights.
    pub(crate) first: unsafe fn(&Block<'_>, *mut i16),
}

impl std::fmt::Debug for KernelSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.isa.name())
    }
}

impl KernelSet {
    /// The kernels that `cpu` stands for.
    pub(crate) fn of(cpu: Cpu) -> &'static Self {
        #[cfg(any(test, feature = "testing"))]
        if let Some(set) = cpu.has_modelled_tiles().then(|| super::amx::modelled(cpu)).flatten() {
            return set;
        }
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &super::x86_avx2::SET,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &super::x86_avxvnni::SET,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bw => &super::x86_avx512bw::SET,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => &super::x86_avx512vnni::SET,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => &super::amx::SET,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::Neon => &super::arm_neon::SET,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::NeonDotprod => &super::arm_dotprod::SET,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Isa::NeonI8mm => &super::arm_i8mm::SET,
            _ => &super::scalar::SET,
        }
    }

    /// The kernels for the packed weights `b`, in the same layout: faster ones may exist where no weight is −128.
    pub(crate) fn for_weights(&'static self, b: &[i8]) -> &'static Self {
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        if self.isa == Isa::Neon && !b.contains(&i8::MIN) {
            return &super::arm_neon::symmetric::SET;
        }
        let _ = b;
        self
    }

    /// What is added to every activation of `sign` before it is multiplied.
    pub(crate) fn offset(&self, sign: Sign) -> i32 {
        stage_offset(self.staged_as, sign)
    }

    /// What multiplies on tile registers, if the ISA has them and `k` is worth it.
    pub(crate) fn tiles_for(&self, k: usize) -> Option<&'static TileUnit> {
        self.tiles_unit.filter(|_| k >= super::amx::MIN_K)
    }

    /// What tasks of `rows` rows and all of K are cut by.
    pub(crate) fn grain(&self, rows: usize, k: usize) -> Grain {
        let on_tiles = self.tiles_unit.and_then(|_| super::amx::grain(rows, k));
        on_tiles.unwrap_or(Grain::VECTORS)
    }

    /// Bytes that panels of `layout` take, with those after them that tiles may read.
    pub(crate) fn packed_bytes(&self, layout: &PanelLayout) -> usize {
        layout.bytes() + if self.tiles_unit.is_some() { super::amx::SLACK } else { 0 }
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
    if D::WHOLE_ROWS {
        // SAFETY: same contract; such ISAs stage rows before.
        return unsafe { run_whole::<D, MR, NV>(block) };
    }
    for span in 0..block.spans {
        for row in (0..block.rows).step_by(MR) {
            // SAFETY: `row + MR <= block.rows`, so the tile's rows lie inside the block's.
            unsafe { tile::<D, MR, NV>(block, span, row) }
        }
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
pub(crate) use for_each_row;

/// Computes the tile of `MR` rows that starts at `row`, in the panels of span `span`.
#[inline(always)]
unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(
    block: &Block<'_>,
    span: usize,
    row: usize,
) {
    let Block { lda, k, a_sign, panel, cols, epilogue, .. } = *block;
    let (b, col) = (block.b.wrapping_add(span * NV * panel), block.col + span * NV * NR);
    let cols = (cols - span * NV * NR).min(NV * NR);
    // SAFETY: the tile's rows and columns lie in the block, whose pointers are valid (contract of `Ukernel::run`);
    // the features are the entry point's.
    unsafe {
        let a = block.a.add(row * lda);
        let mut acc = start::<D, MR, NV>(epilogue, col);
        D::pair_rows(&mut acc);
        let mut staged = MaybeUninit::<[[D::A; KC]; MR]>::uninit();
        let mut done = 0;
        while done < k {
            let in_place = (k - done) / D::KR;
            let (rows, ld, groups) =
                if block.staged || (D::IN_PLACE == Some(a_sign) && in_place > 0) {
                    (a.cast::<D::A>().add(done), lda / size_of::<D::A>(), in_place)
                } else {
                    let len = (k - done).min(KC);
                    let rows = staged.as_mut_ptr().cast::<D::A>();
                    let raw = Rows { a: a.add(done), lda, k: len, count: MR, sign: a_sign };
                    D::stage_rows(&raw, rows.cast(), KC * size_of::<D::A>());
                    (rows.cast_const(), KC, len.div_ceil(D::KR))
                };
            D::accumulate(
                &mut acc,
                Strided { first: rows, stride: ld },
                Strided { first: b.add(done * NR), stride: panel },
                groups,
            );
            done += groups * D::KR;
        }
        D::unpair_rows(&mut acc);
        let row_sum = |r: usize| *block.row_sums.add(row + r);
        let to = block.to.at_row(row).at_column(span * NV * NR, epilogue.element_bytes());
        finish::<D, MR, NV>(&mut acc, epilogue, (col, cols), to, row_sum, &Keep);
    }
}

/// Accumulators of a tile whose first column is `col`, a multiple of 16, at their biases.
///
/// # Safety
/// The epilogue has columns from `col` on in so many panels; the target features of `D` are supported.
#[inline(always)]
pub(crate) unsafe fn start<D: Dot, const MR: usize, const NV: usize>(
    epilogue: &Epilogue,
    col: usize,
) -> [[D::Acc; NV]; MR] {
    // SAFETY: biases are padded to whole panels; the rest is the caller's promise.
    unsafe { start_from::<D, MR, NV>(epilogue.bias.as_ptr().add(col)) }
}

/// Accumulators of a tile, all of its rows at the values at `starts`.
///
/// # Safety
/// `NV` times 16 values are readable; the target features of `D` are supported.
#[inline(always)]
pub(crate) unsafe fn start_from<D: Dot, const MR: usize, const NV: usize>(
    starts: *const i32,
) -> [[D::Acc; NV]; MR] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[D::start(starts); NV]; MR];
        #[allow(clippy::needless_range_loop, reason = "v is the second index of acc")]
        for v in 1..NV {
            let start = D::start(starts.add(v * NR));
            for_each_row!(r < MR { acc[r][v] = start; });
        }
        acc
    }
}

/// Adds a group of KR products to a tile: of the MR rows of A at `row(0)` … and NV panels of B.
///
/// # Safety
/// The groups are readable; the target features of `D` are supported.
#[inline(always)]
pub(crate) unsafe fn group<D: Dot, const MR: usize, const NV: usize>(
    acc: &mut [[D::Acc; NV]; MR],
    row: impl Fn(usize) -> *const D::A,
    b: Strided<i8>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut bv = [D::load_b(b.first); NV];
        for (v, bv) in bv.iter_mut().enumerate().skip(1) {
            *bv = D::load_b(b.at(v, 0));
        }
        for_each_row!(r < MR {
            let av = D::splat(row(r));
            for (acc, bv) in acc[r].iter_mut().zip(bv) {
                *acc = D::dot(*acc, av, bv);
            }
        });
    }
}

/// Runs the epilogue of a tile: in registers where the ISA can, otherwise spilled. Answers whether rows were refilled.
///
/// # Safety
/// `col + cols` columns exist, as many as the tile has or fewer in its last panel; the output, and the residual where
/// there is one, span the tile; the target features of `D` are supported.
#[inline(always)]
pub(crate) unsafe fn finish<D: Dot, const MR: usize, const NV: usize>(
    acc: &mut [[D::Acc; NV]; MR],
    epilogue: &Epilogue,
    (col, cols): (usize, usize),
    to: TileOut,
    row_sum: impl Fn(usize) -> i32,
    refill: &impl Refill<D::Acc>,
) -> bool {
    // SAFETY: the caller's promise; zero points and multipliers are padded to whole panels.
    unsafe {
        if let Some(zeros) = &epilogue.w_zero {
            for_each_row!(r < MR {
                let sum = row_sum(r);
                for (v, acc) in acc[r].iter_mut().enumerate() {
                    *acc = D::sub_zeros(*acc, sum, zeros.as_ptr().add(col + v * NR));
                }
            });
        }
        if let Some((quant, multiplier)) = epilogue.plain_half_even()
            && D::requantize(
                acc,
                quant.stored(),
                multiplier.as_ptr().add(col),
                cols,
                to.out,
                to.ldc,
                refill,
            )
        {
            return true;
        }
        if cols == NV * NR {
            match &epilogue.kind {
                Kind::I32 => {
                    for_each_row!(r < MR {
                        for (v, acc) in acc[r].iter().enumerate() {
                            D::store(*acc, to.out.add(r * to.ldc).cast::<i32>().add(v * NR));
                        }
                    });
                    return false;
                }
                Kind::F32 { scales } => {
                    for_each_row!(r < MR {
                        for (v, acc) in acc[r].iter().enumerate() {
                            let out = to.out.add(r * to.ldc).cast::<f32>().add(v * NR);
                            D::store_scaled(*acc, scales.as_ptr().add(col + v * NR), out);
                        }
                    });
                    return false;
                }
                Kind::Quant8(quant) => {
                    if D::quantize(acc, quant, col, to, refill) {
                        return true;
                    }
                }
            }
        }
        let mut spilled = MaybeUninit::<[[[i32; NR]; NV]; MR]>::uninit();
        let memory = spilled.as_mut_ptr().cast::<i32>();
        for_each_row!(r < MR {
            for (v, acc) in acc[r].iter().enumerate() {
                D::store(*acc, memory.add((r * NV + v) * NR));
            }
        });
        let acc = std::slice::from_raw_parts_mut(memory, MR * NV * NR);
        D::finish(Spill { epilogue, acc, width: NV * NR, columns: (col, cols), to });
        false
    }
}

/// The table of an ISA's tiles: one row per number of panels, tiles by falling MR. Each entry is the generic tile
/// compiled under the given attribute; `MR x NV x U` makes it a thin one. `staged` sets stage rows of A once for all
/// panels.
macro_rules! kernel_set {
    (#[$attr:meta] $isa:ident, $dot:ty, $($tiles:tt),+) => {
        pub(crate) static SET: $crate::gemm::kernel::KernelSet = $crate::gemm::kernel::KernelSet {
            isa: $crate::cpu::Isa::$isa,
            kr: <$dot as $crate::gemm::kernel::Dot>::KR,
            in_place: <$dot as $crate::gemm::kernel::Dot>::IN_PLACE,
            staged_as: <$dot as $crate::gemm::kernel::Dot>::STAGED_AS,
            tiles: &[$($crate::gemm::kernel::tiles!(#[$attr] $dot, $tiles)),+],
            band: if <$dot as $crate::gemm::kernel::Dot>::ROW_BY_ROW {
                Some($crate::conv::band_set!(#[$attr] $dot, $($tiles),+))
            } else {
                None
            },
            stage: None,
            row_sums: {
                #[$attr]
                unsafe fn sums(rows: &$crate::gemm::kernel::Rows, sums: *mut i32) {
                    // SAFETY: the caller keeps the contract of `KernelSet::row_sums`.
                    unsafe { $crate::gemm::row_sums::row_sums(rows, sums) }
                }
                sums
            },
            wide: None,
            #[cfg(target_arch = "x86_64")]
            crossed: None,
            tiles_unit: None,
        };
    };
    (staged #[$attr:meta] $isa:ident, $dot:ty, $($tiles:tt),+) => {
        pub(crate) static SET: $crate::gemm::kernel::KernelSet = {
            $crate::gemm::kernel::kernel_set!(#[$attr] $isa, $dot, $($tiles),+);
            $crate::gemm::kernel::KernelSet {
                stage: Some($crate::gemm::kernel::Stage {
                    bytes: size_of::<<$dot as $crate::gemm::kernel::Dot>::A>(),
                    ring_k: <$dot as $crate::gemm::kernel::Dot>::RING_K,
                    run: {
                        #[$attr]
                        unsafe fn stage(rows: &$crate::gemm::kernel::Rows, to: *mut u8, ld: usize) {
                            // SAFETY: the caller keeps the contract of `Stage::run`.
                            unsafe { <$dot as $crate::gemm::kernel::Dot>::stage_rows(rows, to, ld) }
                        }
                        stage
                    },
                }),
                ..SET
            }
        };
    };
}
pub(crate) use kernel_set;

/// [`Wide`] of the tiles `$dot` on widened weights; `$mr` rows of `$narrow` widen them.
macro_rules! wide_tiles {
    (#[$attr:meta] $narrow:ty, $first:literal, $dot:ty, $tiles:tt) => {
        $crate::gemm::kernel::Wide {
            tiles: $crate::gemm::kernel::tiles!(
                #[$attr]
                $dot,
                $tiles
            ),
            first_rows: $first,
            first: {
                #[$attr]
                unsafe fn first(block: &$crate::gemm::kernel::Block<'_>, to: *mut i16) {
                    // SAFETY: the caller keeps the contract of `Wide::first`.
                    unsafe {
                        $crate::gemm::whole_rows::run_widening::<$narrow, $first>(block, to);
                    }
                }
                first
            },
        }
    };
}
pub(crate) use wide_tiles;

/// One row of the table of [`kernel_set!`].
macro_rules! tiles {
    (#[$attr:meta] $dot:ty, [$($mr:literal x $nv:literal $(x $u:literal)?),+]) => {
        &[$({
            #[$attr]
            unsafe fn run(block: &$crate::gemm::kernel::Block<'_>) {
                // SAFETY: the caller keeps the contract of `Ukernel::run`.
                unsafe { $crate::gemm::kernel::tiles!(@run block, $dot, $mr, $nv $(, $u)?) }
            }
            $crate::gemm::kernel::Ukernel { mr: $mr, run }
        }),+]
    };
    (@run $block:ident, $dot:ty, $mr:literal, $nv:literal) => {
        $crate::gemm::kernel::run_block::<$dot, $mr, $nv>($block)
    };
    (@run $block:ident, $dot:ty, $mr:literal, $nv:literal, $u:literal) => {
        $crate::gemm::whole_rows::run_thin::<$dot, $mr, $nv, $u>($block)
    };
}
pub(crate) use tiles;
