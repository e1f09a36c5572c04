//! The memory of one session: a 64-byte aligned block, cut into disjoint views step by step.
//!
//! A step writes a few blocks and reads others. The written ones are split off with `split_at_mut`, what
//! lies between them can then be shared by any number of readers: no `unsafe` is needed, and a plan that
//! let a written block overlap another would be caught here instead of corrupting values.

use bytemuck::{Pod, Zeroable};
use requant_ir::ALIGN;
use std::ops::Range;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

/// Aligned bytes that never move.
#[derive(Default)]
pub(crate) struct Arena {
    lines: Vec<Line>,
}

/// Blocks that one step writes at most: results and scratch.
pub(crate) const MAX_WRITTEN: usize = 4;

impl Arena {
    /// Zeroed memory for `bytes` bytes; `None` when it cannot be had.
    pub(crate) fn new(bytes: usize) -> Option<Arena> {
        let n = bytes.div_ceil(ALIGN);
        let mut lines = Vec::new();
        lines.try_reserve_exact(n).ok()?;
        lines.resize(n, Line([0; ALIGN]));
        Some(Arena { lines })
    }

    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
    }

    /// All bytes, to write.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// The blocks `written`, in that order, and everything else to read.
    ///
    /// # Panics
    /// If blocks overlap or leave the arena, which a plan never lets happen.
    pub(crate) fn split<'a, const N: usize>(
        &'a mut self,
        written: &[Range<usize>; N],
    ) -> ([&'a mut [u8]; N], Readable<'a>) {
        const { assert!(N <= MAX_WRITTEN) };
        let mut order: [usize; N] = std::array::from_fn(|i| i);
        order.sort_unstable_by_key(|&i| (written[i].start, written[i].end));
        let mut blocks: [&'a mut [u8]; N] = std::array::from_fn(|_| Default::default());
        let mut readable = Readable { parts: [(0, &[]); MAX_WRITTEN + 1] };
        let mut rest = self.bytes_mut();
        let mut at = 0;
        for (n, &i) in order.iter().enumerate() {
            let Range { start, end } = written[i];
            let (before, from) =
                rest.split_at_mut(start.checked_sub(at).expect("written blocks are disjoint"));
            let (block, after) = from.split_at_mut(end - start);
            readable.parts[n] = (at, before);
            blocks[i] = block;
            (rest, at) = (after, end);
        }
        readable.parts[N] = (at, rest);
        (blocks, readable)
    }
}

/// What a step may read: the arena without the blocks it writes.
#[derive(Clone, Copy)]
pub(crate) struct Readable<'a> {
    /// Offset in the arena and bytes, in order.
    parts: [(usize, &'a [u8]); MAX_WRITTEN + 1],
}

impl<'a> Readable<'a> {
    /// The bytes `range`.
    ///
    /// # Panics
    /// If they reach into a written block, which a plan never lets happen.
    pub(crate) fn get(&self, range: Range<usize>) -> &'a [u8] {
        if range.is_empty() {
            return &[];
        }
        self.parts
            .iter()
            .rev()
            .find(|(at, part)| *at <= range.start && !part.is_empty())
            .and_then(|(at, part)| part.get(range.start - at..range.end - at))
            .expect("a step reads nothing that it writes")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn written_blocks_come_in_the_order_asked_and_the_rest_is_readable() {
        let mut arena = Arena::new(640).unwrap();
        for (i, b) in arena.bytes_mut().iter_mut().enumerate() {
            *b = (i / 64) as u8;
        }
        let ([late, early, none], rest) = arena.split(&[512..576, 64..192, 300..300]);
        assert_eq!((late.len(), early.len(), none.len()), (64, 128, 0));
        assert!(late.iter().all(|&b| b == 8) && early[0] == 1 && early[127] == 2);
        assert!(rest.get(0..64).iter().all(|&b| b == 0));
        assert_eq!(rest.get(192..256), [3; 64]);
        assert_eq!(rest.get(320..512)[0], 5);
        assert_eq!(rest.get(576..640), [9; 64]);
        assert!(rest.get(70..70).is_empty());
    }

    #[test]
    fn it_is_aligned_and_an_impossible_size_is_refused() {
        assert_eq!(Arena::new(100).unwrap().bytes().as_ptr().addr() % ALIGN, 0);
        assert!(Arena::new(usize::MAX - 63).is_none());
    }

    #[test]
    #[should_panic(expected = "disjoint")]
    fn overlapping_blocks_are_caught() {
        Arena::new(256).unwrap().split(&[0..128, 64..192]);
    }

    #[test]
    #[should_panic(expected = "reads nothing that it writes")]
    fn reading_a_written_block_is_caught() {
        let mut arena = Arena::new(256).unwrap();
        #[expect(clippy::single_range_in_vec_init, reason = "it is a list of ranges")]
        let (_, rest) = arena.split(&[64..128]);
        rest.get(0..65);
    }
}
