//! Changes the storage of all 8-bit activations from signed to unsigned or back.
//!
//! Match: every value of the other signedness that is quantized per tensor, but constant weights.
//! Rewrite: its bytes XOR 0x80, its zero point moved by 128, and with it result types, clamps, tables,
//! constants and the biases that have a zero point folded in (`Σ x·(w − z_w)` changes by
//! `128·Σ(w − z_w)`). Additions and multiplications note that they are flipped: their roundings depend on the
//! zero points. Inputs and outputs of the model keep their type: a table flips them at the border.
//! Class: exact. Real values stay what they are.
//! Refuses: nothing. Around an operator that it does not know, or whose new bias would leave s32, it
//! flips back and forth.
//!
//! Which signedness is better depends on the machine (x86's `vpdpbusd` wants unsigned activations, Arm's
//! `sdot` signed ones), so this is not part of the pipeline: lowering calls it.

use super::fold_zero_point::{channel_sums, shifted};
use crate::{Graph, GraphError};
use requant_ir::{
    self as ir, DType, ElemType, IntClamp, Op, PoolAttrs, PoolKind, QOut, Tensor, TensorType,
    ValueId,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Stores every 8-bit activation of `graph` as `to`, `s8` or `u8`. Gives the number of values that
/// changed; for another type nothing does.
pub fn flip(graph: &mut Graph, to: DType) -> Result<usize, GraphError> {
    let (from, by) = match to {
        DType::U8 => (DType::I8, 128),
        DType::I8 => (DType::U8, -128),
        _ => return Ok(0),
    };
    let mut model = graph.to_model();
    let Some(main) = model.graphs.first_mut() else { return Ok(0) };
    let mut flipper = Flipper::new(std::mem::take(main), from, to, by);
    flipper.run();
    let changed = flipper.changed;
    if changed > 0 {
        *main = flipper.graph;
        let mut flipped = Graph::from_model(&model)?;
        flipped.collect_garbage();
        *graph = flipped;
    }
    Ok(changed)
}

struct Flipper {
    graph: ir::Graph,
    /// Types of the old graph's values.
    types: Vec<Option<TensorType>>,
    from: DType,
    to: DType,
    /// What is added to a stored value.
    by: i32,
    /// Per value of the old graph: the value with the old type, and the one with the new type.
    old: Vec<Option<ValueId>>,
    new: Vec<Option<ValueId>>,
    outputs: BTreeSet<ValueId>,
    names: BTreeSet<String>,
    nodes: Vec<ir::Node>,
    changed: usize,
}

/// Which version of its operands an operator reads.
enum Role {
    /// The flipped one, where there is one.
    Activation,
    /// The old one.
    Stored,
}

impl Flipper {
    fn new(graph: ir::Graph, from: DType, to: DType, by: i32) -> Self {
        let names = graph.values.iter().map(|v| v.name.clone());
        let names = names.chain(graph.nodes.iter().map(|n| n.name.clone())).collect();
        let mut old = vec![None; graph.values.len()];
        for (i, value) in graph.values.iter().enumerate() {
            let id = ValueId(i as u32);
            if value.data.is_some() || graph.inputs.contains(&id) {
                old[i] = Some(id);
            }
        }
        Flipper {
            types: graph.values.iter().map(|v| v.ty.clone()).collect(),
            from,
            to,
            by,
            new: vec![None; old.len()],
            old,
            outputs: graph.outputs.iter().copied().collect(),
            names,
            nodes: Vec::with_capacity(graph.nodes.len()),
            changed: 0,
            graph,
        }
    }

    fn run(&mut self) {
        for node in std::mem::take(&mut self.graph.nodes) {
            match self.flipped_op(&node) {
                Some(op) => self.flip_node(node, op),
                None => self.keep_node(node),
            }
        }
        for id in self.outputs.clone() {
            self.stored(id);
        }
        self.graph.nodes = std::mem::take(&mut self.nodes);
    }

    /// The type in the old graph.
    fn ty(&self, id: ValueId) -> Option<&TensorType> {
        self.types.get(id.index())?.as_ref()
    }

    fn data(&self, id: ValueId) -> Option<&Tensor> {
        self.graph.value(id)?.data.as_ref()
    }

    /// True for the type that goes away. Activations that are quantized per axis are only moved, and no table could
    /// flip them at the border.
    fn goes(&self, elem: &ElemType) -> bool {
        elem.dtype == self.from && elem.as_per_tensor().is_some()
    }

    fn flips(&self, id: ValueId) -> bool {
        self.ty(id).is_some_and(|ty| self.goes(&ty.elem))
    }

    fn elem(&self, elem: &ElemType) -> ElemType {
        match &elem.quant {
            Some(quant) if self.goes(elem) => {
                ElemType { dtype: self.to, quant: Some(shifted(quant, self.by)) }
            }
            _ => elem.clone(),
        }
    }

    fn clamp(&self, clamp: Option<IntClamp>, elem: &ElemType) -> Option<IntClamp> {
        let by = if self.goes(elem) { self.by } else { 0 };
        clamp.map(|c| IntClamp { min: c.min.saturating_add(by), max: c.max.saturating_add(by) })
    }

    fn out(&self, out: &QOut) -> QOut {
        QOut { elem: self.elem(&out.elem), clamp: self.clamp(out.clamp, &out.elem), ..out.clone() }
    }

    fn role(&self, op: &Op, index: usize, id: ValueId) -> Role {
        let constant = self.data(id).is_some();
        match (op, index) {
            (Op::QConv { .. }, 1) => Role::Stored,
            (Op::QMatMul { .. }, 1) if constant => Role::Stored,
            // Either version dequantizes to the same; none is made for that alone.
            (Op::Dequantize, _) if self.new[id.index()].is_none() => Role::Stored,
            _ => Role::Activation,
        }
    }

    /// The operator on flipped operands; `None` for those that must see the old ones.
    fn flipped_op(&mut self, node: &ir::Node) -> Option<Op> {
        let touched = node.inputs.iter().flatten().chain(&node.outputs).any(|&v| self.flips(v));
        let mut op = node.op.clone();
        if !touched {
            return Some(op);
        }
        let x = node.inputs.first().copied().flatten();
        let x_flips = x.is_some_and(|x| self.flips(x));
        match &mut op {
            Op::Pad { .. } => {
                // A plain fill is in stored units but does not say so.
                let value = node.inputs.get(2).copied().flatten();
                if x_flips && value.is_some_and(|v| !self.flips(v)) {
                    return None;
                }
            }
            Op::Dequantize
            | Op::ArgMax { .. }
            | Op::Pool(PoolAttrs { kind: PoolKind::Max, .. }) => {}
            Op::Quantize { out, clamp } => {
                *clamp = self.clamp(*clamp, out);
                *out = self.elem(out);
            }
            Op::Requantize(out)
            | Op::QPool { out, .. }
            | Op::QMean { out, .. }
            | Op::QSoftmax { out, .. } => *out = self.out(out),
            // What a residual is added to is not stored, and stays what the addition is defined on.
            Op::QConv { out, zero_folded, .. } => {
                if *zero_folded && x_flips && self.bias(node, false).is_none() {
                    return None;
                }
                *out = self.out(out);
            }
            Op::QMatMul { out, zero_folded, trans_b, .. } => {
                if *zero_folded && x_flips && self.bias(node, !*trans_b).is_none() {
                    return None;
                }
                *out = self.out(out);
            }
            Op::QBinary { flipped, out, .. } => {
                *flipped ^= self.elem(&out.elem) != out.elem;
                *out = self.out(out);
            }
            Op::Lut { table, out } => {
                let into = if x_flips { 0x80 } else { 0 };
                let onto = if self.elem(out) != *out { 0x80 } else { 0 };
                let old = Arc::clone(table);
                *table = Arc::new(std::array::from_fn(|i| old[i ^ into] ^ onto));
                *out = self.elem(out);
            }
            op if op.is_data_movement() => {
                if node.outputs.iter().any(|&y| self.flips(y) != x_flips) {
                    return None;
                }
            }
            _ => return None,
        }
        Some(op)
    }

    /// The bias with the folded zero point of flipped activations, if it fits.
    fn bias(&self, node: &ir::Node, channel_last: bool) -> Option<Tensor> {
        let weights = self.data(node.inputs.get(1).copied().flatten()?)?;
        let sums = channel_sums(weights, channel_last).ok()?;
        let old = match node.inputs.get(2).copied().flatten() {
            Some(bias) => self.data(bias)?.to_i64()?,
            None => vec![0; sums.len()],
        };
        let new: Option<Vec<i32>> = old
            .iter()
            .zip(&sums)
            .map(|(b, sum)| i32::try_from(b - i64::from(self.by) * sum).ok())
            .collect();
        let new = new.filter(|new| new.len() == sums.len() && old.len() == sums.len())?;
        Tensor::from_slice(&[new.len()], &new).ok()
    }

    fn flip_node(&mut self, node: ir::Node, op: Op) {
        let mut inputs = node.inputs.clone();
        for (index, slot) in inputs.iter_mut().enumerate() {
            let Some(id) = *slot else { continue };
            *slot = Some(match self.role(&op, index, id) {
                Role::Activation => self.flipped(id),
                Role::Stored => self.stored(id),
            });
        }
        let folded = match &op {
            Op::QConv { zero_folded: true, .. } => Some(false),
            Op::QMatMul { zero_folded: true, trans_b, .. } => Some(!trans_b),
            _ => None,
        };
        let x = node.inputs.first().copied().flatten();
        if let (Some(channel_last), true) = (folded, x.is_some_and(|x| self.flips(x)))
            && let Some(bias) = self.bias(&node, channel_last)
        {
            let name = self.unique(&format!("{}_bias", node.name));
            inputs.resize(inputs.len().max(3), None);
            inputs[2] = Some(self.graph.add_value(ir::Value {
                name,
                ty: Some(bias.ty()),
                data: Some(bias),
            }));
        }
        let mut outputs = node.outputs.clone();
        for id in &mut outputs {
            let value = *id;
            if !self.flips(value) {
                self.old[value.index()] = Some(value);
                continue;
            }
            self.changed += 1;
            if self.outputs.contains(&value) {
                *id = self.version(value, self.flipped_type(value));
            } else {
                self.graph.values[value.index()].ty = self.flipped_type(value);
            }
            self.new[value.index()] = Some(*id);
        }
        self.nodes.push(ir::Node { op, inputs, outputs, ..node });
    }

    /// An operator that reads and makes the old types.
    fn keep_node(&mut self, node: ir::Node) {
        let inputs = node.inputs.iter().map(|slot| slot.map(|id| self.stored(id))).collect();
        for &id in &node.outputs {
            self.old[id.index()] = Some(id);
        }
        self.nodes.push(ir::Node { inputs, ..node });
    }

    /// The old version of a value.
    fn stored(&mut self, id: ValueId) -> ValueId {
        if let Some(old) = self.old[id.index()] {
            return old;
        }
        let old = if self.outputs.contains(&id) {
            id
        } else {
            self.version(id, self.types[id.index()].clone())
        };
        self.old[id.index()] = Some(old);
        if let (Some(new), Some(ty)) = (self.new[id.index()], self.types[id.index()].clone()) {
            self.border(new, old, ty.elem);
        }
        old
    }

    /// The flipped version of a value, if it has one, else the old one.
    fn flipped(&mut self, id: ValueId) -> ValueId {
        if !self.flips(id) {
            return self.stored(id);
        }
        if let Some(new) = self.new[id.index()] {
            return new;
        }
        let ty = self.flipped_type(id);
        let new = self.version(id, ty.clone());
        self.new[id.index()] = Some(new);
        let Some(ty) = ty else { return new };
        let flipped = self.data(id).map(|data| {
            let bytes: Vec<u8> = data.bytes().iter().map(|b| b ^ 0x80).collect();
            Tensor::copy_from(ty.elem.clone(), data.dims().to_vec(), &bytes)
        });
        match flipped {
            Some(Ok(data)) => self.graph.values[new.index()].data = Some(data),
            _ => {
                let old = self.stored(id);
                self.border(old, new, ty.elem);
            }
        }
        new
    }

    /// A node that flips `from` into `to`.
    fn border(&mut self, from: ValueId, to: ValueId, out: ElemType) {
        let name = self.unique(&format!("{}_flip", self.graph.values[to.index()].name));
        let table = Arc::new(std::array::from_fn(|i| i as u8 ^ 0x80));
        self.nodes.push(ir::Node {
            name,
            op: Op::Lut { table, out },
            inputs: vec![Some(from)],
            outputs: vec![to],
            origin: Vec::new(),
        });
    }

    /// Another value for `id`.
    fn version(&mut self, id: ValueId, ty: Option<TensorType>) -> ValueId {
        let dtype = ty.as_ref().map_or(self.to, TensorType::dtype);
        let name = self.unique(&format!("{}_{dtype}", self.graph.values[id.index()].name));
        self.graph.add_value(ir::Value { name, ty, data: None })
    }

    fn flipped_type(&self, id: ValueId) -> Option<TensorType> {
        let ty = self.ty(id)?;
        Some(TensorType { elem: self.elem(&ty.elem), dims: ty.dims.clone() })
    }

    fn unique(&mut self, wanted: &str) -> String {
        let name = std::iter::once(wanted.to_owned())
            .chain((1u64..).map(|n| format!("{wanted}.{n}")))
            .find(|name| !self.names.contains(name))
            .expect("a finite set of names leaves one free");
        self.names.insert(name.clone());
        name
    }
}
