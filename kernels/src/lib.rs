//! int8 and f32 kernels for CPUs: GEMM, convolution, pooling, elementwise, with the same bits on every ISA
