//! Channels-last layout for the image-like part of the graph.
//!
//! Match: regions of operators that can work in either layout around convolutions and pools.
//! Rewrite: the region computes on channels-last tensors; what is left of the conversions stands
//! where it moves the fewest bytes, and `Transpose`s between the two layouts disappear.
//! Class: exact, elements only change places; one step where a float mean, sum or product takes its
//! terms in another order, which is part of a region only if that is allowed.
//! Refuses: convolutions and pools whose rank is not known or that meet the other layout without a
//! `Transpose` between. Everything that needs its axes as they are (reshapes, matrix products,
//! other transposes, graph inputs and outputs) bounds a region and keeps its operands.
//!
//! ## How
//!
//! 1. Orientation: convolutions and pools say which layout their operands are in as the model has
//!    them; it spreads along the values, and a `Transpose` from one layout to the other turns it.
//! 2. Choice: every operator of a region stores its tensors channels-first or channels-last.
//!    Convolutions and pools must be channels-last, which is what the kernels read; a value whose
//!    producer and consumers disagree costs its bytes, once. Two choices and a price for
//!    disagreement make a minimum cut, so the best choice is found exactly ([`mincut`]).
//! 3. Rewrite: operators that changed sides get their axes renumbered ([`axes`]), and conversions
//!    are put where the cut goes; those that only move axes of extent 1 are reshapes.

mod axes;
mod choose;
mod mincut;
mod rewrite;

use crate::Graph;
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo};
use indexmap::IndexSet;
use rewrite::Rewritten;

const NAME: &str = "layout";

/// The layout pass.
pub struct Layout;

impl Pass for Layout {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: NAME,
            class: Exactness::Exact,
            about: "stores images channels-last and removes the transposes between layouts",
        }
    }

    fn run(&self, graph: &mut Graph, cx: &mut PassCx<'_>) -> Result<(), PassError> {
        let region = choose::region(graph, cx);
        if let Some(Rewritten { patch, origins }) = rewrite::patch(graph, &region) {
            let applied = cx.apply(graph, patch)?;
            // One patch rewrites the whole region; each node stands for the one it was made of, not
            // for all that went.
            for (index, origin) in origins {
                if let Some(node) = applied.nodes[index] {
                    let node = &mut graph.net[node.0];
                    let same = origin.len() == 1 && origin.contains(&node.name);
                    node.origin = if same { IndexSet::new() } else { origin };
                }
            }
        }
        Ok(())
    }
}
