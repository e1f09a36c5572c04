//! Arm lookup in a 256-entry table.

use std::arch::aarch64::*;

use super::map_scalar;

/// 16 bytes at a time: `tbl` gives 0 for an index past its 64 entries and `tbx` leaves the byte as it was,
/// so four of them with the index lowered by 64 each time cover the table.
#[target_feature(enable = "neon")]
pub(super) fn map_neon(x: &[u8], y: &mut [u8], table: &[u8; 256]) {
    let (rows, _) = table.as_chunks::<64>();
    // SAFETY: each row is a reference to 64 readable bytes.
    let load = |row: &[u8; 64]| unsafe { vld1q_u8_x4(row.as_ptr()) };
    let [t0, t1, t2, t3] = [load(&rows[0]), load(&rows[1]), load(&rows[2]), load(&rows[3])];
    let step = vdupq_n_u8(64);
    let (xs, x_tail) = x.as_chunks::<16>();
    let (ys, y_tail) = y.as_chunks_mut::<16>();
    for (x, y) in xs.iter().zip(ys) {
        // SAFETY: `x` is a reference to 16 readable bytes.
        let i0 = unsafe { vld1q_u8(x.as_ptr()) };
        let i1 = vsubq_u8(i0, step);
        let i2 = vsubq_u8(i1, step);
        let i3 = vsubq_u8(i2, step);
        let r = vqtbx4q_u8(vqtbx4q_u8(vqtbx4q_u8(vqtbl4q_u8(t0, i0), t1, i1), t2, i2), t3, i3);
        // SAFETY: `y` is a reference to 16 writable bytes.
        unsafe { vst1q_u8(y.as_mut_ptr(), r) };
    }
    map_scalar(x_tail, y_tail, table);
}
