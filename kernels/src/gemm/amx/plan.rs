//! How a block is computed: the parts of K, what stays in which cache, and where rows of A are read.

use super::{
    Operands, Source,
    pending::{BLOCK_ROWS, BLOCK_SUMS},
    tiles::{TILE_BYTES, TILE_ROW_BYTES},
};
use crate::gemm::pack::PanelLayout;

/// Bytes of a group of rows that stays in L1, the most steps of K that these are, and those of which its first tile stays.
pub(super) const GROUP_BYTES: usize = 40 * 1024;
pub(super) const GROUP_STEPS: usize = GROUP_BYTES / (2 * TILE_BYTES);
pub(super) const TILE_STEPS: usize = 36;

/// The most steps of a part of a longer K, whose sums go to memory and come back: they leave these room in L1.
pub(super) const PART_STEPS: usize = 16;

/// Bytes of rows and of the panels that pass over them at a time of which some may come from beyond L2, which has 2 MB: rows
/// are fetched ahead.
const FAR_BYTES: usize = 1920 * 1024;

/// Bytes of sums that stay in L2 beside a part of K of rows and panels.
const PART_SUMS_BYTES: usize = 512 * 1024;

/// Bytes of panels and two groups of rows that all stay in L1, which has 48 KB, beside two blocks of sums.
const L1_BYTES: usize = 40 * 1024;

/// Bytes of panels that stay in L1 while rows pass: not those that were just gathered into it, nor those
/// that cross lines, which are wanted again.
const B_BYTES: usize = 36 * 1024;

/// Bytes of panels that stay in L2 while all rows pass over them.
pub(super) const PANELS_BYTES: usize = 1280 * 1024;

/// Panels up to which rows that are not aligned are read as they are: to copy a line takes about as long as the reads
/// for four panels lose if it crosses two.
const FEW_PANELS: usize = 4;

/// The least distances of rows at which those of a group, or of a tile, meet in too few sets of L1 to stay there.
pub(super) const GROUP_CONFLICT_BYTES: usize = 2048;
const TILE_CONFLICT_BYTES: usize = 4096;

/// How K is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct KParts {
    pub(super) parts: usize,
    /// Steps of every part but perhaps the last.
    pub(super) steps: usize,
    pub(super) all: usize,
}

impl KParts {
    /// Of rows of a matrix, or of patches that were just gathered into L1.
    pub(super) fn new(k: usize, is_matrix: bool) -> Self {
        let whole @ Self { all, .. } = Self::whole(k);
        let longest = if is_matrix { TILE_STEPS } else { GROUP_STEPS };
        if all <= longest {
            return whole;
        }
        let steps = all.div_ceil(all.div_ceil(PART_STEPS));
        Self { parts: all.div_ceil(steps), steps, all }
    }

    /// Not at all.
    fn whole(k: usize) -> Self {
        let all = k.div_ceil(TILE_ROW_BYTES);
        Self { parts: 1, steps: all, all }
    }

    /// The first step of a part, and how many it has.
    pub(super) fn part(&self, part: usize) -> (usize, usize) {
        let first = part * self.steps;
        (first, self.steps.min(self.all - first))
    }
}

/// How many panels pass over all rows before the next do: as many as stay in L2, in even shares.
pub(super) fn panels_at_a_time(layout: &PanelLayout, panels: usize) -> usize {
    let blocks = (panels * layout.panel_bytes()).div_ceil(PANELS_BYTES).max(1);
    panels.div_ceil(blocks).next_multiple_of(4)
}

/// What stays in L1 while the other operand passes, from L2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stays {
    /// A group of rows, over a part of K.
    Rows,
    /// The first tile of a group of rows, over more of K: the second passes with the panels.
    HalfRows,
    /// All panels.
    Panels,
    /// Both.
    Both,
    /// A group's rows, which lie in a band.
    Band,
}

/// How a block is computed, and what memory that takes.
pub(super) struct Plan {
    pub(super) k: KParts,
    /// Panels that pass over all rows before the next do.
    pub(super) at_a_time: usize,
    /// Rows that a part of K is multiplied by before the next is.
    pub(super) part_rows: usize,
    /// Whether rows of A are tile rows as they lie there, and whether they are fetched ahead.
    pub(super) in_place: bool,
    pub(super) far: bool,
    pub(super) stays: Stays,
}

impl Plan {
    pub(super) fn new(layout: &PanelLayout, operands: &Operands<'_>) -> Self {
        let Operands { source, lda, rows, panels, .. } = operands;
        let is_matrix = matches!(source, Source::Matrix(_));
        let k = match source {
            Source::Band(_) => KParts::whole(layout.k),
            _ => KParts::new(layout.k, is_matrix),
        };
        let groups = rows.div_ceil(BLOCK_ROWS);
        let at_a_time = panels_at_a_time(layout, panels.len());
        let bytes = rows * layout.k + at_a_time * layout.panel_bytes();
        let far = is_matrix && bytes > FAR_BYTES;
        // Few sums stay in L2 beside a part of K of all rows and panels, which is read once then.
        let few = k.parts > 1
            && groups.saturating_mul(panels.len()) <= PART_SUMS_BYTES / (2 * TILE_BYTES);
        let by_parts = far && few;
        let at_a_time = if by_parts { panels.len() } else { at_a_time };
        let a = match source {
            Source::Matrix(a) => *a as usize,
            _ => 0,
        };
        let aligned = (a | lda).is_multiple_of(TILE_ROW_BYTES);
        let a_bytes = 2 * k.steps * TILE_BYTES;
        let b_bytes = panels.len() * k.steps * TILE_BYTES;
        let stays = match k.parts {
            _ if matches!(source, Source::Band(_)) => Stays::Band,
            1 if 2 * a_bytes + b_bytes <= L1_BYTES => Stays::Both,
            1 if is_matrix && aligned && b_bytes <= B_BYTES => Stays::Panels,
            1 if a_bytes > GROUP_BYTES => Stays::HalfRows,
            _ => Stays::Rows,
        };
        let conflict = match stays {
            Stays::HalfRows => TILE_CONFLICT_BYTES,
            _ => GROUP_CONFLICT_BYTES,
        };
        Self {
            k,
            at_a_time,
            part_rows: if by_parts { groups * BLOCK_ROWS } else { BLOCK_ROWS },
            in_place: (aligned || panels.len() <= FEW_PANELS) && !lda.is_multiple_of(conflict),
            far,
            stays,
        }
    }

    /// Where the sums of the rows from `row` on are, in bytes, among those of all rows whose parts are multiplied in turn.
    pub(super) fn sums(&self, row: usize) -> usize {
        row % self.part_rows / BLOCK_ROWS * self.at_a_time * 2 * TILE_BYTES
    }

    /// Bytes of all that [`Self::bytes`] lists.
    pub(super) fn room(&self, panels: usize) -> usize {
        let [copy, starts, part_sums, block, steps] = self.bytes(panels);
        copy + starts + part_sums + 3 * block + steps
    }

    /// Bytes of: a part of a group of rows that is copied, the starts of `panels` panels, sums of parts, a block of sums, of
    /// which there are three, and the offsets of the steps of a band.
    pub(super) fn bytes(&self, panels: usize) -> [usize; 5] {
        let groups = self.part_rows / BLOCK_ROWS;
        let (copy, steps) = match self.stays {
            Stays::Band => (0, self.k.steps * size_of::<usize>()),
            _ => (self.k.steps * 2 * TILE_BYTES, 0),
        };
        let sums = if self.k.parts > 1 { groups * self.at_a_time * 2 * TILE_BYTES } else { 0 };
        let block = BLOCK_SUMS * size_of::<i32>();
        [copy, panels * TILE_ROW_BYTES, sums, block, steps]
    }
}
