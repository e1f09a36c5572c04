//! Copies of short runs, without a call for each: that takes longer than their bytes.

use crate::cpu::Cpu;
use crate::multiversion::multiversion;

const LINE: usize = 64;

/// Bytes of the longest runs that are copied line by line.
const MOST_LINES: usize = 1024;

/// Bytes in runs that follow each other at a distance.
pub(crate) struct Runs {
    pub(crate) count: usize,
    /// Bytes of one run.
    pub(crate) len: usize,
    /// From one run to the next in the input and in the output.
    pub(crate) steps: [usize; 2],
}

impl Runs {
    /// Copies the runs of `x` to those of `y`.
    pub(crate) fn copy(&self, cpu: Cpu, x: &[u8], y: &mut [u8]) {
        match self.len {
            0 => {}
            1 => ends_of_all::<1>(cpu, self, x, y),
            2..=4 => ends_of_all::<2>(cpu, self, x, y),
            5..=8 => ends_of_all::<4>(cpu, self, x, y),
            9..=16 => ends_of_all::<8>(cpu, self, x, y),
            17..=32 => ends_of_all::<16>(cpu, self, x, y),
            33..=64 => ends_of_all::<32>(cpu, self, x, y),
            65..=128 => ends_of_all::<64>(cpu, self, x, y),
            129..=MOST_LINES => lines_of_all(cpu, self, x, y),
            _ => self.each(x, y, |x, y| y.copy_from_slice(x)),
        }
    }

    #[inline(always)]
    fn each(&self, x: &[u8], y: &mut [u8], copy: impl Fn(&[u8], &mut [u8])) {
        let Self { count, len, steps } = *self;
        for i in 0..count {
            copy(&x[i * steps[0]..][..len], &mut y[i * steps[1]..][..len]);
        }
    }
}

multiversion!(fn ends_of_all[const N: usize][N] = ends_of_all_body(runs: &Runs, x: &[u8], y: &mut [u8]));
multiversion!(fn lines_of_all = lines_of_all_body(runs: &Runs, x: &[u8], y: &mut [u8]));

/// Copies runs of `N` to `2·N` bytes.
#[inline(always)]
fn ends_of_all_body<const N: usize>(runs: &Runs, x: &[u8], y: &mut [u8]) {
    runs.each(x, y, copy_ends::<u8, N>);
}

/// Copies runs of a line or more.
#[inline(always)]
fn lines_of_all_body(runs: &Runs, x: &[u8], y: &mut [u8]) {
    runs.each(x, y, copy_run);
}

/// Copies `N` to `2·N` values, in two pieces that overlap.
#[inline(always)]
fn copy_ends<T: Copy, const N: usize>(src: &[T], dst: &mut [T]) {
    let at = dst.len() - N;
    dst[..N].copy_from_slice(&src[..N]);
    dst[at..].copy_from_slice(&src[at..]);
}

/// `dst.copy_from_slice(src)`: whole lines, and a last one that may overlap them.
#[inline(always)]
pub(crate) fn copy_run(src: &[u8], dst: &mut [u8]) {
    assert_eq!(src.len(), dst.len());
    let (Some(last), Some(to_last)) = (src.last_chunk::<LINE>(), dst.last_chunk_mut::<LINE>())
    else {
        return copy_short(src, dst);
    };
    *to_last = *last;
    for (to, line) in dst.as_chunks_mut::<LINE>().0.iter_mut().zip(src.as_chunks::<LINE>().0) {
        *to = *line;
    }
}

/// `dst.copy_from_slice(src)` of few values.
#[inline(always)]
pub(crate) fn copy_short<T: Copy>(src: &[T], dst: &mut [T]) {
    assert_eq!(src.len(), dst.len());
    match src.len() {
        65.. => dst.copy_from_slice(src),
        32.. => copy_ends::<T, 32>(src, dst),
        16.. => copy_ends::<T, 16>(src, dst),
        8.. => copy_ends::<T, 8>(src, dst),
        4.. => copy_ends::<T, 4>(src, dst),
        _ => dst.iter_mut().zip(src).for_each(|(d, s)| *d = *s),
    }
}
