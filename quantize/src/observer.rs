//! What calibration remembers of each value.

use crate::QuantizeError;
use std::collections::BTreeMap;

/// Smallest and largest value seen. Merging in any order and partition gives the same result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MinMax {
    /// Smallest value seen.
    pub min: f32,
    /// Largest value seen.
    pub max: f32,
}

impl MinMax {
    /// Nothing seen yet.
    pub const EMPTY: MinMax = MinMax { min: f32::INFINITY, max: f32::NEG_INFINITY };

    /// Takes in the values; `Err` with the first one that is not finite.
    pub fn observe(&mut self, values: &[f32]) -> Result<(), f32> {
        // Eight lanes, so that the comparisons do not wait for each other.
        let (mut lo, mut hi) = ([self.min; 8], [self.max; 8]);
        let mut poison = 0.0f32;
        let (blocks, tail) = values.as_chunks::<8>();
        for block in blocks {
            for (i, &v) in block.iter().enumerate() {
                lo[i] = lo[i].min(v);
                hi[i] = hi[i].max(v);
                poison += v * 0.0;
            }
        }
        for &v in tail {
            lo[0] = lo[0].min(v);
            hi[0] = hi[0].max(v);
            poison += v * 0.0;
        }
        if poison != 0.0 {
            return Err(values.iter().copied().find(|v| !v.is_finite()).unwrap_or(f32::NAN));
        }
        self.min = lo.into_iter().fold(self.min, f32::min);
        self.max = hi.into_iter().fold(self.max, f32::max);
        Ok(())
    }

    /// The range that covers both.
    pub fn merge(self, other: MinMax) -> MinMax {
        MinMax { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Ranges by value name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranges {
    /// Samples taken in.
    pub samples: usize,
    ranges: BTreeMap<String, MinMax>,
}

impl Ranges {
    /// Takes in one value of one sample.
    pub fn observe(&mut self, name: &str, values: &[f32]) -> Result<(), QuantizeError> {
        let range = self.ranges.entry(name.to_owned()).or_insert(MinMax::EMPTY);
        range.observe(values).map_err(|value| QuantizeError::NotFinite {
            tensor: name.to_owned(),
            sample: self.samples,
            value,
        })
    }

    /// What was seen of a value; `None` if it never held an element.
    pub fn get(&self, name: &str) -> Option<MinMax> {
        self.ranges.get(name).copied().filter(|r| r.min <= r.max)
    }

    /// Adds what another set saw.
    pub fn merge(&mut self, other: &Ranges) {
        self.samples += other.samples;
        for (name, &range) in &other.ranges {
            let mine = self.ranges.entry(name.clone()).or_insert(MinMax::EMPTY);
            *mine = mine.merge(range);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn any_partition_gives_the_same_range() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
        let mut whole = Ranges::default();
        whole.observe("x", &values).unwrap();
        for cut in [0, 1, 7, 8, 9, 500, 999, 1000] {
            let (mut a, mut b) = (Ranges::default(), Ranges::default());
            a.observe("x", &values[cut..]).unwrap();
            b.observe("x", &values[..cut]).unwrap();
            a.merge(&b);
            assert_eq!(a.get("x"), whole.get("x"));
        }
    }

    #[test]
    fn values_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [0.5f32; 19];
            values[11] = bad;
            let mut r = Ranges::default();
            assert!(matches!(r.observe("x", &values), Err(QuantizeError::NotFinite { .. })));
        }
        assert_eq!(Ranges::default().get("x"), None);
    }
}
