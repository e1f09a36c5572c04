//! The model under construction: values by their ONNX names, and the nodes that are emitted.

use super::error::{Failure, ImportError, Unsupported};
use crate::{DType, ElemType, Graph, Limits, Node, Op, Tensor, TensorType, Value, ValueId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Index of a symbol: what an ONNX name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sym(usize);

/// What is known of a value while importing: enough to choose the form of operators that need it.
#[derive(Clone, Debug)]
pub(super) struct Info {
    pub(super) elem: ElemType,
    pub(super) rank: Option<usize>,
}

impl Info {
    pub(super) fn new(elem: ElemType, rank: Option<usize>) -> Self {
        Info { elem, rank }
    }

    pub(super) fn plain(dtype: DType, rank: Option<usize>) -> Self {
        Info { elem: ElemType::plain(dtype), rank }
    }
}

enum Source {
    /// Becomes a value when something uses it, under the element type that the user gives it.
    Constant(Tensor),
    Value(ValueId),
    /// Result of a node that is not supported, or of one that uses such a result.
    Unknown,
}

struct Symbol {
    name: String,
    source: Source,
    info: Info,
    /// The same bytes under other element types.
    views: Vec<(ElemType, ValueId)>,
}

/// Names that are taken, and how to make new ones.
#[derive(Default)]
struct Names {
    taken: HashSet<Arc<str>>,
    /// Last suffix tried for each base, so that equal names do not cost quadratic time.
    suffix: HashMap<Arc<str>, u32>,
}

impl Names {
    fn unique(&mut self, base: &str) -> String {
        if self.taken.insert(base.into()) {
            return base.to_owned();
        }
        let suffix = self.suffix.entry(base.into()).or_insert(0);
        loop {
            *suffix += 1;
            let name = format!("{base}_{suffix}");
            if self.taken.insert(name.as_str().into()) {
                return name;
            }
        }
    }
}

pub(super) struct Builder<'a> {
    pub(super) limits: &'a Limits,
    pub(super) graph: Graph,
    pub(super) unsupported: Unsupported,
    /// Names that the graph's outputs must keep.
    pub(super) output_names: HashSet<String>,
    symbols: Vec<Symbol>,
    by_name: HashMap<String, Sym>,
    value_names: Names,
    node_names: Names,
    /// Bytes of constants that the file does not hold.
    derived: u64,
    /// Ranks the exporter declared, for values whose rank is not derived here.
    pub(super) declared_ranks: HashMap<String, usize>,
    /// Element types made from one pair of scale and zero point tensors, so that they share memory.
    pub(super) quants: HashMap<(Sym, Option<Sym>, DType, Option<usize>), ElemType>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Builder {
            limits,
            graph: Graph::default(),
            unsupported: Unsupported::default(),
            output_names: HashSet::new(),
            symbols: Vec::new(),
            by_name: HashMap::new(),
            value_names: Names::default(),
            node_names: Names::default(),
            derived: 0,
            declared_ranks: HashMap::new(),
            quants: HashMap::new(),
        }
    }

    // ---- names -------------------------------------------------------------------------------

    /// Keeps names of the file from being given to values that are made here.
    pub(super) fn reserve(&mut self, name: &str) {
        self.value_names.taken.insert(name.into());
    }

    pub(super) fn node_name(&mut self, base: &str) -> String {
        self.node_names.unique(base)
    }

    fn check_name(&self, name: &str) -> Result<(), ImportError> {
        self.bound("bytes of a name", name.len() as u64, self.limits.name_bytes as u64)
    }

    fn bound(&self, what: &str, needed: u64, limit: u64) -> Result<(), ImportError> {
        if needed <= limit {
            return Ok(());
        }
        Err(ImportError::Limit { what: what.into(), needed, limit })
    }

    /// Counts bytes of constants that are made here.
    pub(super) fn derive(&mut self, bytes: usize) -> Result<(), ImportError> {
        self.derived = self.derived.saturating_add(bytes as u64);
        self.bound("bytes of constants made by the import", self.derived, self.limits.derived_bytes)
    }

    // ---- symbols -----------------------------------------------------------------------------

    pub(super) fn find(&self, name: &str) -> Option<Sym> {
        self.by_name.get(name).copied()
    }

    fn define(&mut self, name: &str, source: Source, info: Info) -> Result<Sym, ImportError> {
        self.check_name(name)?;
        let sym = Sym(self.symbols.len());
        self.by_name.insert(name.to_owned(), sym);
        self.symbols.push(Symbol { name: name.to_owned(), source, info, views: Vec::new() });
        Ok(sym)
    }

    pub(super) fn define_constant(&mut self, name: &str, t: Tensor) -> Result<Sym, ImportError> {
        let info = Info::new(t.elem().clone(), Some(t.dims().len()));
        self.define(name, Source::Constant(t), info)
    }

    pub(super) fn define_input(&mut self, name: &str, ty: TensorType) -> Result<(), ImportError> {
        let info = Info::new(ty.elem.clone(), ty.rank());
        let id = self.add_value(name.to_owned(), Some(ty), None)?;
        self.graph.inputs.push(id);
        self.define(name, Source::Value(id), info)?;
        Ok(())
    }

    pub(super) fn define_unknown(&mut self, name: &str) -> Result<(), ImportError> {
        self.define(name, Source::Unknown, Info::plain(DType::F32, None))?;
        Ok(())
    }

    pub(super) fn is_unknown(&self, sym: Sym) -> bool {
        matches!(self.symbols[sym.0].source, Source::Unknown)
    }

    pub(super) fn info(&self, sym: Sym) -> &Info {
        &self.symbols[sym.0].info
    }

    /// The elements, if the symbol is a constant.
    pub(super) fn constant(&self, sym: Sym) -> Option<&Tensor> {
        match &self.symbols[sym.0].source {
            Source::Constant(t) => Some(t),
            _ => None,
        }
    }

    /// The symbol under its own element type.
    pub(super) fn as_is(&mut self, sym: Sym) -> Result<ValueId, Failure> {
        let elem = self.symbols[sym.0].info.elem.clone();
        self.view(sym, &elem)
    }

    /// The symbol's bytes under `elem`: a constant is retyped, another value reinterpreted. Each
    /// pair of symbol and type is made once.
    pub(super) fn view(&mut self, sym: Sym, elem: &ElemType) -> Result<ValueId, Failure> {
        let symbol = &self.symbols[sym.0];
        if let Some((_, id)) = symbol.views.iter().find(|(e, _)| e == elem) {
            return Ok(*id);
        }
        let name = symbol.name.clone();
        let id = match &symbol.source {
            Source::Value(id) if symbol.info.elem == *elem => *id,
            Source::Value(id) => {
                let x = *id;
                let out = self.fresh_value(&format!("{name}/reinterpret"))?;
                let node = self.node_name(&format!("{name}/reinterpret"));
                let op = Op::Reinterpret { out: elem.clone() };
                self.add_node(node, op, vec![Some(x)], vec![out], Vec::new())?;
                out
            }
            Source::Constant(t) => {
                let t = t.with_elem(elem.clone())?;
                // The first user's type keeps the file's name, unless the graph's output has it.
                let keeps = match self.output_names.contains(&name) {
                    true => elem.quant.is_none(),
                    false => symbol.views.is_empty(),
                };
                let name = if keeps { name } else { self.unique_value(&name) };
                self.add_value(name, Some(t.ty()), Some(t))?
            }
            // Stands in, so that the user's own form is looked at; this graph is not kept.
            Source::Unknown => self.fresh_value(&name)?,
        };
        self.symbols[sym.0].views.push((elem.clone(), id));
        Ok(id)
    }

    // ---- values and nodes --------------------------------------------------------------------

    fn unique_value(&mut self, base: &str) -> String {
        self.value_names.unique(base)
    }

    fn add_value(
        &mut self,
        name: String,
        ty: Option<TensorType>,
        data: Option<Tensor>,
    ) -> Result<ValueId, ImportError> {
        let needed = self.graph.values.len() as u64 + 1;
        self.bound("number of values", needed, self.limits.values as u64)?;
        Ok(self.graph.add_value(Value { name, ty, data }))
    }

    /// A value that is not in the file.
    pub(super) fn fresh_value(&mut self, base: &str) -> Result<ValueId, ImportError> {
        self.check_name(base)?;
        let name = self.unique_value(base);
        self.add_value(name, None, None)
    }

    /// A constant that is not in the file.
    pub(super) fn fresh_constant(&mut self, base: &str, t: Tensor) -> Result<ValueId, ImportError> {
        self.derive(t.bytes().len())?;
        self.check_name(base)?;
        let name = self.unique_value(base);
        self.add_value(name, Some(t.ty()), Some(t))
    }

    /// A node's result under the file's name for it.
    pub(super) fn define_result(&mut self, name: &str, info: Info) -> Result<ValueId, ImportError> {
        let id = self.add_value(name.to_owned(), None, None)?;
        let rank = info.rank.or_else(|| self.declared_ranks.get(name).copied());
        self.define(name, Source::Value(id), Info { rank, ..info })?;
        Ok(id)
    }

    pub(super) fn add_node(
        &mut self,
        name: String,
        op: Op,
        inputs: Vec<Option<ValueId>>,
        outputs: Vec<ValueId>,
        origin: Vec<String>,
    ) -> Result<(), ImportError> {
        let needed = self.graph.nodes.len() as u64 + 1;
        self.bound("number of nodes", needed, self.limits.nodes as u64)?;
        self.check_name(&name)?;
        self.graph.nodes.push(Node { name, op, inputs, outputs, origin });
        Ok(())
    }
}
