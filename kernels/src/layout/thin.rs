//! Transposing matrices of a few rows or columns: the channels of an image. LLVM knows these loops as interleaved
//! accesses.

use super::tile::Transpose;
use crate::cpu::Cpu;
use crate::multiversion::multiversion;

/// Transposes, if one side of the matrix is 2 to 4 elements that follow each other.
pub(super) fn thin<const E: usize>(
    t: Transpose,
    cpu: Cpu,
    x: &[[u8; E]],
    y: &mut [[u8; E]],
) -> bool {
    match (t.b_len, t.a_len) {
        (2, _) if t.y_stride == 2 => interleave::<2, E>(cpu, t, x, y),
        (3, _) if t.y_stride == 3 => interleave::<3, E>(cpu, t, x, y),
        (4, _) if t.y_stride == 4 => interleave::<4, E>(cpu, t, x, y),
        (_, 2) if t.x_stride == 2 => deinterleave::<2, E>(cpu, t, x, y),
        (_, 3) if t.x_stride == 3 => deinterleave::<3, E>(cpu, t, x, y),
        (_, 4) if t.x_stride == 4 => deinterleave::<4, E>(cpu, t, x, y),
        _ => return false,
    }
    true
}

multiversion!(fn interleave[const N: usize, const E: usize][N, E] = interleave_body(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]));
multiversion!(fn deinterleave[const N: usize, const E: usize][N, E] = deinterleave_body(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]));

#[inline(always)]
fn interleave_body<const N: usize, const E: usize>(t: Transpose, x: &[[u8; E]], y: &mut [[u8; E]]) {
    let rows: [&[[u8; E]]; N] = std::array::from_fn(|b| &x[b * t.x_stride..][..t.a_len]);
    let y = &mut y.as_chunks_mut::<N>().0[..t.a_len];
    for (i, y) in y.iter_mut().enumerate() {
        for (y, row) in y.iter_mut().zip(rows) {
            *y = row[i];
        }
    }
}

#[inline(always)]
fn deinterleave_body<const N: usize, const E: usize>(
    t: Transpose,
    x: &[[u8; E]],
    y: &mut [[u8; E]],
) {
    let x = &x.as_chunks::<N>().0[..t.b_len];
    let mut rest = y;
    let mut rows: [&mut [[u8; E]]; N] = std::array::from_fn(|a| {
        let stride = if a + 1 < N { t.y_stride } else { t.b_len };
        let (row, tail) = std::mem::take(&mut rest).split_at_mut(stride);
        rest = tail;
        &mut row[..t.b_len]
    });
    for (i, x) in x.iter().enumerate() {
        for (row, x) in rows.iter_mut().zip(x) {
            row[i] = *x;
        }
    }
}
