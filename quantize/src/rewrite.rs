//! Rewrites a float graph into its QDQ form: `Quantize` and `Dequantize` around every 8-bit
//! activation, s8 weights and s32 biases behind `Dequantize`.

use crate::params::{asymmetric, quantize_bias, quantize_weight, weight_scales};
use crate::select::{Role, Selection};
use crate::{MinMax, QuantizeError, QuantizeOptions, Ranges, Report, TensorReport};
use requant_ir::{DType, ElemType, Graph, Node, Op, Quant, Tensor, TensorType, Value, ValueId};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) struct Rewriter<'a> {
    source: &'a Graph,
    selection: &'a Selection,
    options: &'a QuantizeOptions,
    names: BTreeSet<String>,
    node_names: BTreeSet<String>,
    graph: Graph,
    /// Parameters of each group's representative.
    params: BTreeMap<ValueId, (f32, i32)>,
    /// The dequantized twin of each quantized value.
    twins: BTreeMap<ValueId, ValueId>,
    report: Report,
}

/// Makes the QDQ graph. Ranges are looked up by value name.
pub(crate) fn rewrite(
    source: &Graph,
    selection: &Selection,
    ranges: &Ranges,
    options: &QuantizeOptions,
) -> Result<(Graph, Report), QuantizeError> {
    let mut r = Rewriter {
        source,
        selection,
        options,
        names: source.values.iter().map(|v| v.name.clone()).collect(),
        node_names: source.nodes.iter().map(|n| n.name.clone()).collect(),
        graph: Graph {
            name: source.name.clone(),
            values: source.values.clone(),
            nodes: Vec::new(),
            inputs: source.inputs.clone(),
            outputs: source.outputs.clone(),
        },
        params: BTreeMap::new(),
        twins: BTreeMap::new(),
        report: Report { samples: ranges.samples, ..Report::default() },
    };
    r.choose_params(ranges)?;
    for &input in &source.inputs {
        r.add_pair(input);
    }
    for (i, node) in source.nodes.iter().enumerate() {
        r.add_node(node, selection.roles[i])?;
    }
    Ok((prune(&r.graph), r.report))
}

/// The graph without values that nothing uses (the float weights, above all).
fn prune(graph: &Graph) -> Graph {
    let mut used: BTreeSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    for node in &graph.nodes {
        used.extend(node.inputs.iter().flatten().chain(&node.outputs));
    }
    let mut out = Graph { name: graph.name.clone(), ..Graph::default() };
    let ids: BTreeMap<ValueId, ValueId> =
        used.into_iter().map(|v| (v, out.add_value(graph.values[v.index()].clone()))).collect();
    let renumber = |v: &ValueId| ids[v];
    out.inputs = graph.inputs.iter().map(renumber).collect();
    out.outputs = graph.outputs.iter().map(renumber).collect();
    out.nodes = graph
        .nodes
        .iter()
        .map(|n| Node {
            inputs: n.inputs.iter().map(|i| i.as_ref().map(renumber)).collect(),
            outputs: n.outputs.iter().map(renumber).collect(),
            ..n.clone()
        })
        .collect();
    out
}

impl Rewriter<'_> {
    fn name(&self, v: ValueId) -> &str {
        &self.source.values[v.index()].name
    }

    fn choose_params(&mut self, ranges: &Ranges) -> Result<(), QuantizeError> {
        let mut observed: BTreeMap<ValueId, MinMax> = BTreeMap::new();
        for (&v, &root) in &self.selection.groups {
            if let Some(range) = ranges.get(self.name(v)) {
                let group = observed.entry(root).or_insert(range);
                *group = group.merge(range);
            }
        }
        for (&v, &root) in &self.selection.groups {
            let range = match (self.selection.fixed.get(&root), observed.get(&root)) {
                (Some(&fixed), Some(&range)) if !within_a_step(range, fixed) => fixed.merge(range),
                (Some(&fixed), _) => fixed,
                (None, Some(&range)) => range,
                (None, None) => {
                    return Err(QuantizeError::NotObserved { tensor: self.name(v).to_owned() });
                }
            };
            let (scale, zero_point) = asymmetric(range.min, range.max, self.options.activation);
            self.params.insert(root, (scale, zero_point));
            let tensor = self.name(v).to_owned();
            self.report.activations.push(TensorReport {
                tensor,
                min: range.min,
                max: range.max,
                scale,
                zero_point,
            });
        }
        Ok(())
    }

    fn params_of(&self, v: ValueId) -> Option<(f32, i32)> {
        self.params.get(self.selection.groups.get(&v)?).copied()
    }

    fn unique(taken: &mut BTreeSet<String>, base: &str) -> String {
        let mut name = base.to_owned();
        let mut n = 1;
        while !taken.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name
    }

    fn value(&mut self, base: &str, ty: Option<TensorType>, data: Option<Tensor>) -> ValueId {
        let name = Self::unique(&mut self.names, base);
        self.graph.add_value(Value { name, ty, data })
    }

    fn node(&mut self, base: &str, op: Op, input: ValueId, output: ValueId) {
        let name = Self::unique(&mut self.node_names, base);
        self.graph.nodes.push(Node {
            name,
            op,
            inputs: vec![Some(input)],
            outputs: vec![output],
            origin: Vec::new(),
        });
    }

    /// `Quantize` and `Dequantize` behind a value that 8-bit operators read.
    fn add_pair(&mut self, v: ValueId) {
        let Some((scale, zero_point)) = self.params_of(v) else { return };
        let base = self.name(v).to_owned();
        let dims = self.source.values[v.index()].ty.as_ref().and_then(|t| t.dims.clone());
        let out = ElemType::per_tensor(self.options.activation, scale, zero_point);
        let q_type = TensorType { elem: out.clone(), dims: dims.clone() };
        let f_type = TensorType { elem: ElemType::plain(DType::F32), dims };
        let q = self.value(&format!("{base}.q"), Some(q_type), None);
        let twin = self.value(&format!("{base}.dq"), Some(f_type), None);
        self.node(&format!("{base}.quantize"), Op::Quantize { out, clamp: None }, v, q);
        self.node(&format!("{base}.dequantize"), Op::Dequantize, q, twin);
        self.twins.insert(v, twin);
    }

    fn add_node(&mut self, node: &Node, role: Role) -> Result<(), QuantizeError> {
        let mut node = node.clone();
        match role {
            Role::Weighted { axis, bias } => self.quantize_weights(&mut node, axis, bias)?,
            Role::Computes | Role::Moves => {
                for v in node.inputs.iter_mut().flatten() {
                    *v = self.twins.get(v).copied().unwrap_or(*v);
                }
                if role == Role::Computes {
                    self.report.integer_nodes += 1;
                }
            }
            Role::Activation => self.report.integer_nodes += 1,
            Role::Float => self.report.float_nodes.push(node.name.clone()),
        }
        let outputs = node.outputs.clone();
        self.graph.nodes.push(node);
        for v in outputs {
            self.add_pair(v);
        }
        Ok(())
    }

    fn quantize_weights(
        &mut self,
        node: &mut Node,
        axis: usize,
        has_bias: bool,
    ) -> Result<(), QuantizeError> {
        let (Some(Some(x)), Some(Some(w))) =
            (node.inputs.first().copied(), node.inputs.get(1).copied())
        else {
            return Ok(());
        };
        let Some((input_scale, _)) = self.params_of(x) else { return Ok(()) };
        let Some(weights) = self.source.values[w.index()].data.clone() else { return Ok(()) };
        let Some(values) = weights.as_slice::<f32>() else { return Ok(()) };
        let channels = weights.dims()[axis];
        let inner: usize = weights.dims()[axis + 1..].iter().product();
        let channel = |i: usize| i / inner.max(1) % channels.max(1);
        let mut absmax = vec![0.0f32; channels];
        for (i, v) in values.iter().enumerate() {
            if !v.is_finite() {
                return Err(QuantizeError::WeightNotFinite { tensor: self.name(w).to_owned() });
            }
            absmax[channel(i)] = absmax[channel(i)].max(v.abs());
        }
        let bias_value = node.inputs.get(2).copied().flatten().filter(|_| has_bias);
        let bias = bias_value
            .and_then(|b| self.source.values[b.index()].data.clone())
            .filter(|b| b.dtype() == DType::F32 && b.dims() == [channels]);
        let bias_f32 = bias.as_ref().and_then(Tensor::to_f32);
        if let Some(b) = &bias_f32
            && b.iter().any(|v| !v.is_finite())
        {
            let tensor = bias_value.map(|b| self.name(b).to_owned()).unwrap_or_default();
            return Err(QuantizeError::WeightNotFinite { tensor });
        }
        if !self.options.per_channel {
            let all = absmax.iter().copied().fold(0.0, f32::max);
            absmax.fill(all);
        }
        let mut scales = weight_scales(&absmax, bias_f32.as_deref(), input_scale);
        if !self.options.per_channel {
            let all = scales.iter().copied().fold(0.0, f32::max);
            scales.fill(all);
        }
        let q: Vec<i8> = values
            .iter()
            .enumerate()
            .map(|(i, &v)| quantize_weight(v, scales[channel(i)]))
            .collect();
        let mut quant = if self.options.per_channel {
            Quant::per_axis(axis, scales.clone(), vec![0; channels])
        } else {
            Quant::per_tensor(scales.first().copied().unwrap_or(1.0), 0)
        };
        quant.narrow_range = true;
        let elem = ElemType { dtype: DType::I8, quant: Some(quant) };
        let base = self.name(w).to_owned();
        let q = Tensor::copy_from(elem, weights.dims().to_vec(), bytemuck::cast_slice(&q))
            .map_err(|source| QuantizeError::Tensor { tensor: base.clone(), source })?;
        node.inputs[0] = Some(self.twins.get(&x).copied().unwrap_or(x));
        node.inputs[1] = Some(self.dequantized(&base, q));
        if let (Some(b), Some(id)) = (bias_f32, bias_value) {
            let base = self.name(id).to_owned();
            let product: Vec<f32> = scales.iter().map(|s| input_scale * s).collect();
            let q: Vec<i32> = b.iter().zip(&product).map(|(&b, &s)| quantize_bias(b, s)).collect();
            let elem = ElemType {
                dtype: DType::I32,
                quant: Some(Quant::per_axis(0, product, vec![0; channels])),
            };
            let q = Tensor::copy_from(elem, vec![channels], bytemuck::cast_slice(&q))
                .map_err(|source| QuantizeError::Tensor { tensor: base.clone(), source })?;
            node.inputs[2] = Some(self.dequantized(&base, q));
        }
        self.report.integer_nodes += 1;
        Ok(())
    }

    /// A constant behind `Dequantize`.
    fn dequantized(&mut self, base: &str, q: Tensor) -> ValueId {
        let ty = q.ty();
        let f_type = TensorType { elem: ElemType::plain(DType::F32), dims: ty.dims.clone() };
        let constant = self.value(&format!("{base}.q"), Some(ty), Some(q));
        let out = self.value(&format!("{base}.dq"), Some(f_type), None);
        self.node(&format!("{base}.dequantize"), Op::Dequantize, constant, out);
        out
    }
}

/// Whether nothing was seen outside `fixed` by more than one step of 8 bits, which an operator of that range rounds away:
/// if there was, another tensor shares the parameters.
fn within_a_step(seen: MinMax, fixed: MinMax) -> bool {
    let step = (fixed.max - fixed.min) / 255.0;
    seen.min >= fixed.min - step && seen.max <= fixed.max + step
}
