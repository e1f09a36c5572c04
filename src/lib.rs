//! int8 inference for CPUs.
