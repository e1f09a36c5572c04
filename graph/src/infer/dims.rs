//! Arithmetic of extents.

use requant_ir::Dim;

/// The index of an axis; a negative one counts from the end.
pub(crate) fn axis_index(axis: i64, rank: usize) -> Option<usize> {
    let from_front = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(from_front).ok().filter(|&a| a < rank)
}

/// Two descriptions of one shape together; `Err` where they contradict each other.
pub(crate) fn merge_dims(
    new: Option<&[Dim]>,
    old: Option<&[Dim]>,
) -> Result<Option<Vec<Dim>>, Contradiction> {
    match (new, old) {
        (Some(a), Some(b)) if a.len() == b.len() => {
            a.iter().zip(b).map(|(a, b)| merge_dim(a, b)).collect::<Result<_, _>>().map(Some)
        }
        (Some(_), Some(_)) => Err(Contradiction),
        (one, other) => Ok(one.or(other).map(<[Dim]>::to_vec)),
    }
}

/// Two descriptions exclude each other.
#[derive(Debug)]
pub(crate) struct Contradiction;

/// Two descriptions of one extent together.
pub(crate) fn merge_dim(new: &Dim, old: &Dim) -> Result<Dim, Contradiction> {
    match (new, old) {
        (Dim::Fixed(a), Dim::Fixed(b)) if a != b => Err(Contradiction),
        (Dim::Fixed(_), _) | (Dim::Symbol(_), Dim::Symbol(_) | Dim::Unknown) => Ok(new.clone()),
        _ => Ok(old.clone()),
    }
}

/// The shape of an elementwise operation (NumPy broadcasting); `None` where there is none.
pub(crate) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let one = Dim::Fixed(1);
    (0..rank)
        .map(|i| {
            let dim = |s: &[Dim]| (i + s.len()).checked_sub(rank).map(|j| s[j].clone());
            let (a, b) = (dim(a).unwrap_or(one.clone()), dim(b).unwrap_or(one.clone()));
            match (&a, &b) {
                (Dim::Fixed(1), _) => Some(b),
                (_, Dim::Fixed(1)) => Some(a),
                (Dim::Fixed(x), Dim::Fixed(y)) => (x == y).then_some(a),
                // The other one is 1 or the same.
                (Dim::Fixed(_), _) => Some(a),
                (_, Dim::Fixed(_)) => Some(b),
                _ if a.same(&b) => Some(a),
                _ => Some(Dim::Unknown),
            }
        })
        .collect()
}

/// `a + b`; `None` on overflow.
pub(super) fn add(a: &Dim, b: &Dim) -> Option<Dim> {
    Some(match (a, b) {
        (Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(a.checked_add(*b)?),
        (Dim::Fixed(0), other) | (other, Dim::Fixed(0)) => other.clone(),
        _ => Dim::Unknown,
    })
}

/// `a · b`; `None` on overflow.
pub(super) fn mul(a: &Dim, b: &Dim) -> Option<Dim> {
    Some(match (a, b) {
        (Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(a.checked_mul(*b)?),
        (Dim::Fixed(0), _) | (_, Dim::Fixed(0)) => Dim::Fixed(0),
        (Dim::Fixed(1), other) | (other, Dim::Fixed(1)) => other.clone(),
        _ => Dim::Unknown,
    })
}

/// The product of all; `None` on overflow.
pub(super) fn product(dims: &[Dim]) -> Option<Dim> {
    dims.iter().try_fold(Dim::Fixed(1), |n, d| mul(&n, d))
}

/// The extent `e` such that `known · e` is the number of elements of `whole`; equal extents on both
/// sides cancel. `None` where there is no such extent.
pub(super) fn rest(whole: &[Dim], known: &[Dim]) -> Option<Dim> {
    let mut numerator = whole.to_vec();
    let mut denominator = Vec::new();
    for dim in known {
        match numerator.iter().position(|d| d.same(dim)) {
            Some(i) if *dim != Dim::Fixed(0) => drop(numerator.remove(i)),
            _ => denominator.push(dim.clone()),
        }
    }
    match (product(&numerator)?, product(&denominator)?) {
        // 0 elements in all say nothing about one extent.
        (_, Dim::Fixed(0)) => Some(Dim::Unknown),
        (Dim::Fixed(n), Dim::Fixed(d)) => n.is_multiple_of(d).then_some(Dim::Fixed(n / d)),
        (n, Dim::Fixed(1)) => Some(n),
        _ => Some(Dim::Unknown),
    }
}
