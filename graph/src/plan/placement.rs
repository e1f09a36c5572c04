//! Where each intermediate value lives: greedy by size, best fit.
//!
//! Values are placed largest first, each into the smallest gap between the values already placed whose
//! lives overlap its own, or behind the last of them. On real int8 models this reaches the lower bound
//! (the largest sum of sizes alive at one step), which no placement can beat.
//!
//! All sizes are multiples of [`ALIGN`] once placed; arithmetic is checked, because sizes come from
//! shapes and shapes from files and callers.

use requant_ir::ALIGN;

/// A block of memory wanted from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Size in bytes, any.
    pub(super) bytes: usize,
    /// First step that touches it.
    pub(super) first: usize,
    /// Last step that touches it, at least `first`.
    pub(super) last: usize,
}

impl Request {
    fn overlaps(&self, other: &Request) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets for a list of [`Request`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// For each request in order, the offset of its first byte, a multiple of [`ALIGN`].
    pub(super) offsets: Vec<usize>,
    /// Bytes of the whole arena, a multiple of [`ALIGN`].
    pub(super) bytes: usize,
    /// The largest sum of (aligned) sizes alive at one step: no placement needs less.
    pub(super) lower_bound: usize,
    /// The step that has it; 0 when there is none.
    pub(super) peak_step: usize,
}

/// Places every request; `None` when the arena's size does not fit `usize`.
///
/// Equal requests give equal placements: ties are broken by first step, then by position in the list.
pub(super) fn place(requests: &[Request]) -> Option<Placement> {
    let sizes: Vec<usize> =
        requests.iter().map(|r| r.bytes.checked_next_multiple_of(ALIGN)).collect::<Option<_>>()?;
    let (lower_bound, peak_step) = peak(requests, &sizes)?;

    let mut order: Vec<usize> = (0..requests.len()).filter(|&i| sizes[i] > 0).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), requests[i].first, i));

    let mut offsets = vec![0usize; requests.len()];
    let mut bytes = 0usize;
    let mut placed = Buckets::new(requests);
    let mut neighbours = Vec::new();
    for i in order {
        let request = &requests[i];
        neighbours.clear();
        neighbours.extend(
            placed
                .touching(request)
                .filter(|&j| requests[j].overlaps(request))
                .map(|j| (offsets[j], offsets[j] + sizes[j])),
        );
        // A neighbour in several buckets appears several times; that does no harm below.
        neighbours.sort_unstable();
        let mut end = 0usize;
        let mut best: Option<(usize, usize)> = None;
        for &(from, to) in &neighbours {
            if from > end {
                let gap = from - end;
                if gap >= sizes[i] && best.is_none_or(|(size, _)| gap < size) {
                    best = Some((gap, end));
                }
            }
            end = end.max(to);
        }
        offsets[i] = best.map_or(end, |(_, offset)| offset);
        bytes = bytes.max(offsets[i].checked_add(sizes[i])?);
        placed.insert(i, request);
    }
    Some(Placement { offsets, bytes, lower_bound, peak_step })
}

/// The step with the most bytes alive, and how many; `None` on overflow.
fn peak(requests: &[Request], sizes: &[usize]) -> Option<(usize, usize)> {
    // At one step, what begins there is alive together with what ends there.
    let mut events: Vec<(usize, bool, usize)> = Vec::with_capacity(2 * requests.len());
    for (request, &size) in requests.iter().zip(sizes) {
        events.push((request.first, false, size));
        events.push((request.last, true, size));
    }
    events.sort_unstable();
    let (mut alive, mut most, mut at) = (0usize, 0usize, 0usize);
    for (step, ends, size) in events {
        if ends {
            alive -= size;
        } else {
            alive = alive.checked_add(size)?;
            if alive > most {
                (most, at) = (alive, step);
            }
        }
    }
    Some((most, at))
}

/// Placed requests by time, so that a short-lived one among very many meets only its contemporaries.
struct Buckets {
    steps_per_bucket: usize,
    buckets: Vec<Vec<usize>>,
}

impl Buckets {
    const COUNT: usize = 256;

    fn new(requests: &[Request]) -> Self {
        let last = requests.iter().map(|r| r.last).max().unwrap_or(0);
        let steps_per_bucket = last / Self::COUNT + 1;
        Buckets { steps_per_bucket, buckets: vec![Vec::new(); last / steps_per_bucket + 1] }
    }

    fn range(&self, request: &Request) -> std::ops::RangeInclusive<usize> {
        request.first / self.steps_per_bucket..=request.last / self.steps_per_bucket
    }

    fn touching(&self, request: &Request) -> impl Iterator<Item = usize> {
        self.buckets[self.range(request)].iter().flatten().copied()
    }

    fn insert(&mut self, i: usize, request: &Request) {
        let range = self.range(request);
        for bucket in &mut self.buckets[range] {
            bucket.push(i);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use proptest::prelude::*;

    fn request(bytes: usize, first: usize, last: usize) -> Request {
        Request { bytes, first, last }
    }

    #[test]
    fn a_chain_needs_its_two_largest_neighbours() {
        let chain =
            [request(640, 0, 1), request(6400, 1, 2), request(1280, 2, 3), request(64, 3, 4)];
        let placement = place(&chain).unwrap();
        assert_eq!(placement.bytes, 6400 + 1280);
        assert_eq!(placement.lower_bound, 6400 + 1280);
        assert_eq!(placement.peak_step, 2);
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken() {
        // Two gaps open beside the long-lived blocks: 128 bytes and 64 bytes. The 64-byte block takes the latter.
        let blocks = [
            request(1024, 0, 9),
            request(512, 0, 3),
            request(448, 0, 9),
            request(320, 0, 3),
            request(256, 0, 9),
            request(64, 5, 9),
        ];
        let placement = place(&blocks).unwrap();
        assert_eq!(placement.offsets[5], placement.offsets[3]);
    }

    #[test]
    fn sizes_are_aligned_and_nothing_takes_no_room() {
        let placement = place(&[request(1, 0, 0), request(0, 0, 0), request(65, 0, 0)]).unwrap();
        assert_eq!(placement.bytes, 64 + 128);
        assert!(placement.offsets.iter().all(|o| o % ALIGN == 0));
        assert_eq!(place(&[]).unwrap().bytes, 0);
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert_eq!(place(&[request(usize::MAX, 0, 0)]), None);
        let half = request(usize::MAX / 2 + 1, 0, 1);
        assert_eq!(place(&[half, half]), None);
    }

    proptest! {
        #[test]
        fn blocks_alive_together_never_meet(
            raw in prop::collection::vec((0usize..5000, 0usize..600, 0usize..40), 0..120)
        ) {
            let requests: Vec<Request> = raw.iter().map(|&(b, f, l)| request(b, f, f + l)).collect();
            let placement = place(&requests).unwrap();
            prop_assert!(placement.bytes >= placement.lower_bound);
            for (i, a) in requests.iter().enumerate() {
                prop_assert!(placement.offsets[i].is_multiple_of(ALIGN));
                prop_assert!(placement.offsets[i] + a.bytes <= placement.bytes);
                for (j, b) in requests.iter().enumerate().skip(i + 1) {
                    if a.overlaps(b) && a.bytes > 0 && b.bytes > 0 {
                        let (x, y) = (placement.offsets[i], placement.offsets[j]);
                        prop_assert!(x + a.bytes <= y || y + b.bytes <= x);
                    }
                }
            }
            // The bound is what its name says: the sum at the peak step, and none is larger.
            let alive = |s: usize| -> usize {
                requests.iter().filter(|r| r.first <= s && s <= r.last).map(|r| r.bytes.next_multiple_of(ALIGN)).sum()
            };
            prop_assert_eq!(alive(placement.peak_step), placement.lower_bound);
            prop_assert!((0..660).all(|s| alive(s) <= placement.lower_bound));
        }
    }
}
