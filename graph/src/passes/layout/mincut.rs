//! Minimum cut between two terminals (Dinic's algorithm), deterministic and without recursion.

use std::collections::VecDeque;

/// More than any sum of finite capacities.
pub(super) const INFINITE: u64 = u64::MAX / 4;

struct Arc {
    to: usize,
    left: u64,
}

/// A flow network; vertices 0 and 1 are the source and the sink.
pub(super) struct Network {
    /// Arc `2i` and its reverse `2i + 1` lie side by side.
    arcs: Vec<Arc>,
    leaving: Vec<Vec<usize>>,
}

pub(super) const SOURCE: usize = 0;
pub(super) const SINK: usize = 1;

impl Network {
    /// A network of the two terminals and `vertices` others, numbered from 2.
    pub(super) fn new(vertices: usize) -> Self {
        Network { arcs: Vec::new(), leaving: vec![Vec::new(); vertices + 2] }
    }

    /// Adds a vertex.
    pub(super) fn vertex(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// An arc that costs `capacity` when `from` is on the source's side and `to` on the sink's.
    pub(super) fn arc(&mut self, from: usize, to: usize, capacity: u64) {
        if from == to || capacity == 0 {
            return;
        }
        self.leaving[from].push(self.arcs.len());
        self.arcs.push(Arc { to, left: capacity });
        self.leaving[to].push(self.arcs.len());
        self.arcs.push(Arc { to: from, left: 0 });
    }

    /// The smallest source side of a minimum cut: `true` for the vertices on it. `None` when more
    /// than `steps` arcs were looked at, or when the terminals cannot be parted.
    pub(super) fn cut(mut self, steps: u64) -> Option<Vec<bool>> {
        let mut left = steps;
        let mut total = 0u64;
        loop {
            let level = self.levels(&mut left)?;
            if level[SINK] == usize::MAX {
                return Some(level.into_iter().map(|l| l != usize::MAX).collect());
            }
            let mut next = vec![0; self.leaving.len()];
            while let Some(flow) = self.augment(&level, &mut next, &mut left)? {
                total = total.saturating_add(flow);
                if total >= INFINITE {
                    return None;
                }
            }
        }
    }

    /// Distance from the source along arcs with capacity left; `usize::MAX` where there is none.
    fn levels(&self, left: &mut u64) -> Option<Vec<usize>> {
        let mut level = vec![usize::MAX; self.leaving.len()];
        level[SOURCE] = 0;
        let mut queue = VecDeque::from([SOURCE]);
        while let Some(v) = queue.pop_front() {
            for &a in &self.leaving[v] {
                *left = left.checked_sub(1)?;
                let Arc { to, left } = self.arcs[a];
                if left > 0 && level[to] == usize::MAX {
                    level[to] = level[v] + 1;
                    queue.push_back(to);
                }
            }
        }
        Some(level)
    }

    /// Sends flow along one shortest path; `Some(None)` when there is no more.
    fn augment(
        &mut self,
        level: &[usize],
        next: &mut [usize],
        left: &mut u64,
    ) -> Option<Option<u64>> {
        let mut path: Vec<usize> = Vec::new();
        let mut v = SOURCE;
        while v != SINK {
            *left = left.checked_sub(1)?;
            match self.leaving[v].get(next[v]) {
                Some(&a) => {
                    let Arc { to, left } = self.arcs[a];
                    if left > 0 && level[to] == level[v] + 1 {
                        path.push(a);
                        v = to;
                    } else {
                        next[v] += 1;
                    }
                }
                // A dead end: go back and take the predecessor's next arc.
                None => {
                    let Some(a) = path.pop() else { return Some(None) };
                    v = self.arcs[a ^ 1].to;
                    next[v] += 1;
                }
            }
        }
        let flow = path.iter().map(|&a| self.arcs[a].left).min().unwrap_or(0);
        for a in path {
            self.arcs[a].left -= flow;
            self.arcs[a ^ 1].left += flow;
        }
        Some(Some(flow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(arcs: &[(usize, usize, u64)], side: &[bool]) -> u64 {
        arcs.iter().filter(|&&(u, v, _)| side[u] && !side[v]).map(|a| a.2).sum()
    }

    #[test]
    fn matches_exhaustive_search() {
        // A small xorshift: networks of 5 inner vertices have 32 cuts to try.
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |n: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % n
        };
        for _ in 0..500 {
            let arcs: Vec<_> = (0..14)
                .map(|_| (next(7) as usize, next(7) as usize, next(9)))
                .filter(|&(u, v, _)| u != v)
                .collect();
            let mut network = Network::new(5);
            arcs.iter().for_each(|&(u, v, c)| network.arc(u, v, c));
            let side = network.cut(1 << 20).expect("finite capacities");
            assert!(side[SOURCE] && !side[SINK]);
            let best = (0..32)
                .map(|bits: usize| {
                    let side: Vec<bool> = (0..7)
                        .map(|v| v == SOURCE || (v > 1 && bits >> (v - 2) & 1 == 1))
                        .collect();
                    cost(&arcs, &side)
                })
                .min()
                .expect("32 cuts");
            assert_eq!(cost(&arcs, &side), best, "{arcs:?}");
        }
    }

    #[test]
    fn gives_up_rather_than_hang() {
        let mut network = Network::new(0);
        network.arc(SOURCE, SINK, 1);
        assert!(network.cut(1).is_none());
        let mut contradiction = Network::new(0);
        contradiction.arc(SOURCE, SINK, INFINITE);
        assert!(contradiction.cut(1 << 10).is_none());
    }
}
