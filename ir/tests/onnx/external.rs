//! Elements in other files, and what must not be read.

use super::net::{Net, data_type};
use requant_ir::import::onnx::proto::tensor_proto::DataLocation;
use requant_ir::import::onnx::proto::{StringStringEntryProto, TensorProto};
use requant_ir::import::onnx::{
    ExternalError, ImportError, ImportOptions, import_bytes, import_file,
};
use requant_ir::{DType, ErrorKind, Limits, Model};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A model with one f32[4] constant described by `entries`.
fn net(entries: &[(&str, &str)]) -> Net {
    let entry =
        |(k, v): &(&str, &str)| StringStringEntryProto { key: (*k).into(), value: (*v).into() };
    Net::new()
        .init(TensorProto {
            name: "w".into(),
            dims: vec![4],
            data_type: data_type(DType::F32),
            data_location: DataLocation::External.into(),
            external_data: entries.iter().map(entry).collect(),
            ..Default::default()
        })
        .output("w")
}

/// A folder with `outside.bin` and `model/w.bin`: 8 bytes that do not belong to it, then 1, 2, 3, 4.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut data = vec![0xffu8; 8];
    data.extend(bytemuck::cast_slice::<f32, u8>(&[1.0, 2.0, 3.0, 4.0]));
    fs::create_dir_all(dir.path().join("model/sub")).unwrap();
    for name in ["outside.bin", "model/w.bin", "model/sub/w.bin"] {
        fs::write(dir.path().join(name), &data).unwrap();
    }
    dir
}

fn import(dir: &TempDir, entries: &[(&str, &str)]) -> Result<Model, ImportError> {
    let path = dir.path().join("model/m.onnx");
    fs::write(&path, net(entries).bytes()).unwrap();
    import_file(&path, &ImportOptions::default())
}

/// The error inside the one that names the file.
fn refused(dir: &TempDir, entries: &[(&str, &str)]) -> ExternalError {
    match import(dir, entries).unwrap_err() {
        ImportError::File { path, source } => match *source {
            ImportError::External { tensor, source } => {
                assert_eq!(tensor, "w");
                assert!(path.ends_with("m.onnx"));
                source
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn ranges() {
    let dir = folder();
    for location in ["w.bin", "./w.bin", "sub/w.bin"] {
        for length in [&[][..], &[("length", "16")]] {
            let mut entries = vec![("location", location), ("offset", "8"), ("checksum", "00")];
            entries.extend(length);
            if let Some(folder) = std::env::var_os("REQUANT_KEEP_MALFORMED") {
                // What the program's own tests damage.
                let net = net(&[("location", "./w.bin")]);
                fs::write(Path::new(&folder).join("../external.onnx"), net.bytes()).unwrap();
            }
            let m = import(&dir, &entries).unwrap();
            let w = m.graphs[0].values[0].data.as_ref().unwrap();
            assert_eq!(w.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        }
    }
}

#[test]
fn bad_ranges() {
    let dir = folder();
    let location = ("location", "w.bin");
    for entries in [
        &[("offset", "25")][..],
        &[("offset", "9")],
        &[("offset", "8"), ("length", "17")],
        &[("offset", "8"), ("length", "15")],
        &[("offset", "18446744073709551615"), ("length", "16")],
        &[("length", "18446744073709551615")],
        &[],
    ] {
        let entries = [&[location], entries].concat();
        assert!(matches!(refused(&dir, &entries), ExternalError::Range(_)), "{entries:?}");
    }
}

#[test]
fn keys_are_a_closed_set() {
    let dir = folder();
    let location = ("location", "w.bin");
    for entries in [
        &[][..],
        &[("offset", "8")],
        &[location, ("offset", "8"), ("offset", "8")],
        &[location, location],
        &[location, ("basepath", "/")],
        &[location, ("Offset", "8")],
        &[location, ("offset", "-8")],
        &[location, ("offset", "+8")],
        &[location, ("offset", "8 ")],
        &[location, ("length", "0x10")],
        &[location, ("length", "")],
        &[location, ("length", "99999999999999999999")],
    ] {
        assert!(matches!(refused(&dir, entries), ExternalError::Keys(_)), "{entries:?}");
    }
}

#[test]
fn locations_outside_of_the_folder() {
    let dir = folder();
    let absolute = dir.path().join("model/w.bin");
    for location in [
        "../outside.bin",
        "sub/../../outside.bin",
        "sub/../w.bin",
        "..",
        "",
        ".",
        "/",
        "/etc/passwd",
        absolute.to_str().unwrap(),
        "sub\\w.bin",
        "\\\\host\\share\\w.bin",
        "w.bin\0.txt",
    ] {
        let e = refused(&dir, &[("location", location), ("offset", "8")]);
        assert!(matches!(e, ExternalError::Location { .. }), "{location}: {e:?}");
        assert!(e.to_string().contains("refused"), "{e}");
    }
}

#[test]
fn missing_files_and_folders() {
    let dir = folder();
    for location in ["none.bin", "none/w.bin"] {
        let e = refused(&dir, &[("location", location)]);
        assert!(matches!(e, ExternalError::Read { .. }), "{location}: {e:?}");
    }
    let entries = [("location", "w.bin"), ("offset", "8")];
    let e = import(&dir, &[("location", "none.bin")]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    let options = ImportOptions::default();
    let e = import_bytes(net(&entries).bytes().into(), None, &options).unwrap_err();
    assert!(
        matches!(e, ImportError::External { source: ExternalError::NoFolder { .. }, .. }),
        "{e}"
    );
    // The folder may be given by hand.
    let folder = dir.path().join("model");
    assert!(import_bytes(net(&entries).bytes().into(), Some(&folder), &options).is_ok());
    let e = import_file(dir.path().join("none.onnx"), &options).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io);
    assert!(e.to_string().contains("none.onnx"), "{e}");
}

#[cfg(unix)]
#[test]
fn links_and_special_files() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    let dir = folder();
    let model = dir.path().join("model");
    symlink(dir.path().join("outside.bin"), model.join("link.bin")).unwrap();
    symlink("w.bin", model.join("inside.bin")).unwrap();
    std::fs::hard_link(dir.path().join("outside.bin"), model.join("hard.bin")).unwrap();
    symlink(dir.path(), model.join("up")).unwrap();
    symlink("sub", model.join("sub_link")).unwrap();
    let status = std::process::Command::new("mkfifo").arg(model.join("fifo")).status().unwrap();
    assert!(status.success());
    let _socket = UnixListener::bind(model.join("socket")).unwrap();
    for location in
        ["link.bin", "inside.bin", "hard.bin", "up/outside.bin", "sub_link/w.bin", "sub", "fifo"]
    {
        let e = refused(&dir, &[("location", location), ("offset", "8")]);
        assert!(matches!(e, ExternalError::Location { .. }), "{location}: {e:?}");
    }
    let e = refused(&dir, &[("location", "socket")]);
    assert!(matches!(e, ExternalError::Read { .. }), "{e:?}");
    let e = refused(&dir, &[("location", "w.bin/x")]);
    assert!(matches!(e, ExternalError::Location { .. }), "{e:?}");
}

#[test]
fn a_model_in_the_current_folder_has_a_folder() {
    // `m.onnx` has the parent ``, which must mean `.`.
    let bytes = net(&[("location", "Cargo.toml")]).bytes();
    let e = import_bytes(bytes.into(), Some(Path::new("")), &ImportOptions::default()).unwrap_err();
    assert!(matches!(e, ImportError::External { source: ExternalError::Range(_), .. }), "{e}");
}

#[test]
fn the_same_bytes_may_not_be_read_without_end() {
    let dir = folder();
    let one = net(&[("location", "w.bin"), ("offset", "8")]);
    let tensor = one.0.graph.as_ref().unwrap().initializer[0].clone();
    let mut many = one;
    for i in 0..100 {
        many.graph().initializer.push(TensorProto { name: format!("w{i}"), ..tensor.clone() });
    }
    let bytes = many.bytes();
    let limits = Limits { file_bytes: bytes.len() as u64 + 100 * 16, ..Limits::default() };
    let folder = dir.path().join("model");
    let e =
        import_bytes(bytes.into(), Some(&folder), &ImportOptions::with_limits(limits)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
}
