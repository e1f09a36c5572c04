//! The `.npy` format: what NumPy writes is read, what we write comes back, all else is refused.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use half::f16;
use proptest::prelude::*;
use requant_ir::npz::{NpyError, NpzError, read_npy_from, read_npz_from, write_npz};
use requant_ir::{DType, ElemType, Limits, Tensor, TensorError, testing};
use std::io::{Cursor, Read};

fn read(bytes: &[u8]) -> Result<Tensor, NpyError> {
    read_npy_from(bytes, "m", &Limits::default()).map_err(|e| match e {
        NpzError::Array { source, .. } => source,
        e => panic!("{e}"),
    })
}

/// A file with the given version and header.
fn file(major: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend_from_slice(&[major, 0]);
    match major {
        1 => bytes.extend_from_slice(&(header.len() as u16).to_le_bytes()),
        _ => bytes.extend_from_slice(&(header.len() as u32).to_le_bytes()),
    }
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn header(descr: &str, fortran_order: bool, shape: &str) -> String {
    let order = if fortran_order { "True" } else { "False" };
    format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
}

#[track_caller]
fn refused(header: &str, reason: &str) {
    let bytes = file(1, header, &[0; 64]);
    assert_eq!(read(&bytes).unwrap_err().to_string(), reason, "{header}");
}

/// The `.npy` within an `.npz` of one array.
fn written(tensor: &Tensor) -> Vec<u8> {
    let mut archive = Cursor::new(Vec::new());
    write_npz(&mut archive, "m", [("t", tensor)]).unwrap();
    let mut bytes = Vec::new();
    zip::ZipArchive::new(archive).unwrap().by_index(0).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_file_of_numpy_is_read_and_written_as_numpy_does() {
    let bytes = include_bytes!("data/f16.npy");
    let tensor = read(bytes).unwrap();
    let expected = [1.5, -2.0, 65504.0, f32::INFINITY].map(f16::from_f32);
    assert_eq!(tensor, Tensor::from_slice(&[4], &expected).unwrap());
    assert_eq!(written(&tensor), bytes);
}

#[test]
fn a_big_endian_file_of_numpy_in_fortran_order_is_read() {
    let tensor = read(include_bytes!("data/big_endian_fortran_i32.npy")).unwrap();
    let expected: Vec<i32> = (0..24).collect();
    assert_eq!(tensor, Tensor::from_slice(&[2, 3, 4], &expected).unwrap());
}

#[test]
fn fortran_order_is_reordered() {
    let bytes = file(1, &header("|u1", true, "(2, 3)"), &[1, 4, 2, 5, 3, 6]);
    assert_eq!(read(&bytes).unwrap().as_slice::<u8>().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn every_version_order_of_keys_and_style_of_writing_is_read() {
    let expected = Tensor::from_slice(&[2], &[1i16, -1]).unwrap();
    for major in [1, 2, 3] {
        for header in [
            "{'descr':'<i2','fortran_order':False,'shape':(2,)}",
            "{\"shape\": (2,), \"fortran_order\": True, \"descr\": \"<i2\"}",
            " { 'fortran_order' : False , 'shape' : ( 2 , ) , 'descr' : '<i2' , } \n",
        ] {
            assert_eq!(read(&file(major, header, &[1, 0, 255, 255])).unwrap(), expected);
        }
    }
}

#[test]
fn an_order_of_bytes_may_be_given_in_every_way() {
    let u8s = Tensor::from_slice(&[2], &[1u8, 2]).unwrap();
    for descr in ["<u1", ">u1", "|u1", "=u1"] {
        assert_eq!(read(&file(1, &header(descr, false, "(2,)"), &[1, 2])).unwrap(), u8s);
    }
    for (descr, value) in [("<u2", 0x0201u16), (">u2", 0x0102), ("=u2", u16::from_ne_bytes([1, 2]))]
    {
        let read = read(&file(1, &header(descr, false, "()"), &[1, 2])).unwrap();
        assert_eq!(read, Tensor::scalar(value));
    }
    refused(&header("|u2", false, "(2,)"), "element type `|u2` is not supported");
}

#[test]
fn other_types_are_refused() {
    for descr in ["<u4", "<u8", "<c8", "<U2", "|O", "|V2", "f4", "<f", "", "<f16", "?", "é"] {
        let reason = format!("element type `{}` is not supported", descr.escape_default());
        let reason = reason.replace("\\u{e9}", "\\xc3\\xa9");
        refused(&header(descr, false, "(2,)"), &reason);
    }
    for records in ["[('a', '<i4')]", "('<i4', (2,))"] {
        refused(&format!("{{'descr': {records}, "), "structured arrays are not supported");
    }
}

#[test]
fn malformed_headers_are_refused() {
    let at = |at: usize, what: &str| format!("byte {at} of the header: {what} is expected");
    refused("", &at(0, "`{`"));
    refused("{", &at(1, "a key"));
    refused("{,}", &at(1, "a key"));
    refused("{}", "the header has no `descr`");
    refused("{'descr': '<f4'}", "the header has no `fortran_order`");
    refused("{'descr': '<f4', 'fortran_order': True}", "the header has no `shape`");
    refused("{'descr': '<f4', 'descr': '<f4'}", "`descr` occurs twice in the header");
    refused("{'order': 1}", &at(1, "`descr`, `fortran_order` or `shape`"));
    refused("{'descr' '<f4'}", &at(9, "`:`"));
    refused("{'descr': '<f4' 'shape': ()}", &at(16, "`,` or `}`"));
    refused("{'descr': 4}", &at(10, "a type"));
    refused("{'descr': '<f4}", &at(10, "a type"));
    refused("{'descr': '<\\x664'}", &at(10, "a type"));
    refused("{'fortran_order': 0}", &at(18, "`True` or `False`"));
    refused("{'shape': 3}", &at(10, "a tuple"));
    refused("{'shape': [3]}", &at(10, "a tuple"));
    refused("{'shape': (3)}", &at(12, "`,`"));
    refused("{'shape': (3, 4", &at(15, "`,` or `)`"));
    refused("{'shape': (,)}", &at(11, "an extent"));
    refused("{'shape': (-1,)}", &at(11, "an extent"));
    refused("{'shape': (3L,)}", &at(12, "`,`"));
    refused("{'shape': (1e3,)}", &at(12, "`,`"));
    let max = "{'shape': (99999999999999999999999,)}";
    refused(max, "an extent does not fit this machine");
    let trailing = header("|u1", false, "(2,)") + "x";
    refused(&trailing, &at(trailing.len() - 1, "the end"));
}

#[test]
fn damaged_files_are_refused() {
    let whole = file(1, &header("|u1", false, "(2,)"), &[1, 2]);
    for len in 0..whole.len() {
        match (len, read(&whole[..len]).unwrap_err()) {
            (..6, NpyError::Magic) => {}
            (_, NpyError::CutOff) if len < whole.len() - 2 => {}
            (_, NpyError::Tensor(TensorError::Length { .. })) if len >= whole.len() - 2 => {}
            (_, e) => panic!("{len} bytes: {e}"),
        }
    }
    assert!(matches!(read(b"not an npy file"), Err(NpyError::Magic)));
    let newer = file(4, "{}", &[]);
    assert!(matches!(read(&newer), Err(NpyError::Version { major: 4, minor: 0 })));
    let bools = file(1, &header("|b1", false, "(2,)"), &[1, 2]);
    assert!(matches!(read(&bools), Err(NpyError::Bool)));
}

#[test]
fn a_file_that_promises_too_much_is_refused_before_allocating() {
    let mut long = b"\x93NUMPY\x02\x00".to_vec();
    long.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&long), Err(NpyError::HeaderLength { len: u32::MAX })));

    let bytes = file(1, &header("<f4", false, "(1000000, 100000)"), &[]);
    assert!(matches!(read(&bytes), Err(NpyError::Limit { .. })));
    let NpzError::Array { source, .. } =
        read_npy_from(&bytes[..], "m", &Limits { file_bytes: u64::MAX, ..Limits::default() })
            .unwrap_err()
    else {
        panic!("an array that is too short")
    };
    assert!(matches!(source, NpyError::Tensor(TensorError::Length { .. })));

    let rank = file(1, &header("<f4", false, "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), &[0; 4]);
    assert!(matches!(read(&rank), Err(NpyError::Tensor(TensorError::Rank { rank: 9 }))));
    let overflow = file(1, &header("<f4", false, "(0, 9999999999, 9999999999)"), &[]);
    assert!(matches!(read(&overflow), Err(NpyError::Tensor(TensorError::TooLarge { .. }))));
}

fn array() -> impl Strategy<Value = Tensor> {
    let types: Vec<DType> = DType::ALL.into_iter().filter(|t| t.bits() >= 8).collect();
    (prop::sample::select(types), prop::collection::vec(0usize..5, 0..6))
        .prop_flat_map(|(dtype, dims)| testing::tensor(ElemType::plain(dtype), dims))
}

/// The bytes of the elements, the first axis fastest.
fn fortran(t: &Tensor, size: usize) -> Vec<u8> {
    let mut out = vec![0; t.bytes().len()];
    for (i, element) in t.bytes().chunks_exact(size).enumerate() {
        let mut rest = i;
        let mut index: Vec<usize> = vec![0; t.dims().len()];
        for (at, &d) in index.iter_mut().zip(t.dims()).rev() {
            (*at, rest) = (rest % d, rest / d);
        }
        let to = index.iter().zip(t.dims()).rev().fold(0, |n, (&i, &d)| n * d + i) * size;
        out[to..to + size].copy_from_slice(element);
    }
    out
}

proptest! {
    #[test]
    fn what_is_written_comes_back(tensors in prop::collection::vec(array(), 0..4)) {
        let names = ["a", "b/c:0", "", "é"];
        let mut archive = Cursor::new(Vec::new());
        write_npz(&mut archive, "m", names.into_iter().zip(&tensors)).unwrap();
        let back = read_npz_from(archive, "m", &Limits::default()).unwrap();
        prop_assert_eq!(back.len(), tensors.len());
        for (((name, back), tensor), expected) in back.iter().zip(&tensors).zip(names) {
            prop_assert_eq!(name, expected);
            prop_assert_eq!(back, tensor);
        }
    }

    #[test]
    fn elements_start_at_a_multiple_of_64(tensor in array()) {
        let bytes = written(&tensor);
        prop_assert_eq!((bytes.len() - tensor.bytes().len()) % 64, 0);
        prop_assert_eq!(read(&bytes).unwrap(), tensor);
    }

    #[test]
    fn both_orders_of_bytes_and_of_axes_give_the_same_tensor(
        tensor in array(), big in any::<bool>(), fortran_order in any::<bool>()
    ) {
        let size = tensor.dtype().bits() as usize / 8;
        let plain = written(&tensor);
        let kind = &plain[plain.iter().position(|&b| b == b':').unwrap() + 4..][..2];
        let descr = format!("{}{}", if big { '>' } else { '<' }, std::str::from_utf8(kind).unwrap());
        let mut data =
            if fortran_order { fortran(&tensor, size) } else { tensor.bytes().to_vec() };
        if big {
            data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        let shape: String = tensor.dims().iter().map(|d| format!("{d},")).collect();
        let bytes = file(1, &header(&descr, fortran_order, &format!("({shape})")), &data);
        prop_assert_eq!(read(&bytes).unwrap(), tensor);
    }

    #[test]
    fn no_header_makes_the_reader_fail_otherwise_than_by_an_error(
        header in "[{}()\\[\\]':, \\\\a-z0-9TF<>|=]{0,40}", major in 0u8..5, data in any::<[u8; 8]>()
    ) {
        let _ = read(&file(major, &header, &data));
    }
}
