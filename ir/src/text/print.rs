//! Models to text.

use super::lex::{is_bare_name, is_word, quote};
use super::literal::{Literal, push, write_elements, write_elided, write_list};
use super::{TextOptions, ops};
use crate::{
    DType, Dim, ElemType, Graph, Model, Node, Quant, QuantParams, TensorType, Value, ValueId,
};

pub(super) fn model(model: &Model, options: &TextOptions) -> String {
    let mut out = String::from("requant 1\n");
    if !model.producer.is_empty() {
        out.push_str("producer ");
        quote(&mut out, &model.producer);
        out.push('\n');
    }
    for (key, value) in &model.metadata {
        out.push_str("metadata ");
        quote(&mut out, key);
        out.push_str(" = ");
        quote(&mut out, value);
        out.push('\n');
    }
    for graph in &model.graphs {
        out.push('\n');
        Printer { out: &mut out, graph, options, order: Vec::new() }.graph();
    }
    out
}

struct Printer<'a> {
    out: &'a mut String,
    graph: &'a Graph,
    options: &'a TextOptions,
    /// Values in the order of the text so far.
    order: Vec<ValueId>,
}

impl Printer<'_> {
    fn graph(&mut self) {
        let graph = self.graph;
        self.out.push_str("graph ");
        word(self.out, &graph.name);
        self.list(&graph.inputs, true);
        self.out.push_str(" -> ");
        self.list(&graph.outputs, false);
        self.out.push_str(" {\n");
        self.order.extend(&graph.inputs);
        let mut printed: Vec<bool> = graph.values.iter().map(|v| v.data.is_none()).collect();
        for node in &graph.nodes {
            for &id in node.inputs.iter().flatten() {
                self.constant(id, &mut printed);
            }
            self.node(node);
        }
        for i in 0..graph.values.len() {
            self.constant(ValueId(i as u32), &mut printed);
        }
        if self.options.elide_over.is_none()
            && !self.order.iter().map(|id| id.index()).eq(0..self.order.len())
        {
            self.out.push_str("  order");
            for i in 0..graph.values.len() {
                self.out.push(' ');
                self.name(ValueId(i as u32));
            }
            self.out.push('\n');
        }
        self.out.push_str("}\n");
    }

    fn list(&mut self, ids: &[ValueId], types: bool) {
        self.out.push('(');
        for (i, &id) in ids.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.name(id);
            if types {
                self.ty(id);
            }
        }
        self.out.push(')');
    }

    fn name(&mut self, id: ValueId) {
        self.out.push('%');
        match self.graph.value(id) {
            Some(Value { name, .. }) if is_bare_name(name) => self.out.push_str(name),
            Some(Value { name, .. }) => quote(self.out, name),
            // Only a model that was not verified gets here.
            None => push(self.out, format_args!("\"missing value {}\"", id.0)),
        }
    }

    fn ty(&mut self, id: ValueId) {
        if let Some(ty) = self.graph.value(id).and_then(|v| v.ty.as_ref()) {
            self.out.push_str(": ");
            tensor_type(self.out, ty, self.options);
        }
    }

    fn constant(&mut self, id: ValueId, printed: &mut [bool]) {
        let Some(data) = self.graph.value(id).and_then(|v| v.data.as_ref()) else { return };
        if std::mem::replace(&mut printed[id.index()], true) {
            return;
        }
        self.order.push(id);
        self.out.push_str("  const ");
        self.name(id);
        self.ty(id);
        self.out.push_str(" = ");
        write_elements(self.out, data, self.options);
        self.out.push('\n');
    }

    fn node(&mut self, node: &Node) {
        self.out.push_str("  ");
        for (i, &id) in node.outputs.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.name(id);
            self.ty(id);
        }
        self.order.extend(&node.outputs);
        push(self.out, format_args!(" = {}(", node.op.mnemonic()));
        for (i, id) in node.inputs.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            match id {
                Some(id) => self.name(*id),
                None => self.out.push('_'),
            }
        }
        self.out.push(')');
        ops::print(self.out, &node.op, self.options);
        let first = node.outputs.first().and_then(|&id| self.graph.value(id));
        if first.is_none_or(|v| v.name != node.name) {
            self.out.push(' ');
            quote(self.out, &node.name);
        }
        if !node.origin.is_empty() {
            self.out.push_str(" from [");
            for (i, name) in node.origin.iter().enumerate() {
                if i > 0 {
                    self.out.push_str(", ");
                }
                quote(self.out, name);
            }
            self.out.push(']');
        }
        self.out.push('\n');
    }
}

fn word(out: &mut String, text: &str) {
    if is_word(text) { out.push_str(text) } else { quote(out, text) }
}

pub(super) fn tensor_type(out: &mut String, ty: &TensorType, options: &TextOptions) {
    elem_type(out, &ty.elem, options);
    match &ty.dims {
        None => out.push_str("[*]"),
        Some(dims) => {
            out.push('[');
            for (i, dim) in dims.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                match dim {
                    Dim::Fixed(n) => push(out, format_args!("{n}")),
                    Dim::Symbol(name) => word(out, name),
                    Dim::Unknown => out.push('?'),
                }
            }
            out.push(']');
        }
    }
}

pub(super) fn elem_type(out: &mut String, elem: &ElemType, options: &TextOptions) {
    out.push_str(elem.dtype.name());
    let Some(quant) = &elem.quant else { return };
    out.push('<');
    quant_params(out, quant, options);
    if quant.narrow_range {
        out.push_str(", narrow");
    }
    if quant.expressed != DType::F32 {
        push(out, format_args!(", expressed={}", quant.expressed));
    }
    out.push('>');
}

fn quant_params(out: &mut String, quant: &Quant, options: &TextOptions) {
    fn list<T: Literal>(out: &mut String, items: &[T], options: &TextOptions) {
        if options.elide_over.is_some_and(|n| items.len() > n) {
            write_elided(out, bytemuck::cast_slice(items));
        } else {
            write_list(out, items);
        }
    }
    match &quant.params {
        QuantParams::PerTensor { scale, zero_point } => {
            out.push_str("s=");
            scale.write(out);
            push(out, format_args!(", z={zero_point}"));
            return;
        }
        QuantParams::PerAxis { axis, .. } => push(out, format_args!("axis={axis}")),
        QuantParams::PerBlock { axis, size, .. } => {
            push(out, format_args!("axis={axis}, block={size}"));
        }
    }
    out.push_str(", s=");
    list(out, quant.scales(), options);
    let zeros = quant.zero_points();
    if zeros.len() != quant.scales().len() || zeros.iter().any(|&z| z != 0) {
        out.push_str(", z=");
        list(out, zeros, options);
    }
}
