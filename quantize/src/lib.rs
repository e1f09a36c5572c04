//! post-training quantization: calibration and rewriting of float models to int8
