//! Copies of short runs.

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
    ///
    /// Up to 128 bytes are copied as two pieces of a fixed size, which overlap, and some more as lines: a call for each
    /// run takes longer than its bytes.
    pub(crate) fn copy(&self, cpu: Cpu, x: &[u8], y: &mut [u8]) {
        match self.len {
            0 => {}
            1 => copy_ends::<1>(cpu, self, x, y),
            2..=4 => copy_ends::<2>(cpu, self, x, y),
            5..=8 => copy_ends::<4>(cpu, self, x, y),
            9..=16 => copy_ends::<8>(cpu, self, x, y),
            17..=32 => copy_ends::<16>(cpu, self, x, y),
            33..=64 => copy_ends::<32>(cpu, self, x, y),
            65..=128 => copy_ends::<64>(cpu, self, x, y),
            129..=MOST_LINES => copy_lines(cpu, self, x, y),
            len => {
                for i in 0..self.count {
                    let x = &x[i * self.steps[0]..][..len];
                    y[i * self.steps[1]..][..len].copy_from_slice(x);
                }
            }
        }
    }
}

multiversion!(fn copy_ends[const N: usize][N] = copy_ends_body(runs: &Runs, x: &[u8], y: &mut [u8]));

multiversion!(fn copy_lines = copy_lines_body(runs: &Runs, x: &[u8], y: &mut [u8]));

/// Copies runs of a line or more: whole lines, and a last one that may overlap them.
#[inline(always)]
fn copy_lines_body(runs: &Runs, x: &[u8], y: &mut [u8]) {
    let Runs { count, len, steps } = *runs;
    for i in 0..count {
        let (x, y) = (&x[i * steps[0]..][..len], &mut y[i * steps[1]..][..len]);
        y[len - LINE..].copy_from_slice(&x[len - LINE..]);
        for (y, x) in y.as_chunks_mut::<LINE>().0.iter_mut().zip(x.as_chunks::<LINE>().0) {
            *y = *x;
        }
    }
}

/// Copies runs of `N` to `2·N` bytes.
#[inline(always)]
fn copy_ends_body<const N: usize>(runs: &Runs, x: &[u8], y: &mut [u8]) {
    let Runs { count, len, steps } = *runs;
    for i in 0..count {
        let (x, y) = (&x[i * steps[0]..][..len], &mut y[i * steps[1]..][..len]);
        y[..N].copy_from_slice(&x[..N]);
        y[len - N..].copy_from_slice(&x[len - N..]);
    }
}
