//! Unrolling by hand, where LLVM does not: its loops over large register tiles recompute the address of every row in
//! each step, and rotate registers.

/// Repeats a block for each of the literals `$i`.
macro_rules! unrolled {
    ($i:ident in [$($n:literal)+] $body:block) => {
        $({
            let $i: usize = $n;
            $body
        })+
    };
}
pub(crate) use unrolled;
