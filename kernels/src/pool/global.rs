//! Global average pooling of 8-bit codes: `QLinearGlobalAveragePool` of ONNX Runtime, bit for bit, and the
//! mean over H and W. For f32 see [`Reduce`](crate::float::Reduce).

use super::average::{Sides, check_count};
use crate::cpu::Cpu;
use crate::error::{KernelError, check_len, checked_product};
use crate::multiversion::multiversion;
use crate::numeric::widen;
use crate::par::Parallel;
use crate::quantize::requantized;
use crate::sign::Sign;
use crate::simd::{MAX_SUM, Quad, blocks, quads};
use crate::split;

/// Mean over the pixels of each channel: `[batch, pixels, channels]` → `[batch, channels]`,
/// `y = clamp(rne(f32(Σ(x − z_x)) · (s_x / (s_y·f32(pixels)))) + z_y)` (`MlasQLinearGlobalAveragePool`;
/// checked against onnxruntime 1.32, u8 and s8).
#[derive(Clone, Copy, Debug)]
pub struct GlobalAveragePool8 {
    cpu: Cpu,
    batch: usize,
    pixels: usize,
    channels: usize,
    sides: Sides,
}

impl GlobalAveragePool8 {
    /// `x` and `y` are (scale, zero point) of input and output, both of type `sign`.
    ///
    /// # Errors
    /// If a scale or zero point is out of range, a size overflows, or there are so many pixels that a sum
    /// could overflow.
    pub fn new(
        cpu: Cpu,
        [batch, pixels, channels]: [usize; 3],
        sign: Sign,
        x: (f32, i32),
        y: (f32, i32),
    ) -> Result<Self, KernelError> {
        let sides = Sides { sign, x, y };
        sides.check()?;
        check_count(pixels)?;
        checked_product("the pooled tensor", &[batch, pixels, channels])?;
        Ok(Self { cpu, batch, pixels, channels, sides })
    }

    /// Pools `x` into `y`.
    ///
    /// # Errors
    /// If a slice is not of the length that the shape says.
    pub fn run(&self, par: &dyn Parallel, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
        check_len("x", x.len(), self.batch * self.pixels * self.channels)?;
        check_len("y", y.len(), self.batch * self.channels)?;
        if y.is_empty() {
            return Ok(());
        }
        if self.channels == 1 {
            // planes of NCHW, one after the other
            let planes = split::rows_per_task(self.pixels);
            split::chunks(par, y, planes, |i, y| {
                let x = &x[i * planes * self.pixels..][..y.len() * self.pixels];
                match self.sides.sign {
                    Sign::U8 => mean_planes::<false>(self.cpu, self, x, y),
                    Sign::S8 => mean_planes::<true>(self.cpu, self, x, y),
                }
            });
            return Ok(());
        }
        // A task takes a block of channels of one image; blocks end with the image.
        let block = split::rows_per_task(self.pixels).next_multiple_of(64).min(self.channels);
        let block = if self.channels.is_multiple_of(block) { block } else { self.channels };
        split::chunks(par, y, block, |i, y| {
            let (image, c) = (i * block / self.channels, i * block % self.channels);
            let x = &x[image * self.pixels * self.channels..][..self.pixels * self.channels];
            match (self.pixels <= EXACT, self.sides.sign) {
                (true, Sign::U8) => mean::<false>(self.cpu, self, c, x, y),
                (true, Sign::S8) => mean::<true>(self.cpu, self, c, x, y),
                (false, Sign::U8) => mean_large::<false>(self.cpu, self, c, x, y),
                (false, Sign::S8) => mean_large::<true>(self.cpu, self, c, x, y),
            }
        });
        Ok(())
    }
}

/// The largest number of pixels whose sum f32 holds exactly.
const EXACT: usize = (1 << 24) / 256;

quads!(fn mean[const S: bool][S] = mean_quads, mean_body(pool: &GlobalAveragePool8, c: usize, x: &[u8], y: &mut [u8]), y.len());
multiversion!(fn mean_large[const S: bool][S] = mean_body(pool: &GlobalAveragePool8, c: usize, x: &[u8], y: &mut [u8]));

multiversion!(fn mean_planes[const S: bool][S] = mean_planes_body(pool: &GlobalAveragePool8, x: &[u8], y: &mut [u8]));

#[inline(always)]
fn mean_planes_body<const S: bool>(pool: &GlobalAveragePool8, x: &[u8], y: &mut [u8]) {
    let GlobalAveragePool8 { sides, pixels, .. } = pool;
    let (start, m, (lo, hi)) =
        (-(*pixels as i32 * sides.x.1), sides.multiplier(*pixels), sides.bounds());
    for (i, y) in y.iter_mut().enumerate() {
        let plane = &x[i * pixels..][..*pixels];
        let sum = plane.iter().map(|&x| widen::<S>(x)).sum::<i32>();
        *y = requantized(start + sum, m, sides.y.1, lo, hi);
    }
}

#[inline(always)]
fn mean_quads<Q: Quad, const S: bool>(pool: &GlobalAveragePool8, c: usize, x: &[u8], y: &mut [u8]) {
    /// Blocks of channels taken together, so that more of each pixel's line is read at a time.
    const TOGETHER: usize = 4;
    let mut at = 0;
    while y.len() - at >= TOGETHER * Q::N {
        mean_blocks::<Q, S, TOGETHER>(pool, c + at, x, &mut y[at..]);
        at += TOGETHER * Q::N;
    }
    for block in blocks(y.len(), Q::N).filter(|&block| block + Q::N > at) {
        mean_blocks::<Q, S, 1>(pool, c + block, x, &mut y[block..]);
    }
}

#[inline(always)]
fn mean_blocks<Q: Quad, const S: bool, const B: usize>(
    pool: &GlobalAveragePool8,
    c: usize,
    x: &[u8],
    y: &mut [u8],
) {
    let GlobalAveragePool8 { sides, pixels, channels, .. } = *pool;
    let (codes, m) = (sides.codes(), Q::splat(sides.multiplier(pixels)));
    let hi = Q::splat(codes.offsets().1);
    let mut totals = [Q::splat(-(pixels as i32 * sides.x.1) as f32); B];
    for x in x.chunks(MAX_SUM * channels) {
        let mut sums = [Q::no_sums(); B];
        for pixel in x.chunks_exact(channels) {
            let pixel = &pixel[c..];
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = Q::add_codes::<S>(*sums, &pixel[i * Q::N..]);
            }
        }
        for (total, sums) in totals.iter_mut().zip(sums) {
            *total = total.add(Q::from_sums(sums));
        }
    }
    for (i, total) in totals.into_iter().enumerate() {
        total.mul(m).min(hi).store_codes::<S>(codes, &mut y[i * Q::N..]);
    }
}

#[inline(always)]
fn mean_body<const S: bool>(pool: &GlobalAveragePool8, c: usize, x: &[u8], y: &mut [u8]) {
    const BLOCK: usize = 64;
    let sides = &pool.sides;
    let (lo, hi) = sides.bounds();
    let m = sides.multiplier(pool.pixels);
    for (b, y) in y.chunks_mut(BLOCK).enumerate() {
        let mut acc = [-(pool.pixels as i32 * sides.x.1); BLOCK];
        let c = c + b * BLOCK;
        for pixel in x.chunks_exact(pool.channels) {
            // Two loops, so that the one over whole blocks has a fixed length.
            if let (BLOCK, Some(x)) = (y.len(), pixel[c..].first_chunk::<BLOCK>()) {
                for (a, &x) in acc.iter_mut().zip(x) {
                    *a += widen::<S>(x);
                }
            } else {
                for (a, &x) in acc.iter_mut().zip(&pixel[c..][..y.len()]) {
                    *a += widen::<S>(x);
                }
            }
        }
        for (y, &a) in y.iter_mut().zip(&acc) {
            *y = requantized(a, m, sides.y.1, lo, hi);
        }
    }
}
