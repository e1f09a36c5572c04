//! The model as data: a flat table of graphs, each a table of values and nodes.

use crate::{Op, Tensor, TensorType};

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The index as `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A model: what files hold and importers make. `graphs[0]` is the main graph.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Model {
    /// Who wrote it, for people.
    pub producer: String,
    /// The graphs; subgraphs of control flow are named by their index.
    pub graphs: Vec<Graph>,
    /// Free text pairs, in file order.
    pub metadata: Vec<(String, String)>,
}

/// Values and nodes. Nodes are in topological order: a node uses only graph inputs, constants and
/// outputs of earlier nodes (the verifier checks it).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    /// Name, for people.
    pub name: String,
    /// All values.
    pub values: Vec<Value>,
    /// All nodes in topological order.
    pub nodes: Vec<Node>,
    /// Values the caller gives, in order.
    pub inputs: Vec<ValueId>,
    /// Values the caller gets, in order.
    pub outputs: Vec<ValueId>,
}

/// An edge of the graph: a graph input, a constant, or the output of exactly one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in its graph, not empty.
    pub name: String,
    /// The type; `None` where an importer leaves it to inference.
    pub ty: Option<TensorType>,
    /// The elements, for a constant.
    pub data: Option<Tensor>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique in its graph, not empty.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands in the op's order; `None` for an absent optional one.
    pub inputs: Vec<Option<ValueId>>,
    /// Results in the op's order.
    pub outputs: Vec<ValueId>,
    /// Names of the source file's nodes it stands for, if other than its own.
    pub origin: Vec<String>,
}

impl Graph {
    /// The value with this id, if there is one.
    pub fn value(&self, id: ValueId) -> Option<&Value> {
        self.values.get(id.index())
    }

    /// Adds a value and gives its id. Names are not checked here, the verifier does.
    pub fn add_value(&mut self, value: Value) -> ValueId {
        let id =
            ValueId(u32::try_from(self.values.len()).expect("limits keep value counts below 2³²"));
        self.values.push(value);
        id
    }
}
