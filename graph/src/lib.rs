//! the requant graph: inference of types, reference interpreter, passes, lowering and execution
