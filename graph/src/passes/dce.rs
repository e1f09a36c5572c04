//! Removes nodes that no output depends on.
//!
//! Match: a node none of whose results is read. Rewrite: gone. Class: exact. Refuses: nothing; no
//! operator has side effects.

use crate::Graph;
use crate::pass::{Exactness, Pass, PassCx, PassError, PassInfo};

/// Dead code elimination.
pub struct Dce;

impl Pass for Dce {
    fn info(&self) -> PassInfo {
        PassInfo {
            name: "dce",
            class: Exactness::Exact,
            about: "removes nodes that no output depends on",
        }
    }

    fn run(&self, graph: &mut Graph, _: &mut PassCx<'_>) -> Result<(), PassError> {
        graph.collect_garbage();
        Ok(())
    }
}
