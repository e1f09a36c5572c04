//! The models of the corpus.

use requant_ir::import::onnx::{ImportError, ImportOptions, import_file};
use requant_ir::{ErrorKind, Limits, Model, Op};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Models committed with the tests.
fn small(name: &str) -> PathBuf {
    root().join("tests/data/cnn").join(name)
}

/// Models beside the repository, if they are there.
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
fn corpus(path: &str) -> Option<PathBuf> {
    let shared =
        std::env::var_os("REQUANT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let path = shared.join("corpus/models").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there (set REQUANT_SHARED)", path.display());
    None
}

fn load(path: &Path) -> Model {
    let model = match import_file(path, &ImportOptions::default()) {
        Ok(model) => model,
        Err(e) => panic!("{e}: {}", std::error::Error::source(&e).unwrap()),
    };
    model.verify(&Limits::default()).unwrap();
    model
}

fn count(model: &Model, mnemonic: &str) -> usize {
    model.graphs[0].nodes.iter().filter(|n| n.op.mnemonic() == mnemonic).count()
}

/// Numbers of nodes, in the order of the list.
fn counts(model: &Model, mnemonics: &[&str]) -> Vec<usize> {
    mnemonics.iter().map(|m| count(model, m)).collect()
}

#[test]
fn float_cnn() {
    let m = load(&small("cnn_f32.onnx"));
    assert_eq!(
        counts(&m, &["conv", "relu", "max_pool", "matmul", "add", "reshape", "transpose"]),
        [3, 4, 2, 2, 2, 1, 2]
    );
    assert_eq!(m.graphs[0].nodes.len(), 16);
    assert!(m.producer.starts_with("tf2onnx"));
    let g = &m.graphs[0];
    let input = g.value(g.inputs[0]).unwrap();
    assert_eq!(input.name, "image");
    assert_eq!(input.ty.as_ref().unwrap().to_string(), "f32[unk__28, 32, 32, 3]");
    assert_eq!(g.value(g.outputs[0]).unwrap().name, "Identity:0");
}

#[test]
fn qdq_cnn_has_quantized_constants_and_no_reinterpretation() {
    for name in ["cnn_qdq_u8s8_pc.onnx", "cnn_qdq_s8s8_pc.onnx", "cnn_qdq_u8u8_pt.onnx"] {
        let m = load(&small(name));
        assert_eq!(
            counts(&m, &["quantize", "dequantize", "conv", "gemm", "reinterpret"]),
            [10, 20, 3, 2, 0],
            "{name}"
        );
        for node in m.graphs[0].nodes.iter().filter(|n| n.op == Op::Dequantize) {
            let x = m.graphs[0].value(node.inputs[0].unwrap()).unwrap();
            if let Some(data) = &x.data {
                assert!(data.elem().quant.is_some(), "{name}: {}", x.name);
            }
        }
        // Scales and zero points are types now.
        assert!(!m.graphs[0].values.iter().any(|v| v.name.ends_with("_scale")), "{name}");
    }
}

#[test]
fn quantization_passes_through_movement() {
    // It has a Transpose between QuantizeLinear and DequantizeLinear.
    let m = load(&small("cnn_qat_qdq.onnx"));
    assert_eq!(counts(&m, &["quantize", "dequantize", "reinterpret"]), [6, 6, 0]);
}

#[test]
fn qoperator_cnn() {
    for name in ["cnn_qop_s8s8_pc.onnx", "cnn_qop_u8u8_pt.onnx"] {
        let m = load(&small(name));
        assert_eq!(
            counts(&m, &["quantize", "qconv", "max_pool", "qmatmul", "dequantize", "reinterpret"]),
            [1, 3, 2, 2, 1, 0],
            "{name}"
        );
    }
}

#[test]
fn supported_models_of_the_corpus() {
    for path in [
        "cnn/cnn_f16.onnx",
        "cnn/cnn_qdq_s16s8_pc.onnx",
        "hardcnn/hardcnn_f32.onnx",
        "hardcnn/hardcnn_qat_qdq.onnx",
        "hardcnn/hardcnn_qdq_s8s8_pc.onnx",
        "hardcnn/hardcnn_qdq_u8u8_pt.onnx",
        "hardcnn/hardcnn_qop_u8s8_pc.onnx",
        "effnet_lite0/effnet_lite0_f32.onnx",
        "effnet_lite0/effnet_lite0_qdq_s8s8_pc.onnx",
        "effnet_lite0/effnet_lite0_qdq_u8s8_pc.onnx",
        "effnet_lite0/effnet_lite0_qop_u8s8_pc.onnx",
        "effnet_lite0/effnet_lite0_ts17_qdq_u8u8_pt.onnx",
        "mobilenet_v2_random/mobilenet_v2_random_f32.onnx",
        "mobilenet_v2_random/mobilenet_v2_random_qdq_s8s8_pc.onnx",
        "ppocr_v4/ch_PP-OCRv4_rec_infer.onnx",
        "ppocr_v4/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "ppocr_v4/ppocr_rec_qdq_s8s8_pc_convmatmul.onnx",
    ] {
        let Some(path) = corpus(path) else { continue };
        let m = load(&path);
        assert_eq!(count(&m, "reinterpret"), 0, "{}", path.display());
    }
}

#[test]
fn operators_of_effnet() {
    let Some(path) = corpus("effnet_lite0/effnet_lite0_qop_u8s8_pc.onnx") else { return };
    let m = load(&path);
    assert_eq!(
        counts(
            &m,
            &["quantize", "qconv", "qadd", "dequantize", "reduce_mean", "reshape", "qmatmul"]
        ),
        [2, 49, 9, 2, 1, 1, 1],
        "{:?}",
        m.graphs[0]
            .nodes
            .iter()
            .map(|n| n.op.mnemonic())
            .collect::<std::collections::BTreeSet<_>>()
    );
}

/// Every model that needs operators there are none for says so once, for all of them.
#[test]
fn unsupported_models_of_the_corpus() {
    for (path, ops) in [
        ("cnn/cnn_dynamic_s8.onnx", &["DynamicQuantizeLinear", "MatMulInteger"][..]),
        (
            "cnn/cnn_dynamic_u8_convinteger.onnx",
            &["DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"],
        ),
        (
            "effnet_lite0/effnet_lite0_dynamic_u8.onnx",
            &["DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"],
        ),
        ("lstm/lstm_f32.onnx", &["LSTM"]),
        (
            "lstm/lstm_dynamic_s8.onnx",
            &["DynamicQuantizeLSTM", "DynamicQuantizeLinear", "MatMulInteger"],
        ),
        ("minilm_l6_v2/minilm_l6_v2_dynamic_s8.onnx", &["DynamicQuantizeLinear", "MatMulInteger"]),
        ("ppocr_v4/ch_PP-OCRv4_det_infer.onnx", &["Resize", "ConvTranspose"]),
        ("ppocr_v4/ppocr_det_qdq_u8s8_pc.onnx", &["Resize", "ConvTranspose"]),
        ("ppocr_v4/ppocr_det_qop_s8s8_pc.onnx", &["Resize", "ConvTranspose"]),
        ("silero_vad/silero_vad.onnx", &["If"]),
        ("silero_vad/silero_vad_16k_sequence.onnx", &["LSTM"]),
        ("silero_vad/silero_vad_op18_ifless.onnx", &["If"]),
    ] {
        let Some(file) = corpus(path) else { continue };
        let e = import_file(&file, &ImportOptions::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{path}: {e:?}");
        let ImportError::File { source, .. } = e else { panic!("{path}: {e:?}") };
        let ImportError::Unsupported(list) = *source else { panic!("{path}: {source:?}") };
        let mut found: Vec<_> = list.ops.iter().map(|o| o.op_type.as_str()).collect();
        let mut wanted = ops.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{path}: {list}");
        assert!(list.tensors.is_empty(), "{path}: {list}");
        assert!(list.ops.iter().all(|o| !o.nodes.is_empty()));
    }
}
