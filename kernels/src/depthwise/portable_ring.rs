//! The vectors of the ring method on `wide`'s registers: 16 bytes, pairs of columns as i16.

use wide::{bytemuck::cast, f32x4, i16x8, i32x4, u8x16};

use super::{
    lanes::{HalfEven, Lanes},
    pairs::load16,
    ring::{Fused, RingKernel, Strips, VECTORS},
    strip::{Strip, copy_lanes, finish, strip},
};
use crate::{
    epilogue::{Epilogue, NR, Quant, Sign, TileOut},
    simd::portable::{pack16, pack32, round, widen16},
};

/// What a result is clamped to and how it is packed: in the u8 domain, from which s8 is flipped back.
#[derive(Clone, Copy)]
struct Narrow {
    zero_point: i16x8,
    low: u8x16,
    high: u8x16,
    flip: u8x16,
}

struct Portable;

impl Lanes for Portable {
    type Vector = u8x16;
    type Narrow = Narrow;
    const BYTES: usize = 16;
    const COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> u8x16 {
        // SAFETY: the caller's contract.
        unsafe { from.cast::<u8x16>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(vector: u8x16, to: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe { to.cast::<u8x16>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn gather<const PARTS: usize>(from: [*const u8; PARTS], lanes: usize) -> u8x16 {
        const { assert!(PARTS == 1, "a part has 16 channels at least") };
        // SAFETY: the caller's contract.
        unsafe { u8x16::new(load16(from[0], lanes)) }
    }

    #[inline(always)]
    unsafe fn scatter<const PARTS: usize>(bytes: u8x16, _part: usize, lanes: usize, to: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe {
            if lanes == NR {
                Self::store(bytes, to);
            } else {
                copy_lanes(bytes.as_array().as_ptr(), to, lanes);
            }
        }
    }

    #[inline(always)]
    unsafe fn spill(acc: u8x16, to: *mut i32) {
        // SAFETY: the caller's contract.
        unsafe { to.cast::<u8x16>().write_unaligned(acc) }
    }

    #[inline(always)]
    unsafe fn flip(bytes: u8x16, by: u8) -> u8x16 {
        bytes ^ u8x16::splat(by)
    }

    #[inline(always)]
    unsafe fn pair(a: u8x16, b: u8x16) -> [u8x16; 2] {
        [u8x16::unpack_low(a, b), u8x16::unpack_high(a, b)]
    }

    #[inline(always)]
    unsafe fn cell([low, high]: [u8x16; 2], _next: [u8x16; 2]) -> [u8x16; VECTORS] {
        let ([a, b], [c, d]) = (widen16::<false>(low), widen16::<false>(high));
        [cast(a), cast(b), cast(c), cast(d)]
    }

    #[inline(always)]
    unsafe fn dot(acc: u8x16, cell: u8x16, w: u8x16) -> u8x16 {
        let products = cast::<u8x16, i16x8>(cell).dot(cast(w));
        cast(cast::<u8x16, i32x4>(acc) + products)
    }

    #[inline(always)]
    unsafe fn narrow(quant: &Quant) -> Narrow {
        let (shift, flip) = match quant.sign {
            Sign::U8 => (0, 0),
            Sign::S8 => (128, 0x80),
        };
        let zero_point = quant.zero_point + shift;
        Narrow {
            zero_point: i16x8::splat(zero_point as i16),
            low: u8x16::splat((quant.low + zero_point) as u8),
            high: u8x16::splat((quant.high + zero_point) as u8),
            flip: u8x16::splat(flip),
        }
    }

    #[inline(always)]
    unsafe fn round(acc: [u8x16; 2], m: [u8x16; 2]) -> u8x16 {
        let scaled = |v: usize| round(f32x4::from_i32x4(cast(acc[v])) * cast::<u8x16, f32x4>(m[v]));
        cast(pack32(scaled(0), scaled(1)))
    }

    #[inline(always)]
    unsafe fn bytes<const N: usize>(n: Narrow, low: [u8x16; N], high: [u8x16; N]) -> [u8x16; N] {
        let mut bytes = low;
        for (bytes, high) in bytes.iter_mut().zip(high) {
            let low = cast::<u8x16, i16x8>(*bytes).saturating_add(n.zero_point);
            let high = cast::<u8x16, i16x8>(high).saturating_add(n.zero_point);
            *bytes = pack16::<false>(low, high).max(n.low).min(n.high) ^ n.flip;
        }
        bytes
    }

    #[inline(never)]
    unsafe fn finish(epilogue: &Epilogue, acc: &mut [i32], channel: usize, to: TileOut) {
        // SAFETY: same contract.
        unsafe { finish(epilogue, acc, channel, to) }
    }
}

unsafe fn portable<const STRIDE: usize>(s: &Strip<'_>) {
    // SAFETY: same contract; no features are needed.
    unsafe {
        let fused = s.epilogue.plain_half_even().map(|(quant, _)| (quant, HalfEven));
        strip::<Portable, HalfEven, STRIDE, 1, 4>(s, fused)
    }
}

static STRIPS: Strips = [&[portable::<1>], &[portable::<2>]];

pub(super) static PORTABLE: RingKernel =
    RingKernel { vector: 16, columns: 2, strips: [STRIPS; Fused::KINDS] };
