//! The requant IR: types, tensors, operators and models as plain data.
//!
//! This crate knows nothing of graphs algorithms, kernels or threads. It reads and writes models:
//! the `.rq` file, the text form, and ONNX.
#![deny(unsafe_code)]

mod dtype;
mod error_kind;
pub mod file;
pub mod import;
mod limits;
mod model;
mod names;
mod npy;
pub mod npz;
mod op;
mod proto;
mod tensor;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text;
mod types;
pub mod verify;

pub use dtype::DType;
pub use error_kind::ErrorKind;
pub use file::FileError;
pub use limits::Limits;
pub use model::{Graph, Model, Node, Value, ValueId};
pub use op::{
    BinaryKind, ConvAttrs, IntClamp, Layout, Op, PadMode, Padding, PoolAttrs, PoolKind, QOut,
    ReduceKind, Residual, Rounding, UnaryKind,
};
pub use tensor::{ALIGN, Element, Tensor, TensorError};
pub use text::{TextError, TextOptions};
pub use types::{Dim, ElemType, MAX_RANK, Quant, QuantParams, TensorType};
pub use verify::VerifyError;
