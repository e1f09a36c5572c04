#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use proptest::prelude::*;

use super::{
    band::{BandGroup, BandRows, takes_band},
    model::Model,
    pending::Pending,
    plan::{GROUP_STEPS, KParts, PART_STEPS, TILE_STEPS, panels_at_a_time},
    tiles::{
        S8S8, S8U8, Signs, TILE_BYTES, TILE_ROW_BYTES, TILE_ROWS, TileConfig, Tiles, U8S8, U8U8,
    },
    *,
};
use crate::{
    conv::kernel::PixelSteps,
    epilogue::{Epilogue, Output, Sign},
    gemm::{PanelLayout, pack::AlignedBytes, scalar},
};

fn value(sign: Sign, byte: u8) -> i64 {
    match sign {
        Sign::U8 => i64::from(byte),
        Sign::S8 => i64::from(byte as i8),
    }
}

/// `len` bytes: of a seed, or one of the extremes throughout.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    match seed % 8 {
        0 => vec![0xff; len],
        1 => vec![0x80; len],
        2 => vec![0x7f; len],
        _ => {
            let mut state = seed | 1;
            let mut next = || {
                state =
                    state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (state >> 56) as u8
            };
            (0..len).map(|_| next()).collect()
        }
    }
}

/// Sums, A, B, and the sums after one product.
fn product<S: Signs>(tiles: &mut impl Tiles, operands: [&[u8]; 3]) -> Vec<u8> {
    let [c, a, b] = operands;
    assert!(operands.iter().all(|bytes| bytes.len() == TILE_BYTES));
    let mut out = vec![0; TILE_BYTES];
    // SAFETY: every pointer is of 16 rows of 64 bytes.
    unsafe {
        tiles.load::<2>(c.as_ptr(), TILE_ROW_BYTES);
        tiles.load::<4>(a.as_ptr(), TILE_ROW_BYTES);
        tiles.load::<7>(b.as_ptr(), TILE_ROW_BYTES);
        tiles.dot::<S, 2, 4, 7>();
        tiles.store::<2>(out.as_mut_ptr(), TILE_ROW_BYTES);
    }
    out
}

/// The definition of a product.
fn naive(a_sign: Sign, b_sign: Sign, [c, a, b]: [&[u8]; 3]) -> Vec<u8> {
    let sum = |i: usize| {
        let (m, n) = (i / 16, i % 16);
        let start = i32::from_le_bytes(c[4 * i..][..4].try_into().unwrap());
        let dot: i64 = (0..64)
            .map(|k| value(a_sign, a[m * 64 + k]) * value(b_sign, b[k / 4 * 64 + 4 * n + k % 4]))
            .sum();
        start.wrapping_add(dot as i32)
    };
    (0..256).flat_map(|i| sum(i).to_le_bytes()).collect()
}

fn check_products(tiles: &mut impl Tiles, seed: u64) {
    let [c, a, b] = [seed, seed >> 8, seed >> 16].map(|seed| bytes(seed, TILE_BYTES));
    let operands = [&*c, &*a, &*b];
    let (u, s) = (Sign::U8, Sign::S8);
    assert_eq!(product::<U8S8>(tiles, operands), naive(u, s, operands), "u8 by s8");
    assert_eq!(product::<S8S8>(tiles, operands), naive(s, s, operands), "s8 by s8");
    assert_eq!(product::<U8U8>(tiles, operands), naive(u, u, operands), "u8 by u8");
    assert_eq!(product::<S8U8>(tiles, operands), naive(s, u, operands), "s8 by u8");
}

/// Rows at a distance, or one row 16 times.
fn check_strides(tiles: &mut impl Tiles) {
    let from: Vec<u8> = (0..16 * 80).map(|i| i as u8).collect();
    for stride in [0, 64, 67, 80] {
        let mut to = vec![0; 16 * 80];
        // SAFETY: 16 rows of 64 bytes, at most 80 apart.
        unsafe {
            tiles.load::<3>(from.as_ptr(), stride);
            tiles.store::<3>(to.as_mut_ptr(), 80);
        }
        for (r, row) in to.chunks(80).enumerate() {
            assert_eq!(row[..64], from[r * stride..][..64], "stride {stride}");
            assert_eq!(row[64..], [0; 16]);
        }
    }
}

fn modelled_tiles() -> Model {
    Model::configure(TileConfig::FULL)
}

/// The processor's tiles do what the model does, where there are any.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn the_processor_agrees_with_the_model() {
    if crate::Cpu::with_isa(crate::Isa::Amx).is_err() {
        return;
    }
    // SAFETY: the ISA is supported.
    let mut tiles = unsafe { asm::Processor::configure() };
    check_strides(&mut tiles);
    (0..300u64).for_each(|seed| check_products(&mut tiles, seed.wrapping_mul(0x9e37_79b9)));
}

/// The operating system saves tiles only while a thread has some: from their configuration to their release.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn tiles_are_in_use_until_they_are_released() {
    if crate::Cpu::with_isa(crate::Isa::Amx).is_err() {
        return;
    }
    // SAFETY: whatever has AMX has this register, of the parts of the state that are in use.
    let in_use = || unsafe {
        let low: u32;
        std::arch::asm!("xgetbv", in("ecx") 1, out("eax") low, out("edx") _);
        [17, 18].map(|part| low >> part & 1 == 1)
    };
    let line = [1; TILE_ROW_BYTES];
    assert_eq!(in_use(), [false; 2]);
    // SAFETY: the ISA is supported; a stride of 0 reads one line.
    let tiles = unsafe {
        let mut tiles = asm::Processor::configure();
        tiles.load::<0>(line.as_ptr(), 0);
        tiles
    };
    assert_eq!(in_use(), [true; 2]);
    drop(tiles);
    assert_eq!(in_use(), [false; 2]);
}

#[test]
fn strides_are_those_of_memory() {
    check_strides(&mut modelled_tiles());
}

#[test]
fn smaller_tiles_leave_zeros() {
    let mut config = TileConfig::FULL;
    (config.rows[1], config.row_bytes[1]) = (3, 20);
    let mut tiles = Model::configure(config);
    let (from, mut to) = ([7u8; TILE_BYTES], [1u8; TILE_BYTES]);
    // SAFETY: both are tiles.
    unsafe {
        tiles.load::<1>(from.as_ptr(), TILE_ROW_BYTES);
        tiles.store::<1>(to.as_mut_ptr(), TILE_ROW_BYTES);
    }
    let is_loaded = |i: usize| i / 64 < 3 && i % 64 < 20;
    assert!(to.iter().enumerate().all(|(i, &b)| b == if is_loaded(i) { 7 } else { 1 }));
}

#[test]
fn what_the_processor_refuses_is_a_panic() {
    let refused = |change: fn(&mut TileConfig)| {
        let mut config = TileConfig::FULL;
        change(&mut config);
        std::panic::catch_unwind(|| {
            let operands = [[0; TILE_BYTES]; 3];
            product::<U8S8>(&mut Model::configure(config), operands.each_ref().map(|o| &o[..]))
        })
        .is_err()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|config| config.palette = 0));
    assert!(refused(|config| config.rows[2] = 17));
    assert!(refused(|config| config.row_bytes[4] = 60));
    assert!(refused(|config| config.rows[2] = 15));
    assert!(refused(|config| (config.rows[7], config.row_bytes[7]) = (0, 0)));
    assert!(refused(|config| (config.rows[8], config.row_bytes[8]) = (1, 4)));
}

/// Finishes with the scalar kernels' epilogue.
unsafe fn finish(pending: &mut Pending<'_>) {
    // SAFETY: the caller's contract; plain Rust needs no features.
    unsafe { pending.part::<scalar::Portable<i16>>() }
}

/// The model, which may read of A what lies within it, and nothing near it.
struct Watched {
    model: Model,
    a: Range<usize>,
}

impl Tiles for Watched {
    const KEEPS: bool = false;

    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        let Range { start, end } = self.a;
        let rows = (0..TILE_ROWS).map(|r| from as usize + r * stride);
        for row in rows.filter(|row| (start - TILE_ROW_BYTES..end + TILE_ROW_BYTES).contains(row)) {
            assert!(start <= row && row + TILE_ROW_BYTES <= end, "a row of a tile beside A");
        }
        // SAFETY: same contract.
        unsafe { self.model.load::<T>(from, stride) }
    }

    unsafe fn load_far<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: same contract.
        unsafe { self.model.load_far::<T>(from, stride) }
    }

    unsafe fn zero<const T: usize>(&mut self) {
        // SAFETY: same contract.
        unsafe { self.model.zero::<T>() }
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: same contract.
        unsafe { self.model.store::<T>(to, stride) }
    }

    unsafe fn dot<S: Signs, const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: same contract.
        unsafe { self.model.dot::<S, C, A, B>() }
    }
}

unsafe fn all<S: Signs>(
    tiles: &mut Watched,
    core: &Core<'_>,
    operands: Operands<'_>,
    plan: &Plan,
    scratch: &mut [i8],
) {
    // SAFETY: as above.
    unsafe {
        multiply_all::<_, S, scalar::Portable<i16>>(tiles, core, operands, plan, scratch, finish)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Planned,
    ByParts,
    Shifted,
}

/// `rows × k` by `k × n` on the model, against the definition: rows `lda` bytes apart, the first `offset` bytes beyond a
/// cache line.
fn check_gemm<S: Signs>(
    (rows, n, k): (usize, usize, usize),
    (pad, offset): (usize, usize),
    zero: i32,
    seed: u64,
) {
    let lda = k + pad;
    // Between lines that nothing may read.
    let (start, len) = (2 * TILE_ROW_BYTES + offset, (rows - 1) * lda + k);
    let mut a = AlignedBytes::zeroed(start + len + 2 * TILE_ROW_BYTES);
    for (to, from) in a.as_mut_slice().iter_mut().zip(bytes(seed, start + len)) {
        *to = from as i8;
    }
    let a = &a.as_slice()[start..][..len];
    let b = bytes(seed >> 8, k * n);
    let layout = PanelLayout::new(k, n, 4).unwrap();
    let mut packed = AlignedBytes::zeroed(layout.bytes() + SLACK);
    // What follows the weights must not matter.
    packed.as_mut_slice().fill(0x55);
    layout.pack(packed.as_mut_slice(), |k, j| b[k * n + j] as i8);
    let bias: Vec<i32> = (0..n as i32).map(|n| n * 1000 - 7).collect();
    let w_zero = (zero != 0).then_some([zero]);
    let epilogue = Epilogue::new(n, bias, w_zero.as_ref().map(|z| &z[..]), &Output::I32).unwrap();
    let core = Core {
        set: &scalar::SET,
        layout,
        packed: packed.as_slice(),
        epilogue: &epilogue,
        a_sign: S::A,
        sums: &vec![0; n],
        depth: (0, k),
    };
    // As planned, with all rows and panels in each part of K, and with weights that move.
    for way in [Way::Planned, Way::ByParts, Way::Shifted] {
        if way == Way::Shifted && !(rows > 2 * BLOCK_ROWS && lda % 64 == 0 && zero == 0) {
            continue;
        }
        let mut y = vec![0x5a5a_5a5ai32; rows * (n + 3)];
        let to = TileOut {
            out: y.as_mut_ptr().cast(),
            ldc: (n + 3) * 4,
            residual: std::ptr::null(),
            ldr: 0,
        };
        let (first, panels) = (a.as_ptr().cast::<u8>(), layout.panels());
        let some = |panels: Range<usize>| {
            let to = to.at_column(panels.start * NR, 4);
            Operands { source: Source::Matrix(first), lda, rows, panels, to }
        };
        let operands = some(0..panels);
        let mut plan = Plan::new(&layout, &operands);
        if way == Way::ByParts {
            let part_rows = rows.next_multiple_of(BLOCK_ROWS);
            plan = Plan { at_a_time: panels, part_rows, far: true, ..plan };
        }
        let a_range = first as usize..first as usize + len;
        let tiles = &mut Watched { model: modelled_tiles(), a: a_range };
        // SAFETY: A has so many rows, `y` room for them; weights are followed by the slack.
        unsafe {
            if way == Way::Shifted {
                let shift = Shift::new(first, layout);
                for panels in [0..panels / 2, panels / 2..panels] {
                    let code = Code { all: all::<S>, shift: |s, from, to| s.panels(from, to) };
                    run_shifted(&shift, tiles, &core, some(panels), code);
                }
            } else {
                run_as(&plan, tiles, &core, operands, all::<S>);
            }
        }
        for (r, y) in y.chunks(n + 3).enumerate() {
            for (j, &y) in y[..n].iter().enumerate() {
                let sum: i64 = (0..k)
                    .map(|k| {
                        let a = value(S::A, a[r * lda + k] as u8);
                        a * (value(S::B, b[k * n + j]) - i64::from(zero))
                    })
                    .sum();
                assert_eq!(y, (sum + j as i64 * 1000 - 7) as i32, "row {r}, column {j}");
            }
            assert_eq!(y[n..], [0x5a5a_5a5a; 3]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_model_multiplies_as_defined(seed in any::<u64>()) {
        check_products(&mut modelled_tiles(), seed);
    }

    #[test]
    fn matrices_of_all_signs_match_the_definition(
        rows in 1usize..140, n in 1usize..90, k in 1usize..200,
        pad in prop_oneof![Just(0usize), 0usize..70], whole_lines in any::<bool>(),
        offset in prop_oneof![Just(0usize), 0usize..64],
        zero in prop_oneof![Just(0), -128i32..127], seed in any::<u64>(),
    ) {
        let pad = if whole_lines { (k + pad).next_multiple_of(64) - k } else { pad };
        check_gemm::<U8S8>((rows, n, k), (pad, offset), zero, seed);
        check_gemm::<S8S8>((rows, n, k), (pad, offset), zero, seed);
        check_gemm::<U8U8>((rows, n, k), (pad, offset), 0, seed);
        check_gemm::<S8U8>((rows, n, k), (pad, offset), 0, seed);
    }
}

/// Rows in place and copied, of which a group stays in L1 or a tile, K in several parts, and panels in several blocks.
#[test]
fn blocked_matrices_match_the_definition() {
    let cases = [
        ((64, 32, 128), (0, 0)),
        ((64, 32, 128), (64, 0)),
        ((64, 32, 128), (0, 1)),
        ((64, 64, 128), (1, 0)),
        ((64, 65, 128), (1, 0)),
        ((64, 80, 288), (32, 0)),
        ((64, 80, 1100), (52, 0)),
        ((48, 48, 1100), (1, 3)),
        ((49, 80, 1024), (0, 0)),
        ((49, 48, 1025), (63, 0)),
        ((16, 80, 2048), (64, 0)),
        ((37, 40, 3333), (3, 5)),
        ((64, 80, 1344), (64, 0)),
        ((49, 80, 1300), (1, 0)),
        ((64, 64, 1288), (0, 0)),
        ((52, 64, 1344), (64, 0)),
        ((97, 80, 1200), (16, 63)),
        ((97, 80, 1270), (10, 63)),
        ((100, 40, 1344), (64, 9)),
        ((64, 80, 2048), (0, 0)),
        ((50, 40, 2048), (2048, 0)),
        ((64, 80, 2368), (0, 0)),
        ((64, 80, 2368), (64, 1)),
        ((49, 80, 2330), (1, 0)),
        ((64, 64, 2312), (0, 0)),
        ((52, 64, 2368), (64, 0)),
        ((97, 80, 2310), (58, 63)),
        ((33, 1100, 1300), (0, 0)),
    ];
    let layout = |(_, n, k)| PanelLayout::new(k, n, 4).unwrap();
    let in_blocks =
        |shape| panels_at_a_time(&layout(shape), layout(shape).panels()) < layout(shape).panels();
    assert_eq!(cases.iter().filter(|((_, _, k), _)| KParts::new(*k, true).parts > 1).count(), 7);
    assert!(in_blocks(cases.last().unwrap().0));
    for (shape, place) in cases {
        for seed in [0x0001_0203, 0x0305_0706] {
            check_gemm::<U8S8>(shape, place, 0, seed);
            check_gemm::<S8S8>(shape, place, 3, seed);
        }
    }
}

#[test]
fn k_is_cut_evenly() {
    for k in 1..5000 {
        for (is_matrix, longest) in [(true, TILE_STEPS), (false, GROUP_STEPS)] {
            let cut = KParts::new(k, is_matrix);
            let most = if cut.parts > 1 { PART_STEPS } else { longest };
            let steps: usize = (0..cut.parts).map(|part| cut.part(part).1).sum();
            assert_eq!(steps, k.div_ceil(64));
            for part in 0..cut.parts {
                let (first, steps) = cut.part(part);
                assert!((1..=most).contains(&steps) && first == part * cut.steps, "{k}: {cut:?}");
            }
        }
    }
}

#[test]
fn few_rows_and_short_sums_stay_on_vectors() {
    assert_eq!(rows_on_tiles(4, 1000), 0);
    assert_eq!(rows_on_tiles(100, 63), 0);
    assert_eq!(rows_on_tiles(5, 64), 5);
    assert_eq!(rows_on_tiles(49, 64), 48);
    assert_eq!(rows_on_tiles(50, 64), 48);
    assert_eq!(rows_on_tiles(51, 64), 51);
    assert_eq!(rows_on_tiles(32, 64), 32);
}

/// What is finished last of every pixel is what a tile read at its place, and no more is.
#[test]
fn tiles_of_a_band_cover_its_pixels() {
    for (rows, width) in (1..5).flat_map(|rows| (8..70).map(move |width| (rows, width))) {
        let (step, row_step) = (128, 64 * (2 * width + 3));
        let steps = PixelSteps { width, step, row_step };
        let patch = Patch { steps, segments: &[0], len: 64, shared: &[], remainders: 0 };
        let band = BandRows { at: std::ptr::null(), patch, rows };
        let mut read = vec![usize::MAX; rows * width];
        for row in (0..band.tile_rows()).step_by(BLOCK_ROWS) {
            let BandGroup { first, tile, pixel, rows, back } = band.group(row);
            for i in 0..rows {
                let (second, r) = (i / TILE_ROWS, i % TILE_ROWS);
                let at = first as usize + second * tile + r * step;
                read[pixel + i - second * back] = at;
            }
        }
        let expected = |pixel: usize| pixel / width * row_step + pixel % width * step;
        assert_eq!(read, (0..rows * width).map(expected).collect::<Vec<_>>(), "{rows} × {width}");
    }
}

#[test]
fn patches_of_whole_lines_are_read_from_bands() {
    let takes = |width, channels: usize, taps: usize, stride: usize| {
        let row_step = (width * stride + taps) * channels;
        let steps = PixelSteps { width, step: stride * channels, row_step };
        let segments: Vec<usize> = (0..taps).map(|row| row * row_step).collect();
        let len = taps * channels;
        takes_band(&Patch { steps, segments: &segments, len, shared: &[], remainders: 0 })
    };
    assert!(takes(56, 64, 3, 1) && takes(14, 256, 3, 1) && takes(28, 128, 3, 2));
    // Parts of lines, rows of which tiles would be half empty, sets of L1, more than fits it.
    assert!(!takes(56, 96, 3, 1) && !takes(17, 64, 3, 1));
    assert!(!takes(14, 2048, 3, 1) && !takes(14, 1024, 3, 1));
}
