//! Types of results, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use requant_graph::Graph;
use requant_ir::Model;

/// The type of `%y`, or the error.
fn infer(head: &str, body: &str) -> Result<String, String> {
    let text = format!("requant 1\ngraph main({head}) -> (%y) {{\n{body}\n}}\n");
    // The verifier already refuses what it can see without inference.
    let model = Model::parse_text(&text).map_err(|e| format!("verifier: {e}"))?;
    let graph = Graph::from_model(&model).map_err(|e| e.to_string())?;
    graph.verify().unwrap();
    Ok(graph.fact(graph.outputs()[0].outlet).ty.to_string())
}

/// Lines of `inputs | body | type of %y`, where `;` separates lines of the body.
fn check(table: &str) {
    let mut rows = 0;
    for row in table.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let [head, body, want] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("not a row: {row}")
        };
        let got = infer(head, &body.replace(';', "\n"));
        match want.strip_prefix("error ") {
            None => assert_eq!(got.as_deref(), Ok(want), "{row}"),
            Some(part) => {
                let error = got.expect_err(row);
                assert!(error.starts_with("verifier: ") || error.contains(part), "{row}: {error}");
            }
        }
        rows += 1;
    }
    assert!(rows > 3);
}

#[test]
fn movement() {
    check(
        "
        %x: f32[n, 4, 6] | const %s: s64[2] = [0, -1]; %y = reshape(%x, %s) | f32[n, 24]
        %x: f32[n, 4, 6] | const %s: s64[2] = [-1, 12]; %y = reshape(%x, %s) | f32[?, 12]
        %x: f32[n, 4, 6] | const %s: s64[1] = [-1]; %y = reshape(%x, %s) | f32[?]
        %x: f32[2, 6] | const %s: s64[2] = [5, -1]; %y = reshape(%x, %s) | error as many elements
        %x: f32[2, 6] | const %s: s64[2] = [-1, -1]; %y = reshape(%x, %s) | error at most one -1
        %x: f32[2, 6] | const %s: s64[2] = [-2, 6]; %y = reshape(%x, %s) | error below -1
        %x: f32[2] | const %s: s64[2] = [2, 0]; %y = reshape(%x, %s) | error beyond the operand's rank
        %x: f32[0, 3] | const %s: s64[2] = [3, 0]; %y = reshape(%x, %s) {allow_zero} | f32[3, 0]
        %x: f32[a, b, 3] | %y = flatten(%x) {axis = 2} | f32[?, 3]
        %x: f32[a, b, 3] | %y = flatten(%x) {axis = 0} | f32[1, ?]
        %x: f32[a, 3] | %y = flatten(%x) {axis = 3} | error axis
        %x: f32[1, n, 1] | %y = squeeze(%x) {axes = [0, -1]} | f32[n]
        %x: f32[1, 2] | %y = squeeze(%x) {axes = [1]} | error extent 1
        %x: f32[n] | %y = unsqueeze(%x) {axes = [0, -1]} | f32[1, n, 1]
        %x: f32[n] | %y = unsqueeze(%x) {axes = [0, 0]} | error duplicates
        %x: f32[1, 1, 1, 1, 1, 1, 1, 1] | %y = unsqueeze(%x) {axes = [0]} | error rank
        %x: f32[a, 2, 3] | %y = transpose(%x) {perm = [2, 0, 1]} | f32[3, a, 2]
        %x: f32[2, 3] | %y = transpose(%x) {perm = [0, 0]} | error permutation
        %x: f32[2, 3] | %y = transpose(%x) {perm = [0, 2, 1]} | error rank 3
        %x: f32[n, 2], %z: f32[n, 3] | %y = concat(%x, %z) {axis = -1} | f32[n, 5]
        %x: f32[n, 2], %z: f32[4, k] | %y = concat(%x, %z) {axis = 1} | f32[4, ?]
        %x: f32[3, 2], %z: f32[4, 2] | %y = concat(%x, %z) {axis = 1} | error operand 1
        %x: f32[3, 2], %z: s64[3, 2] | %y = concat(%x, %z) {axis = 1} | error element type
        %x: f32[n, 5] | %y, %z = split(%x) {axis = 1, sizes = [2, 3]} | f32[n, 2]
        %x: f32[n, 6] | %y, %z = split(%x) {axis = 1} | f32[n, 3]
        %x: f32[n, 5] | %y, %z = split(%x) {axis = 1} | error divides
        %x: f32[n, 5] | %y, %z = split(%x) {axis = 1, sizes = [2, 4]} | error sizes
        %x: f32[n, 5] | const %s: s64[1] = [1]; const %e: s64[1] = [-1]; %y = slice(%x, %s, %e, %s) | f32[n, 3]
        %x: f32[n, 5] | const %s: s64[1] = [0]; const %e: s64[1] = [9223372036854775807]; %y = slice(%x, %s, %e) | f32[n, 5]
        %x: f32[n, 5] | const %s: s64[1] = [0]; %y = slice(%x, %s, %s, _, %s) | error step of 0
        %x: f32[5], %s: s64[1] | %y = slice(%x, %s, %s) | f32[?]
        %x: f32[7, k], %i: s64[2, 3] | %y = gather(%x, %i) {axis = 0} | f32[2, 3, k]
        %x: f32[7] | const %i: s64[] = [7]; %y = gather(%x, %i) {axis = 0} | error within the extent
        %x: f32[7], %i: f32[1] | %y = gather(%x, %i) {axis = 0} | error plain s64 or s32
        %x: f32[n, 1] | const %s: s64[3] = [2, 1, 4]; %y = expand(%x, %s) | f32[2, n, 4]
        %x: f32[3] | const %s: s64[1] = [4]; %y = expand(%x, %s) | error broadcastable
        %x: f32[2, n] | const %r: s64[2] = [3, 1]; %y = tile(%x, %r) | f32[6, n]
        %x: f32[2, n] | const %r: s64[1] = [3]; %y = tile(%x, %r) | error 2 elements
        %x: f32[2, n] | const %p: s64[4] = [1, 0, -2, 0]; %y = pad(%x, %p) | f32[1, n]
        %x: f32[2] | const %p: s64[2] = [-2, -1]; %y = pad(%x, %p) | error negative
        %x: f32[2] | const %p: s64[3] = [1, 1, 1]; %y = pad(%x, %p) | error 2 elements
        %x: f32[2] | %y = cast(%x) {to = s64} | s64[2]
        %x: u8<s=0.5, z=0>[2] | %y = cast(%x) {to = s64} | error plain
        %x: f32[99999999999, 99999999999, 99999999999] | %y = identity(%x) | error too large
        ",
    );
}

#[test]
fn shapes_are_computed_symbolically() {
    check(
        "
        %x: f32[n, 3, 4] | %s = shape(%x); const %i: s64[] = [0]; %g = gather(%s, %i) {axis = 0}; %u = unsqueeze(%g) {axes = [0]}; const %r: s64[1] = [-1]; %c = concat(%u, %r) {axis = 0}; %y = reshape(%x, %c) | f32[n, 12]
        %x: f32[n, 3, 4] | %s = shape(%x) {end = 1}; const %r: s64[2] = [6, 2]; %c = concat(%s, %r) {axis = 0}; %y = reshape(%x, %c) | f32[n, 6, 2]
        %x: f32[n, 3, 4] | %s = shape(%x); const %b: s64[1] = [1]; const %e: s64[1] = [3]; %t = slice(%s, %b, %e); %p = reduce_prod(%t) {axes = [0], keep_dims}; %y = constant_of_shape(%p) {value = f32[1] [0]} | f32[12]
        %x: f32[2, 3] | %s = shape(%x); %f = cast(%s) {to = s64}; const %two: s64[] = [2]; %d = mul(%f, %two); %y = expand(%x, %s) | f32[2, 3]
        %x: f32[2, 3] | %s = shape(%x); const %two: s64[] = [2]; %d = mul(%s, %two); %y = constant_of_shape(%d) {value = s64[1] [7]} | s64[4, 6]
        %x: f32[n, 3] | %a, %b = split(%x) {axis = 1, sizes = [1, 2]}; %s = shape(%x); %h, %t = split(%s) {axis = 0, sizes = [1, 1]}; %y = constant_of_shape(%h) {value = f32[1] [0]} | f32[n]
        %x: f32[n, 3] | %y = shape(%x) {start = -1} | s64[1]
        %x: f32[*] | %y = shape(%x) | s64[?]
        %x: f32[n] | %y = size(%x) | s64[]
        %x: s64[2] | %y = constant_of_shape(%x) {value = f32[1] [0]} | f32[?, ?]
        %x: f32[1] | const %s: s64[1] = [-3]; %y = constant_of_shape(%s) {value = f32[1] [0]} | error negative
        %x: f32[1] | const %a: s64[] = [1]; const %b: s64[] = [8]; const %c: s64[] = [3]; %y = range(%a, %b, %c) | s64[3]
        %x: f32[1] | const %a: s64[] = [1]; const %b: s64[] = [8]; const %c: s64[] = [0]; %y = range(%a, %b, %c) | error step
        %x: f32[2, 1], %c: bool[3] | %y = where(%c, %x, %x) | f32[2, 3]
        %x: f32[2], %c: f32[2] | %y = where(%c, %x, %x) | error bool
        ",
    );
}

#[test]
fn quantization_through_movement() {
    check(
        "
        %x: u8<s=0.5, z=3>[2, 3] | %y = transpose(%x) {perm = [1, 0]} | u8<s=0.5, z=3>[3, 2]
        %x: s8<axis=0, s=[1, 2], z=[0, 0]>[2, 3] | %y = transpose(%x) {perm = [1, 0]} | s8<axis=1, s=[1.0, 2.0]>[3, 2]
        %x: s8<axis=0, s=[1, 2], z=[0, 0]>[2, 6] | const %s: s64[3] = [2, 2, 3]; %y = reshape(%x, %s) | s8<axis=0, s=[1.0, 2.0]>[2, 2, 3]
        %x: s8<axis=1, s=[1, 2], z=[0, 0]>[6, 2] | const %s: s64[3] = [2, 3, 2]; %y = reshape(%x, %s) | s8<axis=2, s=[1.0, 2.0]>[2, 3, 2]
        %x: s8<axis=0, s=[1, 2], z=[0, 0]>[2, 6] | const %s: s64[1] = [12]; %y = reshape(%x, %s) | error does not survive
        %x: s8<axis=0, s=[1, 2], z=[0, 0]>[2] | %y = unsqueeze(%x) {axes = [0]} | s8<axis=1, s=[1.0, 2.0]>[1, 2]
        %x: s8<axis=1, s=[1, 2], z=[0, 0]>[1, 2] | %y = squeeze(%x) {axes = [0]} | s8<axis=0, s=[1.0, 2.0]>[2]
        %x: s8<axis=0, s=[1, 2], z=[0, 0]>[2, 3] | const %i: s64[1] = [0]; %y = gather(%x, %i) {axis = 0} | error does not survive
        %x: s8<axis=1, s=[1, 2], z=[0, 0]>[3, 2], %i: s64[4, 4] | %y = gather(%x, %i) {axis = 0} | s8<axis=2, s=[1.0, 2.0]>[4, 4, 2]
        %x: u8<s=0.5, z=3>[2], %z: u8<s=0.25, z=3>[2] | %y = concat(%x, %z) {axis = 0} | error element type
        %x: u8<s=0.5, z=300>[2] | %y = identity(%x) | error outside
        ",
    );
}

#[test]
fn floats() {
    check(
        "
        %x: f32[n, 3, 8, w], %w: f32[5, 3, 3, 3] | %y = conv(%x, %w) {strides = [2, 2], pads = [1, 1, 1, 1]} | f32[n, 5, 4, ?]
        %x: f32[n, 8, 9, 6], %w: f32[6, 1, 3, 3] | %y = conv(%x, %w) {strides = [2, 2], pads = same_upper, groups = 6, layout = channels_last} | f32[n, 4, 5, 6]
        %x: f32[1, 3, 8, 8], %w: f32[5, 2, 3, 3] | %y = conv(%x, %w) {strides = [1, 1]} | error input channels
        %x: f32[1, 3, 2, 8], %w: f32[5, 3, 3, 3] | %y = conv(%x, %w) {strides = [1, 1]} | error fits
        %x: f32[1, 3, 8, 8], %w: f32[5, 3, 3, 3] | %y = conv(%x, %w) {strides = [0, 1]} | error geometry
        %x: f32[1, 4, 8, 8], %w: f32[5, 2, 3, 3] | %y = conv(%x, %w) {strides = [1, 1], groups = 2} | error multiple of 2
        %x: f32[1, 3, 8, 8], %w: f32[5, 3, 3, 3], %b: f32[4] | %y = conv(%x, %w, %b) {strides = [1, 1]} | error 5 elements
        %x: f32[1, 3, 8], %w: f32[5, 3, 3, 3] | %y = conv(%x, %w) {strides = [1, 1]} | error rank 4
        %x: f32[1, 3, 8, 8], %w: f16[5, 3, 3, 3] | %y = conv(%x, %w) {strides = [1, 1]} | error element type
        %x: f32[1, 3, 7, h] | %y = max_pool(%x) {kernel = [2, 2], strides = [2, 2], ceil_mode} | f32[1, 3, 4, ?]
        %x: f32[1, 3, 7, 7] | %y = max_pool(%x) {kernel = [2, 9]} | error geometry
        %x: u8<s=1, z=0>[1, 3, 7, 7] | %y = max_pool(%x) {kernel = [2, 2]} | u8<s=1.0, z=0>[1, 3, 6, 6]
        %x: u8<s=1, z=0>[1, 3, 7, 7] | %y = average_pool(%x) {kernel = [2, 2]} | error plain
        %a: f32[n, 2, 3, 4], %b: f32[4, 5] | %y = matmul(%a, %b) | f32[n, 2, 3, 5]
        %a: f32[4], %b: f32[4] | %y = matmul(%a, %b) | f32[]
        %a: f32[2, 3], %b: f32[4, 5] | %y = matmul(%a, %b) | error operand 1
        %a: f32[3, n], %b: f32[5, 3], %c: f32[5] | %y = gemm(%a, %b, %c) {trans_a, trans_b} | f32[n, 5]
        %a: f32[2, 3], %b: f32[3, 5], %c: f32[4] | %y = gemm(%a, %b, %c) | error operand 2
        %a: f32[2, 3], %b: f32[3, 1], %c: f32[4] | %y = gemm(%a, %b, %c) | error operand 2
        %x: f32[n, 2, 3] | %y = reduce_mean(%x) {axes = [-1, 1], keep_dims} | f32[n, 1, 1]
        %x: f32[n, 2, 3] | %y = reduce_max(%x) {axes = [0]} | f32[2, 3]
        %x: f32[n, 2] | %y = reduce_max(%x) {axes = [2]} | error axis
        %x: s64[n, 2] | %y = reduce_mean(%x) {axes = [1]} | error plain
        %x: f32[n, 2] | %y = argmax(%x) {axis = 1} | s64[n]
        %a: f32[n, 1, 3], %b: f32[4, 1] | %y = add(%a, %b) | f32[n, 4, 3]
        %a: f32[n], %b: f32[m] | %y = add(%a, %b) | f32[?]
        %a: f32[n], %b: f32[n] | %y = less(%a, %b) | bool[n]
        %a: f32[2], %b: f32[3] | %y = add(%a, %b) | error broadcast
        %a: f32[2], %b: s64[2] | %y = add(%a, %b) | error element type
        %a: u8<s=1, z=0>[2] | %y = add(%a, %a) | error plain
        %x: s64[2] | %y = sigmoid(%x) | error plain
        %x: f32[n, 3, 2], %p: f32[3] | %y = batch_norm(%x, %p, %p, %p, %p) | f32[n, 3, 2]
        %x: f32[n, 3, 2], %p: f32[2] | %y = batch_norm(%x, %p, %p, %p, %p) | error operand 1
        %x: f32[n, 3, 2], %p: f32[2] | %y = layer_norm(%x, %p) {axis = -1} | f32[n, 3, 2]
        %x: f32[n, 3] | %y = softmax(%x) {axis = 2} | error axis
        %x: f32[n, 3] | %y = add(%x) | error missing
        ",
    );
}

#[test]
fn quantized() {
    check(
        "
        %x: f32[n, 3] | %y = quantize(%x) {out = u8<s=0.1, z=128>} | u8<s=0.1, z=128>[n, 3]
        %x: f32[n, 3] | %y = quantize(%x) {out = s8<axis=1, s=[1, 2], z=[0, 0]>} | error axis 1
        %x: f32[2] | %y = quantize(%x) {out = u8<s=0.1, z=128>, clamp = [0, 256]} | error clamp
        %x: f32[2] | %y = quantize(%x) {out = u8<s=0.1, z=128>, clamp = [9, 3]} | error clamp
        %x: u8<s=1, z=0>[2] | %y = dequantize(%x) | f32[2]
        %x: u8[2] | %y = dequantize(%x) | error quantized
        %x: s32<s=1, z=0>[2] | %y = requantize(%x) {out = u8<s=0.1, z=128>} | u8<s=0.1, z=128>[2]
        %x: u8<s=1, z=0>[n, 3, 4, 4], %w: s8<axis=0, s=[1, 2], z=[0, 0]>[2, 3, 1, 1] | %y = qconv(%x, %w) {strides = [1, 1], out = u8<s=1, z=0>} | u8<s=1.0, z=0>[n, 2, 4, 4]
        %x: u8<s=1, z=0>[n, 3, 4, 4], %w: s8<axis=1, s=[1, 2, 3], z=[0, 0, 0]>[2, 3, 1, 1] | %y = qconv(%x, %w) {strides = [1, 1], out = u8<s=1, z=0>} | error per output channel
        %x: u8<s=1, z=0>[n, 3, 4, 4], %w: s8<s=1, z=0>[2, 3, 1, 1] | %y = qconv(%x, %w) {strides = [1, 1], out = s32<s=1, z=0>} | s32<s=1.0, z=0>[n, 2, 4, 4]
        %x: u8<s=1, z=0>[n, 3, 4, 4], %w: s8<s=1, z=0>[2, 3, 1, 1], %b: s64[2] | %y = qconv(%x, %w, %b) {strides = [1, 1], out = u8<s=1, z=0>} | error s32
        %x: u8<s=1, z=0>[1, 3, 4, 4], %w: s8<s=1, z=0>[2, 3, 1, 1], %r: u8<s=1, z=0>[1, 2, 4, 4] | %y = qconv(%x, %w, _, %r) {strides = [1, 1], out = u8<s=1, z=0>} | error absent
        %x: u8<s=1, z=0>[1, 3, 4, 4], %w: s8<s=1, z=0>[2, 3, 1, 1], %r: u8<s=1, z=0>[1, 2, 4, 1] | %y = qconv(%x, %w, _, %r) {strides = [1, 1], out = u8<s=1, z=0>, residual = u8<s=1, z=0>} | error shape
        %a: u8<s=1, z=0>[n, 3], %b: s8<axis=1, s=[1, 2], z=[0, 0]>[3, 2] | %y = qmatmul(%a, %b) {out = u8<s=1, z=0>} | u8<s=1.0, z=0>[n, 2]
        %a: u8<s=1, z=0>[n, 3], %b: s8<axis=0, s=[1, 2], z=[0, 0]>[2, 3] | %y = qmatmul(%a, %b) {trans_b, out = u8<s=1, z=0>} | u8<s=1.0, z=0>[n, 2]
        %a: u8<s=1, z=0>[n, 3], %b: s8<axis=0, s=[1, 2, 3], z=[0, 0, 0]>[3, 2] | %y = qmatmul(%a, %b) {out = u8<s=1, z=0>} | error per output channel
        %a: u8<s=1, z=0>[n, 3], %b: u8<s=2, z=1>[3] | %y = qadd(%a, %b) {out = u8<s=1, z=0>} | u8<s=1.0, z=0>[n, 3]
        %a: u8<s=1, z=0>[n, 3] | %y = qmean(%a) {axes = [1], out = u8<s=1, z=0>} | u8<s=1.0, z=0>[n]
        %a: u8<s=1, z=0>[1, 2, 4, 4] | %y = qpool(%a) {kernel = [2, 2], out = u8<s=1, z=0>} | u8<s=1.0, z=0>[1, 2, 3, 3]
        %a: u8<s=1, z=0>[n, 3] | %y = qsoftmax(%a) {axis = 1, out = f32} | error 8 or 16 bits
        ",
    );
}
