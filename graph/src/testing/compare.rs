//! What a rewrite may change.

use crate::infer::show;
use crate::reference::{self, EvalLimits, Recording, RunOptions, eval_with};
use crate::{Exactness, Graph, NodeKind, Outlet};
use requant_ir::Tensor;
use std::collections::BTreeMap;

/// As [`check_equivalent`].
///
/// # Panics
/// With what differs and both graphs as text.
pub fn assert_equivalent(
    before: &Graph,
    after: &Graph,
    inputs: &[(&str, Tensor)],
    class: Exactness,
) {
    if let Err(difference) = check_equivalent(before, after, inputs, class) {
        panic!("{difference}\n--- before\n{}--- after\n{}", before.to_model(), after.to_model());
    }
}

/// Compares two graphs on the same inputs.
///
/// - [`Exactness::Exact`]: the outputs have the same bits.
/// - [`Exactness::OneStep`]: every value of `after` whose name `before` has too is at most one step off
///   (a float: off by rounding) when computed from the other values of `before` nearest to it, so that
///   differences do not add up.
/// - [`Exactness::Approximate`]: the outputs have the same types.
///
/// # Errors
/// What differs.
pub fn check_equivalent(
    before: &Graph,
    after: &Graph,
    inputs: &[(&str, Tensor)],
    class: Exactness,
) -> Result<(), String> {
    after.verify().map_err(|e| format!("the rewritten graph is broken: {e}"))?;
    let options = RunOptions { keep_all: true, ..RunOptions::default() };
    let run = |graph| reference::run(graph, inputs, &options).map_err(|e| e.to_string());
    let (old, new) = (run(before)?, run(after)?);
    if old.outputs.len() != new.outputs.len() {
        return Err("the number of outputs changed".into());
    }
    for ((name, a), (new_name, b)) in old.outputs.iter().zip(&new.outputs) {
        if name != new_name || a.elem() != b.elem() || a.dims() != b.dims() {
            let (a, b) = (show(&a.ty()), show(&b.ty()));
            return Err(format!("output `{name}` of type {a} became `{new_name}` of type {b}"));
        }
        if class == Exactness::Exact && a.bytes() != b.bytes() {
            return Err(format!("output `{name}` changed: {}", first_difference(a, b)));
        }
    }
    if class == Exactness::OneStep { one_step(&old, after, &new) } else { Ok(()) }
}

/// Computes every node of `after` from values of the run `old` where it has them.
fn one_step(old: &Recording, after: &Graph, new: &Recording) -> Result<(), String> {
    let mut values: BTreeMap<Outlet, Tensor> = BTreeMap::new();
    for id in after.topo() {
        let node = after.node(id);
        let results: Vec<Tensor> = match &node.kind {
            NodeKind::Op(op) => {
                let operands = after.operands(id);
                let operands: Vec<_> =
                    operands.iter().map(|o| o.as_ref().and_then(|o| values.get(o))).collect();
                eval_with(op, &operands, node.outputs.len(), &EvalLimits::default())
                    .map_err(|e| format!("node `{}`: {e}", node.name))?
            }
            _ => node.outputs.iter().filter_map(|f| new.values.get(&f.name).cloned()).collect(),
        };
        for (slot, (fact, computed)) in node.outputs.iter().zip(results).enumerate() {
            let known = old.values.get(&fact.name);
            let known =
                known.filter(|k| k.elem() == computed.elem() && k.dims() == computed.dims());
            if let Some(known) = known {
                close(known, &computed).map_err(|e| format!("value `{}`: {e}", fact.name))?;
            }
            let outlet = Outlet { node: id, slot: slot as u16 };
            values.insert(outlet, known.cloned().unwrap_or(computed));
        }
    }
    Ok(())
}

/// At most one step, or for floats the rounding of sums of up to thousands of products.
fn close(a: &Tensor, b: &Tensor) -> Result<(), String> {
    let far = match (a.to_i64(), b.to_i64()) {
        (Some(a), Some(b)) => a.iter().zip(&b).any(|(a, b)| a.abs_diff(*b) > 1),
        _ => match (a.to_f32(), b.to_f32()) {
            (Some(a), Some(b)) => {
                let largest = a.iter().map(|v| v.abs()).filter(|v| v.is_finite());
                let bound = 1e-4 * largest.fold(1e-3, f32::max);
                let far = |(a, b): (&f32, &f32)| {
                    let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
                    !same && (a - b).abs().partial_cmp(&bound).is_none_or(|o| o.is_gt())
                };
                a.iter().zip(&b).any(far)
            }
            _ => a.bytes() != b.bytes(),
        },
    };
    if far { Err(first_difference(a, b)) } else { Ok(()) }
}

fn first_difference(a: &Tensor, b: &Tensor) -> String {
    let numbers = |t: &Tensor| -> Vec<f64> {
        let ints = t.to_i64().map(|v| v.into_iter().map(|v| v as f64).collect());
        let floats = || t.to_f32().map(|v| v.into_iter().map(f64::from).collect());
        ints.or_else(floats).unwrap_or_default()
    };
    let (a, b) = (numbers(a), numbers(b));
    match a.iter().zip(&b).enumerate().find(|(_, (a, b))| a.to_bits() != b.to_bits()) {
        Some((i, (x, y))) => format!("element {i} of {} is {y} instead of {x}", a.len()),
        None => "the bytes differ".into(),
    }
}
