//! `.rq` files on disk: released versions, sizes, saving.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use requant_ir::file::Problem;
use requant_ir::{
    DType, ElemType, ErrorKind, Graph, Limits, Model, Tensor, TextOptions, Value, ValueId,
};
use std::path::Path;

fn golden() -> Model {
    Model::parse_text(include_str!("data/v1.txt")).unwrap()
}

/// One constant a length, the content of which depends on `seed`.
fn constants(bytes: &[(usize, u8)]) -> Model {
    let mut graph = Graph { name: "main".into(), ..Graph::default() };
    for (i, &(len, seed)) in bytes.iter().enumerate() {
        let data: Vec<u8> = (0..len).map(|j| (j as u8).wrapping_mul(31) ^ seed).collect();
        let data = Tensor::copy_from(ElemType::plain(DType::U8), vec![len], &data).unwrap();
        graph.add_value(Value { name: format!("c{i}"), ty: Some(data.ty()), data: Some(data) });
    }
    graph.outputs = (0..bytes.len() as u32).map(ValueId).collect();
    Model { graphs: vec![graph], ..Model::default() }
}

#[test]
fn the_golden_text_is_canonical() {
    let text = include_str!("data/v1.txt");
    assert_eq!(golden().to_text(&TextOptions::full()), text);
}

#[test]
fn files_of_version_1_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1.rq");
    assert_eq!(Model::load(path, &Limits::default()).unwrap(), golden());
}

#[test]
fn large_files_are_mapped_and_their_constants_aligned_and_shared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.rq");
    let model = constants(&[(3 << 20, 1), (100, 2), (5001, 3), (3 << 20, 1)]);
    model.save(&path, false).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < (3 << 20) + 5001 + 4096 + 1024, "{size} bytes: something is stored twice");
    let back = Model::load(&path, &Limits::default()).unwrap();
    assert_eq!(back, model);
    let address =
        |i: usize| back.graphs[0].values[i].data.as_ref().unwrap().bytes().as_ptr().addr();
    assert!((0..4).all(|i| address(i).is_multiple_of(requant_ir::ALIGN)));
    assert_eq!(address(0), address(3));
    // Saving over the mapped file must not disturb what is mapped.
    constants(&[(2 << 20, 9)]).save(&path, true).unwrap();
    assert_eq!(back, model);
}

#[test]
fn small_files_carry_little_beside_their_constants() {
    let lengths: Vec<(usize, u8)> = (0..40).map(|i| (3000, i)).collect();
    let bytes = constants(&lengths).to_rq_bytes().unwrap();
    assert!(bytes.len() < 40 * 3000 + 40 * 32 + 128, "{}", bytes.len());
}

#[test]
fn unaligned_bytes_are_read_too() {
    let model = constants(&[(10_000, 1), (9_999, 2)]);
    let mut shifted = vec![0];
    shifted.extend_from_slice(&model.to_rq_bytes().unwrap());
    let bytes = bytes::Bytes::from(shifted).slice(1..);
    assert_eq!(Model::from_rq_bytes(bytes, &Limits::default()).unwrap(), model);
}

#[test]
fn saving_replaces_only_when_told_to_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.rq");
    golden().save(&path, false).unwrap();
    let error = constants(&[(1, 1)]).save(&path, false).unwrap_err();
    assert!(matches!(error.problem, Problem::Exists), "{error}");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("m.rq"), "{error}");
    assert_eq!(Model::load(&path, &Limits::default()).unwrap(), golden());

    let mut invalid = golden();
    invalid.graphs[0].inputs.push(ValueId(9999));
    let error = invalid.save(&path, true).unwrap_err();
    assert!(matches!(error.problem, Problem::Invalid(_)), "{error}");
    assert_eq!(Model::load(&path, &Limits::default()).unwrap(), golden());

    constants(&[(1, 1)]).save(&path, true).unwrap();
    assert_eq!(Model::load(&path, &Limits::default()).unwrap(), constants(&[(1, 1)]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Model::load(folder.path(), &Limits::default()).unwrap_err();
    assert!(matches!(error.problem, Problem::NotRegular), "{error}");
    let error = Model::load(folder.path().join("none.rq"), &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    #[cfg(unix)]
    {
        let error = Model::load("/dev/zero", &Limits::default()).unwrap_err();
        assert!(matches!(error.problem, Problem::NotRegular), "{error}");
    }
}

#[test]
fn files_above_the_limit_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.rq");
    golden().save(&path, false).unwrap();
    let limits = Limits { file_bytes: 1000, ..Limits::default() };
    let error = Model::load(&path, &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    let limits = Limits { nodes: 10, ..Limits::default() };
    let error = Model::load(&path, &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    let limits = Limits { name_bytes: 3, ..Limits::default() };
    let error = Model::load(&path, &limits).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
}
