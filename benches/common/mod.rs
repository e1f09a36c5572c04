//! What the benchmarks of the integer kernels share.
#![allow(dead_code, reason = "not every bench asks everything")]

use std::{
    hint::black_box,
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};

use criterion::Criterion;
use requant_kernels::{
    Cpu, Isa,
    epilogue::{FixedPoint, Output, Requantize, Residual, Sign},
};

/// Criterion that takes some two seconds for each of the hundreds of cases there are, not eight.
pub(crate) fn tracker() -> Criterion {
    let criterion = Criterion::default().sample_size(20);
    criterion.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

/// The least time of one run, over runs of some 100 ms.
pub(crate) fn best_seconds(mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut best = f64::MAX;
    while start.elapsed().as_millis() < 100 {
        best = best.min(seconds(&mut run));
    }
    best
}

/// Seconds of one call of each of `runs`: the median over rounds in which they take turns, of the mean of each turn. The
/// clock drifts, and follows what is computed, so only what ran beside each other, and equally long, can be compared.
pub(crate) fn taking_turns<const N: usize>(mut runs: [&mut dyn FnMut(); N]) -> [f64; N] {
    let start = Instant::now();
    let longest = runs.iter_mut().map(|run| seconds(run)).fold(0.0, f64::max);
    let turn = f64::max(2e-3, 3.0 * longest);
    let mut rounds = [const { Vec::new() }; N];
    while rounds[0].len() < 5 || start.elapsed().as_millis() < 60 * N as u128 {
        for (run, rounds) in runs.iter_mut().zip(&mut rounds) {
            // Its data may have left the caches.
            run();
            let (mut calls, mut total) = (0, 0.0);
            while total < turn {
                total += seconds(run);
                calls += 1;
            }
            rounds.push(total / f64::from(calls));
        }
    }
    rounds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    })
}

fn seconds(run: &mut dyn FnMut()) -> f64 {
    let begin = Instant::now();
    run();
    begin.elapsed().as_secs_f64()
}

/// Values that begin at a cache line, as those in a model's arena do.
pub(crate) struct Lines<T = u8> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Lines<T> {
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![T::default(); len + 64];
        let start = memory.as_ptr().align_offset(64);
        Self { memory, start, len }
    }

    /// As many numbers.
    pub(crate) fn of(len: usize, value: impl Fn(usize) -> T) -> Self {
        let mut lines = Self::new(len);
        lines.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
        lines
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.start..][..self.len]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// TensorFlow's "same" padding of an even image at stride 2, top, left, bottom and right: more behind it than before.
pub(crate) const fn uneven_pads(kernel: usize) -> [usize; 4] {
    let (before, behind) = ((kernel - 2) / 2, (kernel - 1) / 2);
    [before, before, behind, behind]
}

/// What a layer's name says of its dilation, and of padding that is not the same on both sides.
pub(crate) fn marks(dilation: usize, pads: [usize; 4]) -> (String, &'static str) {
    let dilated = if dilation > 1 { format!("d{dilation}") } else { String::new() };
    (dilated, if pads[..2] == pads[2..] { "" } else { "-uneven" })
}

/// Requantization to u8, with a multiplier per column.
pub(crate) fn output(n: usize) -> Output {
    Output::Quant8 {
        sign: Sign::U8,
        requantize: Requantize::HalfEven((0..n).map(|n| 1e-4 + n as f32 * 1e-7).collect()),
        zero_point: 3,
        min: 0,
        max: 255,
        residual: None,
    }
}

/// TFLite's multipliers of `n` columns, those of [`output`].
pub(crate) fn fixed_points(n: usize) -> Vec<FixedPoint> {
    (0..n).map(|n| FixedPoint::from_real(1e-4 + n as f64 * 1e-7).unwrap()).collect()
}

/// A u8 residual that is added to a u8 result.
pub(crate) const RESIDUAL: Residual = Residual {
    sign: Sign::U8,
    domain: Sign::U8,
    conv_is_lhs: true,
    scale_a: 0.7,
    scale_b: 0.6,
    offset: 3.0,
    min: 0,
    max: 255,
};

/// Whether the filter of the command line, if any, names the ISA.
pub(crate) fn chosen(isa: Isa) -> bool {
    let mut filters = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
    filters.peek().is_none() || filters.any(|filter| filter.contains(isa.name()))
}

/// Operations per second, in 10⁹, of [`peak_loop`].
pub(crate) fn peak_gops(cpu: Cpu) -> f64 {
    let (ops, run) = peak_loop(cpu);
    ops / best_seconds(run) / 1e9
}

/// Independent chains of the multiply-add that the ISA's kernels are built on, and how many operations they are.
pub(crate) fn peak_loop(cpu: Cpu) -> (f64, impl FnMut()) {
    const ROUNDS: usize = 20_000;
    let ops_per_round = match cpu.isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => 4 * 16 * 16 * 64 * 2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => 24 * 64 * 2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bw => 12 * 32 * 2,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => 12 * 32 * 2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 12 * 16 * 2,
        #[cfg(target_arch = "x86_64")]
        Isa::Scalar => 12 * 8 * 2,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => 12 * 16 * 2,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => 24 * 16 * 2,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => 24 * 32 * 2,
        // A scalar multiply-add per step stands for instructions that there is no loop of here.
        _ => 8 * 2,
    };
    let run = move || match cpu.isa() {
        // SAFETY: a `Cpu` of this ISA proves its features.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { x86::tiles(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { x86::vnni(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bw => unsafe { x86::madd512(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86::vnni256(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::madd(ROUNDS) },
        #[cfg(target_arch = "x86_64")]
        Isa::Scalar => x86::madd128(ROUNDS),
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { arm::smlal(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => unsafe { arm::sdot(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => unsafe { arm::smmla(ROUNDS) },
        _ => scalar(ROUNDS),
    };
    ((ops_per_round * ROUNDS) as f64, run)
}

/// The same of vector registers, which some kernels work on where others have tiles.
pub(crate) fn vector_peak_gops(cpu: Cpu) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Amx, Ok(vectors)) = (cpu.isa(), Cpu::with_isa(Isa::Avx512Vnni)) {
        return peak_gops(vectors);
    }
    peak_gops(cpu)
}

/// Reads `bytes` bytes in order, with the widest loads of `cpu`.
pub(crate) fn reading(cpu: Cpu, bytes: usize) -> impl FnMut() {
    let data = vec![1u64; bytes / 8];
    move || {
        #[cfg(target_arch = "x86_64")]
        match cpu.isa() {
            Isa::Amx | Isa::Avx512Vnni | Isa::Avx512Bw => {
                // SAFETY: a `Cpu` of these ISAs proves the features.
                return unsafe { x86::read512(&data) };
            }
            Isa::AvxVnni | Isa::Avx2 => {
                // SAFETY: as above.
                return unsafe { x86::read256(&data) };
            }
            _ => {}
        }
        let _ = cpu;
        black_box(data.iter().fold(0, |sum, x| sum ^ x));
    }
}

fn scalar(rounds: usize) {
    let mut acc = [0i32; 8];
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = black_box(acc.wrapping_add(acc.wrapping_mul(3)));
        }
    }
    black_box(acc);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::asm, arch::x86_64::*, hint::black_box};

    /// What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
    #[repr(align(64))]
    struct TileConfig([u8; 64]);

    /// Four tiles of operands.
    #[repr(align(64))]
    struct Operands([u8; 4096]);

    /// Four chains of products of full tiles, which four more hold the operands of. These are numbers like any: with
    /// zeros, Emerald Rapids has a clock a fifth higher.
    ///
    /// # Safety
    /// AMX-INT8 is supported, and this process may use it.
    pub(super) unsafe fn tiles(rounds: usize) {
        let mut config = TileConfig([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (64, 16);
        }
        let operands = Operands(std::array::from_fn(|i| (i.wrapping_mul(0x9E37_79B1) >> 13) as u8));
        // SAFETY: tiles are configured, loaded from 1024 bytes each, and released in the end; one block, so that
        // nothing comes between.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tileloadd tmm4, [{operands} + {stride}]",
                "tileloadd tmm5, [{operands} + {stride} + 1024]",
                "tileloadd tmm6, [{operands} + {stride} + 2048]",
                "tileloadd tmm7, [{operands} + {stride} + 3072]",
                "2:",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm7",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &config.0, rounds = inout(reg) rounds => _,
                operands = in(reg) &operands.0, stride = in(reg) 64_usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly)
            );
        }
    }

    /// # Safety
    /// AVX-512 VNNI is supported.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn vnni(rounds: usize) {
        let (a, b) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(2)));
        let mut acc = [_mm512_setzero_si512(); 24];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: register arithmetic only; the function enables the feature. As asm, so that the compiler
                // cannot see that all chains are equal.
                unsafe {
                    asm!("vpdpbusd {0}, {1}, {2}", inout(zmm_reg) *acc, in(zmm_reg) a, in(zmm_reg) b,
                         options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// The portable tier's, whose registers have 128 bits.
    pub(super) fn madd128(rounds: usize) {
        // SAFETY: SSE2 is part of the target.
        let mut acc = [unsafe { _mm_setzero_si128() }; 12];
        let b = black_box(acc[0]);
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: as below.
                unsafe {
                    asm!("movdqa {t}, {1}", "pmaddwd {t}, {1}", "paddd {0}, {t}",
                         inout(xmm_reg) *acc, in(xmm_reg) b, t = out(xmm_reg) _,
                         options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// AVX2 is supported.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn madd(rounds: usize) {
        let (a, b) = (black_box(_mm256_set1_epi16(1)), black_box(_mm256_set1_epi16(2)));
        let mut acc = [_mm256_setzero_si256(); 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: as above.
                unsafe {
                    asm!("vpmaddwd {t}, {1}, {2}", "vpaddd {0}, {0}, {t}", inout(ymm_reg) *acc,
                         in(ymm_reg) a, in(ymm_reg) b, t = out(ymm_reg) _,
                         options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// AVX-512 BW is supported.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn madd512(rounds: usize) {
        let (a, b) = (black_box(_mm512_set1_epi16(1)), black_box(_mm512_set1_epi16(2)));
        let mut acc = [_mm512_setzero_si512(); 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: as above.
                unsafe {
                    asm!("vpmaddwd {t}, {1}, {2}", "vpaddd {0}, {0}, {t}", inout(zmm_reg) *acc,
                         in(zmm_reg) a, in(zmm_reg) b, t = out(zmm_reg) _,
                         options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// AVX-VNNI is supported.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) unsafe fn vnni256(rounds: usize) {
        let (a, b) = (black_box(_mm256_set1_epi8(1)), black_box(_mm256_set1_epi8(2)));
        let mut acc = [_mm256_setzero_si256(); 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: as above.
                unsafe {
                    asm!("{{vex}} vpdpbusd {0}, {1}, {2}", inout(ymm_reg) *acc, in(ymm_reg) a,
                         in(ymm_reg) b, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// AVX-512 F is supported.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn read512(data: &[u64]) {
        let mut acc = [_mm512_setzero_si512(); 8];
        for block in data.as_chunks::<64>().0 {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: 8 of the block's 64 values.
                let x = unsafe { _mm512_loadu_si512(block[i * 8..].as_ptr().cast()) };
                *acc = _mm512_xor_si512(*acc, x);
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// AVX2 is supported.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn read256(data: &[u64]) {
        let mut acc = [_mm256_setzero_si256(); 8];
        for block in data.as_chunks::<32>().0 {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: 4 of the block's 32 values.
                let x = unsafe { _mm256_loadu_si256(block[i * 4..].as_ptr().cast()) };
                *acc = _mm256_xor_si256(*acc, x);
            }
        }
        black_box(acc);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::{
        arch::{aarch64::*, asm},
        hint::black_box,
    };

    /// Two products are added as i16, then in pairs to i32: 16 multiply-adds.
    ///
    /// # Safety
    /// Neon is supported.
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn smlal(rounds: usize) {
        let (a, b) = (black_box(vdupq_n_s8(1)), black_box(vdupq_n_s8(2)));
        let mut acc = [vdupq_n_s32(0); 12];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: register arithmetic only; the function enables the feature. As asm, so that the compiler
                // cannot see that all chains are equal.
                unsafe {
                    asm!("smull {t:v}.8h, {a:v}.8b, {b:v}.8b", "smlal2 {t:v}.8h, {a:v}.16b, {b:v}.16b",
                         "sadalp {acc:v}.4s, {t:v}.8h", acc = inout(vreg) *acc, a = in(vreg) a, b = in(vreg) b,
                         t = out(vreg) _, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// `sdot` is supported.
    #[target_feature(enable = "neon,dotprod")]
    pub(super) unsafe fn sdot(rounds: usize) {
        let (a, b) = (black_box(vdupq_n_s8(1)), black_box(vdupq_n_s8(2)));
        let mut acc = [vdupq_n_s32(0); 24];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: as above.
                unsafe {
                    asm!("sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) *acc, a = in(vreg) a,
                         b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }

    /// # Safety
    /// `smmla` is supported.
    #[target_feature(enable = "neon,i8mm")]
    pub(super) unsafe fn smmla(rounds: usize) {
        let (a, b) = (black_box(vdupq_n_s8(1)), black_box(vdupq_n_s8(2)));
        let mut acc = [vdupq_n_s32(0); 24];
        for _ in 0..rounds {
            for acc in &mut acc {
                // SAFETY: as above.
                unsafe {
                    asm!("smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) *acc, a = in(vreg) a,
                         b = in(vreg) b, options(pure, nomem, nostack, preserves_flags));
                }
            }
        }
        black_box(acc);
    }
}
