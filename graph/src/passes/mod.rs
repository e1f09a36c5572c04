//! The passes, one a file, and their order.
//!
//! Each file says at its head what it matches, what it makes of it, how exact that is, and what it
//! refuses (and explains through [`crate::pass::PassCx::refuse`]).

mod consts;
mod dce;
mod fold_activation;
mod fold_batch_norm;
mod fold_constants;
mod fold_pad;
mod fold_zero_point;
mod fuse_lut;
mod fuse_qdq;
mod fuse_requantize;
mod fuse_residual;
mod layout;
mod propagate_qdq;
mod qparams;
mod remove_identity;
pub mod sign;

pub use dce::Dce;
pub use fold_activation::FoldActivation;
pub use fold_batch_norm::FoldBatchNorm;
pub use fold_constants::{FoldConstants, FoldDequantized};
pub use fold_pad::FoldPad;
pub use fold_zero_point::FoldZeroPoint;
pub use fuse_lut::FuseLut;
pub use fuse_qdq::FuseQdq;
pub use fuse_requantize::FuseRequantize;
pub use fuse_residual::FuseResidual;
pub use layout::Layout;
pub use propagate_qdq::PropagateQdq;
pub use remove_identity::RemoveIdentity;

use crate::pass::Pass;

/// Every pass in the default order. Approximate ones run only when they are named.
///
/// Folding and clean-up come again where the passes before them make new work: movement of
/// quantization leaves constants to fold, fusion makes integer convolutions that take padding, and
/// layout leaves pairs of reshapes.
pub(crate) static PIPELINE: &[&dyn Pass] = &[
    &FoldConstants,
    &RemoveIdentity,
    &FoldBatchNorm,
    &FoldPad,
    &PropagateQdq,
    &FoldConstants,
    &FoldActivation,
    &FuseQdq,
    &FuseLut,
    &FuseRequantize,
    &FoldPad,
    &FoldActivation,
    &FoldZeroPoint,
    &FuseResidual,
    &FoldDequantized,
    &Layout,
    &RemoveIdentity,
    &Dce,
];
