//! What can go wrong with a graph.

use crate::infer::InferError;
use std::sync::Arc;
use thiserror::Error;

/// Why a model is no graph, or a change of a graph was refused. A refused change leaves it as it was.
#[derive(Debug, Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum GraphError {
    /// The model has no graph.
    #[error("the model has no graph")]
    NoGraph,
    /// The model has more than one graph, and no operator that could run the others.
    #[error("the model has {count} graphs, but only one can be run; inline the subgraphs")]
    Subgraphs {
        /// Graphs in the model.
        count: usize,
    },
    /// A value id points nowhere.
    #[error("`{node}` refers to value {id}, which does not exist")]
    UnknownValue {
        /// The node, or `inputs` / `outputs` of the graph.
        node: String,
        /// The id.
        id: u32,
    },
    /// A value is read that no input, constant or earlier node defines.
    #[error("`{node}` reads `{value}`, which is not defined before it")]
    Undefined {
        /// The reader.
        node: String,
        /// The value.
        value: String,
    },
    /// A value has two sources.
    #[error("the value `{value}` is defined twice")]
    Redefined {
        /// The value.
        value: String,
    },
    /// Two values or two nodes have one name.
    #[error("the name `{name}` is used twice; names of values and of nodes must be unique")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A graph input has no type.
    #[error("the input `{value}` has no type; say its element type and shape")]
    UntypedInput {
        /// The input.
        value: String,
    },
    /// A node has more operands or results than fit.
    #[error("`{node}` has more than 65535 operands or results")]
    TooManySlots {
        /// The node.
        node: String,
    },
    /// The types of a node's results cannot be found.
    #[error("node `{node}`: {source}")]
    Infer {
        /// The node.
        node: String,
        /// Why.
        source: InferError,
    },
    /// What the file says of a value contradicts what follows from its operands.
    #[error("`{value}` is declared as {declared}, but its operands make it {inferred}")]
    Declared {
        /// The value.
        value: String,
        /// In the file, or before a change.
        declared: String,
        /// From the operands.
        inferred: String,
    },
    /// A patch refers to something that does not exist.
    #[error("a patch of `{pass}` refers to {what}, which does not exist")]
    PatchReference {
        /// The pass.
        pass: &'static str,
        /// A node or a result of one.
        what: String,
    },
    /// A patch would change the type of a value.
    #[error("`{pass}` would turn `{value}` from {old} into {new}")]
    PatchType {
        /// The pass.
        pass: &'static str,
        /// The value.
        value: Arc<str>,
        /// Before.
        old: String,
        /// After.
        new: String,
    },
    /// A patch would make a value depend on itself.
    #[error("`{pass}` would make `{value}` depend on itself")]
    PatchCycle {
        /// The pass.
        pass: &'static str,
        /// The value replaced first.
        value: Arc<str>,
    },
    /// There is no such input.
    #[error("the model has no input `{name}`; its inputs are {inputs}")]
    NoInput {
        /// The name asked for.
        name: String,
        /// The names there are.
        inputs: String,
    },
    /// A shape does not fit an input.
    #[error("the input `{input}` is {expected}, the shape {got:?} does not fit")]
    InputShape {
        /// The input.
        input: String,
        /// The shape given.
        got: Vec<usize>,
        /// What the model says.
        expected: String,
    },
    /// One symbol would have two extents.
    #[error("the extent `{symbol}` is {first} in one input and {second} in another")]
    Symbol {
        /// The symbol.
        symbol: String,
        /// One extent.
        first: usize,
        /// The other.
        second: usize,
    },
    /// The graph breaks a rule of its own: a defect of this library.
    #[error("the graph is broken: {what}")]
    Broken {
        /// What is wrong.
        what: String,
    },
}
