//! Inference and the interpreter on operators and operands of any sort: errors, never panics; what
//! evaluates has the inferred type.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop here")]

use proptest::collection::vec;
use proptest::prelude::*;
use requant_graph::Graph;
use requant_graph::infer::{Operand, infer};
use requant_graph::reference::{EvalLimits, eval_with};
use requant_ir::text::TextOptions;
use requant_ir::{DType, Dim, ElemType, Op, Tensor, TensorType, testing};

/// Small tensors of the sorts that operators want; extents are often the same, so that they fit.
fn operand() -> impl Strategy<Value = Option<Tensor>> {
    let dims = prop_oneof![
        3 => vec(1usize..4, 0..5),
        2 => (1usize..6).prop_map(|rank| vec![2; rank]),
        1 => vec(0usize..3, 0..4),
    ];
    let elem = prop_oneof![
        4 => Just(ElemType::plain(DType::F32)),
        4 => testing::quantized_8bit(),
        1 => Just(ElemType::plain(DType::I32)),
        1 => Just(ElemType::plain(DType::Bool)),
        1 => Just(ElemType::plain(DType::F16)),
    ];
    let fitting = (dims, elem).prop_flat_map(|(dims, elem)| testing::tensor(elem, dims));
    let ints = vec(-3i64..6, 0..5).prop_map(|v| Tensor::from_slice(&[v.len()], &v).unwrap());
    let int = any::<i64>().prop_map(Tensor::scalar);
    let wild = vec(any::<i64>(), 1..4).prop_map(|v| Tensor::from_slice(&[v.len()], &v).unwrap());
    prop_oneof![
        6 => fitting.prop_map(Some),
        3 => ints.prop_map(Some),
        1 => int.prop_map(Some),
        1 => wild.prop_map(Some),
        1 => testing::constant().prop_map(Some),
        1 => Just(None),
    ]
}

/// One operand repeated, so that types agree, or any.
fn operands() -> impl Strategy<Value = Vec<Option<Tensor>>> {
    prop_oneof![
        2 => vec(operand(), 0..6),
        2 => (operand(), 1usize..6).prop_map(|(one, n)| vec![one; n]),
        2 => (operand(), vec(operand(), 0..4)).prop_map(|(x, rest)| {
            [vec![x.clone(), x], rest].concat()
        }),
    ]
}

/// Types of any sort, extents beyond any memory included.
fn any_type() -> impl Strategy<Value = TensorType> {
    let extent = prop_oneof![any::<usize>(), (0u32..64).prop_map(|bits| 1 << bits), 0usize..5];
    let large = vec(extent.prop_map(Dim::Fixed), 0..10);
    let plain = proptest::sample::select(&DType::ALL[..]).prop_map(ElemType::plain);
    let large = (plain, large).prop_map(|(elem, dims)| TensorType::new(elem, dims));
    prop_oneof![3 => testing::tensor_type(), 2 => large]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn inference_never_panics(
        op in testing::op(),
        types in vec(any_type(), 0..6),
        values in vec(proptest::option::of(vec(any::<Option<u64>>(), 0..6)), 6),
        results in 0usize..4,
    ) {
        let values: Vec<Option<Vec<Dim>>> = values
            .into_iter()
            .map(|v| Some(v?.into_iter().map(|d| d.map_or(Dim::Unknown, |n| Dim::Fixed(n as usize))).collect()))
            .collect();
        let operands: Vec<_> = types
            .iter()
            .zip(&values)
            .map(|(ty, value)| Some(Operand { shape_value: value.as_deref(), ..Operand::of(ty) }))
            .collect();
        if let Ok(inferred) = infer(&op, &operands, results) {
            prop_assert_eq!(inferred.len(), results);
            for known in inferred {
                prop_assert!(known.ty.rank().is_none_or(|r| r <= requant_ir::MAX_RANK));
            }
        }
    }

    #[test]
    fn evaluation_never_panics(op in testing::op(), operands in operands(), results in 1usize..3) {
        let operands: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let limits = EvalLimits { result_bytes: 1 << 20, table_bytes: 1 << 20, work: 1 << 20 };
        let Ok(values) = eval_with(&op, &operands, results, &limits) else { return Ok(()) };
        let types: Vec<Option<TensorType>> =
            operands.iter().map(|t| t.map(Tensor::ty)).collect();
        let known: Vec<_> = types
            .iter()
            .zip(&operands)
            .map(|(ty, constant)| Some(Operand { constant: *constant, ..Operand::of(ty.as_ref()?) }))
            .collect();
        let inferred = infer(&op, &known, results).unwrap();
        prop_assert_eq!(values.len(), results);
        for (value, known) in values.iter().zip(inferred) {
            prop_assert_eq!(&value.ty(), &known.ty);
            if let (Some(shape), Some(ints)) = (known.shape_value, value.to_i64()) {
                for (dim, n) in shape.iter().zip(ints) {
                    prop_assert!(dim.fixed().is_none_or(|d| d as i64 == n), "{:?} {}", shape, n);
                }
            }
        }
        // Codes stay in the range of their type, and within the bounds asked for.
        let clamp = match &op {
            Op::QConv { out, .. } | Op::QMatMul { out, .. } | Op::QBinary { out, .. } => out.clamp,
            Op::Quantize { clamp, .. } => *clamp,
            _ => None,
        };
        if let Some(clamp) = clamp {
            let inside = |q: i64| (i64::from(clamp.min)..=i64::from(clamp.max)).contains(&q);
            prop_assert!(values[0].to_i64().is_none_or(|v| v.into_iter().all(inside)));
        }
    }

    #[test]
    fn graphs_of_any_model_are_sound(model in testing::model()) {
        let Ok(graph) = Graph::from_model(&model) else { return Ok(()) };
        graph.verify().unwrap();
        let once = graph.to_model();
        let again = Graph::from_model(&once).unwrap();
        again.verify().unwrap();
        let text = |m: &requant_ir::Model| m.to_text(&TextOptions::full());
        prop_assert_eq!(text(&again.to_model()), text(&once));
    }
}
