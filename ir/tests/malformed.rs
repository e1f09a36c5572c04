//! Damaged and hostile `.rq` files: a typed error each, soon and in little memory.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use requant_ir::file::Problem;
use requant_ir::{ErrorKind, FileError, Limits, Model};
use std::time::{Duration, Instant};

/// Writes the small files to the folder `REQUANT_KEEP_MALFORMED`, if that is set: the program's own test of
/// bad files and the fuzz targets' seeds are made so (`tests/data/malformed`).
fn keep(name: &str, bytes: &[u8]) {
    if let Some(folder) = std::env::var_os("REQUANT_KEEP_MALFORMED")
        && bytes.len() <= 8192
    {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        std::fs::write(std::path::Path::new(&folder).join(name + ".rq"), bytes).unwrap();
    }
}

fn load(bytes: Vec<u8>) -> Result<Model, FileError> {
    let start = Instant::now();
    let result = Model::from_rq_bytes(Bytes::from(bytes), &Limits::default());
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    result
}

/// A valid file with constants inside and outside of its message.
fn valid() -> Vec<u8> {
    Model::parse_text(
        "graph main(%x: f32[n, 3]) -> (%y) {
           const %w: f32[3, 4] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
           const %big: u8[5000] = fill(7)
           %y = matmul(%x, %w)
         }",
    )
    .unwrap()
    .to_rq_bytes()
    .unwrap()
    .to_vec()
}

/// A file of these parts with right places and checksums.
fn file(message: &[u8], data: &[u8]) -> Vec<u8> {
    let start = (64 + message.len()).next_multiple_of(64);
    let mut out = vec![0; start];
    out[64..64 + message.len()].copy_from_slice(message);
    out.extend_from_slice(data);
    out[..8].copy_from_slice(b"\x89requant");
    put32(&mut out, 8, 1);
    put32(&mut out, 12, 1);
    for (at, n) in [(16, 64), (24, message.len()), (32, start), (40, data.len())] {
        out[at..at + 8].copy_from_slice(&(n as u64).to_le_bytes());
    }
    put32(&mut out, 48, crc32c::crc32c(data));
    seal(out, start)
}

fn put32(out: &mut [u8], at: usize, n: u32) {
    out[at..at + 4].copy_from_slice(&n.to_le_bytes());
}

/// Puts in the checksum of what precedes the data section at `start`.
fn seal(mut out: Vec<u8>, start: usize) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..60]), &out[64..start]);
    put32(&mut out, 60, crc);
    out
}

/// A protobuf varint.
fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// A field with a number.
fn int(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

/// A field with a message, text or packed numbers.
fn msg<const N: usize>(field: u64, parts: [Vec<u8>; N]) -> Vec<u8> {
    let body = parts.concat();
    [varint(field << 3 | 2), varint(body.len() as u64), body].concat()
}

fn text(field: u64, s: &str) -> Vec<u8> {
    msg(field, [s.as_bytes().to_vec()])
}

/// `f32` without quantization.
fn f32_elem() -> Vec<u8> {
    msg(1, [int(1, 1)])
}

/// A value, a graph input, with this type.
fn typed(ty: Vec<u8>) -> Vec<u8> {
    msg(4, [text(1, "g"), msg(2, [text(1, "x"), ty]), msg(4, [vec![0]])])
}

/// A shape of fixed extents.
fn dims(extents: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = extents.iter().flat_map(|&n| msg(1, [int(1, n)])).collect();
    msg(2, [dims])
}

/// A graph of one input `x`, and a node `n` that makes `y` of it by this operator.
fn with_op(op: Vec<u8>) -> Vec<u8> {
    with_node(msg(3, [text(1, "n"), msg(2, [vec![1]]), msg(3, [vec![1]]), op]))
}

fn with_node(node: Vec<u8>) -> Vec<u8> {
    msg(
        4,
        [
            text(1, "g"),
            msg(2, [text(1, "x")]),
            msg(2, [text(1, "y")]),
            node,
            msg(4, [vec![0]]),
            msg(5, [vec![1]]),
        ],
    )
}

/// A constant `u8[len]` in blob 0.
fn constant(len: u64, blob: Vec<u8>) -> Vec<u8> {
    let ty = msg(2, [msg(1, [int(1, 7)]), dims(&[len])]);
    [msg(4, [msg(2, [text(1, "c"), ty, int(3, 0)])]), msg(5, [blob])].concat()
}

#[test]
fn hand_made_files_are_read_when_right() {
    let x = load(file(&with_op(msg(16, [])), &[])).unwrap();
    assert_eq!(x.to_string(), "requant 1\n\ngraph g(%x) -> (%y) {\n  %y = identity(%x) \"n\"\n}\n");
    load(file(&constant(3, msg(1, [vec![1, 2, 3]])), &[])).unwrap();
    load(file(&constant(3, msg(2, [int(1, 64), int(2, 3)])), &[7; 67])).unwrap();
    load(file(&typed(msg(2, [f32_elem(), dims(&[1, 2])])), &[])).unwrap();
}

#[test]
fn every_truncation_is_noticed() {
    let whole = valid();
    for len in 0..whole.len() {
        let error = load(whole[..len].to_vec()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{len} bytes: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(load(longer).unwrap_err().problem, Problem::Header { .. }));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let whole = valid();
    for at in 0..whole.len() {
        for bit in [0, 3, 7] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            assert!(load(bytes).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn each_header_field_is_checked_beyond_the_checksum() {
    let whole = valid();
    let start = u64::from_le_bytes(whole[32..40].try_into().unwrap()) as usize;
    let with = |at: usize, field: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + field.len()].copy_from_slice(field);
        load(seal(bytes, start)).unwrap_err()
    };
    let half = &whole[..whole.len() / 2];
    keep("half", half);
    keep("checksum", &[half, &[!whole[half.len()]], &whole[half.len() + 1..]].concat());
    assert!(matches!(with(0, b"PK\x03\x04").problem, Problem::NotRq));
    for at in [8, 12] {
        let error = with(at, &2u32.to_le_bytes());
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("newer reader"), "{error}");
    }
    for at in [16, 24, 32, 40] {
        let old = u64::from_le_bytes(whole[at..at + 8].try_into().unwrap());
        for n in [0, 1, 63, old + 1, old + 64, 1 << 32, 1 << 63, u64::MAX - 63, u64::MAX] {
            let error = with(at, &n.to_le_bytes());
            assert_eq!(error.kind(), ErrorKind::Malformed, "{at}, {n}: {error}");
        }
    }
    assert!(matches!(with(48, &[1, 2, 3, 4]).problem, Problem::Checksum { part: "constants" }));
    assert!(matches!(with(55, &[1]).problem, Problem::Header { .. }));
}

#[test]
fn what_later_versions_may_have_asks_for_a_newer_reader() {
    let cases = [
        ("operator tag", with_op(msg(1000, []))),
        ("no operator", with_node(msg(3, [text(1, "nodename"), msg(3, [vec![1]])]))),
        ("unary kind", with_op(msg(42, [int(1, 99)]))),
        ("storage type", typed(msg(2, [msg(1, [int(1, 99)])]))),
        (
            "form of quantization",
            typed(msg(2, [msg(1, [int(1, 7), msg(2, [int(1, 1), msg(9, [])])])])),
        ),
        ("storage of a constant", constant(3, msg(9, []))),
        ("schema", [int(2, 2), with_op(msg(16, []))].concat()),
    ];
    for (what, message) in cases {
        keep(what, &file(&message, &[]));
        let error = load(file(&message, &[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
        assert!(error.to_string().contains("newer reader"), "{what}: {error}");
    }
}

#[test]
fn messages_that_stand_for_no_model_are_refused() {
    let q = |quant: Vec<u8>| typed(msg(2, [msg(1, [int(1, 7), msg(2, [int(1, 1), quant])])]));
    let scale = |s: f32| [vec![0x0d], s.to_le_bytes().to_vec()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "no graph"),
        (vec![0x22, 0xff], "cut off"),
        (vec![0x0b], "cut off"),
        (vec![0xff; 12], "cut off"),
        (msg(3, [vec![0xff, 0xfe]]), "UTF-8"),
        (with_op(msg(42, [])), "not specified"),
        (with_op(msg(42, [int(1, 24)])), "min is missing"),
        (with_op(msg(36, [])), "the padding is missing"),
        (with_op(msg(56, [msg(1, [vec![0; 255]])])), "255 bytes"),
        (with_op(msg(22, [int(1, 200)])), "attribute `axis`"),
        (with_op(msg(21, [msg(1, [vec![0, 0]])])), "no permutation"),
        (
            with_node(msg(3, [text(1, "n"), msg(2, [vec![9]]), msg(3, [vec![1]]), msg(16, [])])),
            "names value 8",
        ),
        (
            with_node(msg(3, [text(1, "n"), msg(2, [vec![2]]), msg(3, [vec![1]]), msg(16, [])])),
            "cycle",
        ),
        (
            with_node(msg(3, [text(1, "n"), msg(2, [vec![1]]), msg(3, [vec![0]]), msg(16, [])])),
            "defined twice",
        ),
        (
            with_node(msg(3, [text(1, "n"), msg(2, [vec![0]]), msg(3, [vec![1]]), msg(16, [])])),
            "operand 0 is absent",
        ),
        (with_node(msg(3, [text(1, "node"), msg(3, [vec![1]]), msg(16, [])])), "0 operands"),
        (with_node(msg(3, [msg(2, [vec![1]]), msg(3, [vec![1]]), msg(16, [])])), "empty name"),
        (with_node(msg(3, [])), "0 bytes"),
        (
            msg(4, [msg(2, [text(1, "x")]), msg(2, [text(1, "x")]), msg(4, [vec![0, 1]])]),
            "occurs twice",
        ),
        (msg(4, [msg(2, [text(1, "x")])]), "never defined"),
        (typed(msg(2, [])), "an element type is missing"),
        (typed(msg(2, [msg(1, [])])), "storage type is not specified"),
        (typed(msg(2, [f32_elem(), msg(2, [msg(1, [])])])), "an extent is missing"),
        (typed(msg(2, [f32_elem(), msg(2, [msg(1, [int(2, 5)])])])), "symbol 5 of 0"),
        (typed(msg(2, [f32_elem(), dims(&[1; 9])])), "rank 9"),
        (typed(msg(2, [f32_elem(), dims(&[1 << 31])])), "above the limit"),
        (typed(msg(2, [f32_elem(), dims(&[u64::MAX])])), "above the limit"),
        (typed(msg(2, [f32_elem(), dims(&[1 << 30; 3])])), "too large"),
        (typed(msg(2, [f32_elem(), dims(&[0, 1 << 30, 1 << 30, 1 << 30])])), "too large"),
        (q(msg(3, [scale(0.0)])), "scale 0"),
        (q(msg(3, [scale(-1.0)])), "scale -1"),
        (q(msg(3, [scale(f32::NAN)])), "scale NaN"),
        (q(msg(3, [scale(f32::INFINITY)])), "scale inf"),
        (q(msg(3, [scale(1.0), int(2, 600)])), "zero point 300"),
        (q(msg(4, [int(1, 9)])), "axis 9"),
        (constant(3, vec![]), "newer reader"),
        (constant(4, msg(1, [vec![1, 2, 3]])), "needs 4 bytes, but 3"),
        (constant(1 << 30, msg(1, [vec![1]])), "needs 1073741824 bytes"),
        (constant(5000, msg(1, [vec![0; 5000]])), "5000 bytes inline"),
        (constant(3, msg(2, [int(1, 64), int(2, 3)])), "in a section of 0"),
        (constant(3, msg(2, [int(1, u64::MAX), int(2, 3)])), "in a section of 0"),
        (
            [msg(4, [msg(2, [text(1, "c"), int(3, 0)])]), msg(5, [msg(1, [vec![1]])])].concat(),
            "needs a type",
        ),
        (
            msg(4, [msg(2, [text(1, "c"), msg(2, [f32_elem(), dims(&[1])]), int(3, 7)])]),
            "constant 7 of 0",
        ),
    ];
    for (i, (message, expected)) in cases.into_iter().enumerate() {
        keep(&format!("{i} {expected}"), &file(&message, &[]));
        let error = load(file(&message, &[])).unwrap_err().to_string();
        assert!(error.contains(expected), "case {i}: expected {expected:?}, got {error:?}");
    }
}

#[test]
fn constants_that_overlap_are_refused() {
    let blobs = |a: u64, b: u64| {
        let at = |offset| msg(5, [msg(2, [int(1, offset), int(2, 64)])]);
        [with_op(msg(16, [])), at(a), at(b)].concat()
    };
    load(file(&blobs(0, 64), &[1; 128])).unwrap();
    for (a, b) in [(0, 0), (64, 0), (1, 64), (0, 65)] {
        let error = load(file(&blobs(a, b), &[1; 256])).unwrap_err().to_string();
        assert!(error.contains("overlaps another or is not aligned"), "{error}");
    }
}

/// Peak of this process's memory, where the system tells.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn files_that_unfold_to_much_are_refused_in_little_memory() {
    const N: usize = 1 << 20;
    let bombs = [
        ("empty values", msg(4, [msg(2, []).repeat(N / 2)]), ErrorKind::Malformed),
        (
            "small values",
            msg(4, [text(1, "g"), msg(2, [text(1, "x")]).repeat(N / 5)]),
            ErrorKind::Malformed,
        ),
        ("empty nodes", msg(4, [msg(3, []).repeat(N / 2)]), ErrorKind::Malformed),
        (
            "small nodes",
            msg(4, [msg(3, [text(1, "nnnnnn")]).repeat(N / 10)]),
            ErrorKind::Unsupported,
        ),
        ("graphs", msg(4, []).repeat(N / 2), ErrorKind::Limit),
        ("pairs", msg(7, []).repeat(N / 2), ErrorKind::Malformed),
        ("blobs", msg(5, []).repeat(N / 2), ErrorKind::Unsupported),
        (
            "extents",
            typed(msg(2, [f32_elem(), msg(2, [msg(1, []).repeat(N / 2)])])),
            ErrorKind::Malformed,
        ),
        (
            "a constant named often",
            [
                msg(
                    4,
                    [msg(
                        2,
                        [text(1, "c"), msg(2, [msg(1, [int(1, 7)]), dims(&[4096])]), int(3, 0)],
                    )
                    .repeat(N / 32)],
                ),
                msg(5, [msg(1, [vec![0; 4096]])]),
            ]
            .concat(),
            ErrorKind::Malformed,
        ),
    ];
    for (what, message, kind) in bombs {
        let error = load(file(&message, &[])).unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    if let Some(peak) = peak_kib() {
        assert!(peak < 192 << 10, "peak of {peak} KiB");
    }
}
