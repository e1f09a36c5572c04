//! the requant model IR: types, operators, the .rq file, the text form, import of ONNX
