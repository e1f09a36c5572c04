"""Single operators run by ONNX Runtime (graph optimizations off), beside the same in the text form.

    python generate.py DIRECTORY [SEED [COUNT]]

writes cases.txt (models in the text form, one after the other, each after a line `// name tolerance`)
and cases.npz (`name.<input>`, `name.y`). Needs numpy, onnx and onnxruntime; cases.txt says of which
version.
"""

import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h

SHORT = {"float32": "f32", "uint8": "u8", "int8": "s8", "int32": "s32", "int64": "s64", "bool": "bool"}
ONNX = {"float32": T.FLOAT, "uint8": T.UINT8, "int8": T.INT8, "int32": T.INT32, "int64": T.INT64}
RANGE = {"uint8": (0, 255), "int8": (-128, 127)}

out, seed, count = sys.argv[1], int((sys.argv + [None, "0"])[2] or 0) if len(sys.argv) > 2 else 0, 4
if len(sys.argv) > 3:
    count = int(sys.argv[3])
rng = np.random.default_rng(seed)
text, arrays = [f"// onnxruntime {ort.__version__}, seed {seed}"], {}


def num(v):
    return str(np.float32(v))


def qtype(a, scale, zero, axis=None):
    z = np.asarray(zero).reshape(-1).tolist()
    s = [num(v) for v in np.asarray(scale, np.float32).reshape(-1)]
    if axis is None:
        return f"{SHORT[a.dtype.name]}<s={s[0]}, z={int(z[0])}>"
    return f"{SHORT[a.dtype.name]}<axis={axis}, s=[{', '.join(s)}], z=[{', '.join(map(str, z))}]>"


def dims(a):
    return "[" + ", ".join(map(str, a.shape)) + "]"


def run(op, domain, feeds, attrs, opset):
    """feeds: (name, array) or None, in operand order; the model's inputs are all of them."""
    feeds = list(feeds)
    ins = [f for f in feeds if f is not None]
    infos = [h.make_tensor_value_info(n, ONNX[a.dtype.name], a.shape) for n, a in ins]
    # ORT wants scales and zero points constant.
    small = {n for n, a in ins if n[-1] in "sz" and len(n) == 2}
    init = [onnx.numpy_helper.from_array(a, n) for n, a in ins if n in small]
    node = h.make_node(op, [f[0] if f else "" for f in feeds], ["y"], domain=domain, **attrs)
    graph = h.make_graph([node], "g", [i for i in infos if i.name not in small],
                         [onnx.ValueInfoProto(name="y")], init)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset), h.make_opsetid("com.microsoft", 1)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {n: a for n, a in ins if n not in small})[0]


def case(name, inputs, body, y, tolerance=0):
    """inputs: (name, array, type) of the text form's graph inputs."""
    name = f"{name}_{sum(n.startswith(name + '_') for n in {k.split('.')[0] for k in arrays})}"
    head = ", ".join(f"%{n}: {t}{dims(a)}" for n, a, t in inputs)
    text.append(f"// {name} {tolerance}\nrequant 1\ngraph main({head}) -> (%y) {{\n  %y = {body}\n}}")
    for n, a, _ in inputs:
        arrays[f"{name}.{n}"] = a
    arrays[f"{name}.y"] = y


def codes(dtype, shape):
    low, high = RANGE[dtype]
    return rng.integers(low, high + 1, shape).astype(dtype)


def scale(low=-8, high=0):
    return np.float32(np.exp2(rng.uniform(low, high)))


def zero(dtype):
    return codes(dtype, ())


def one(name, a):
    return (name, np.asarray(a))


def binary(kind):
    shapes = [([2, 3, 17], [2, 3, 17]), ([4, 16], [1]), ([1], [3, 21]), ([2, 5, 7], [5, 1]), ([5, 1], [2, 5, 7]), ([64], [64])]
    for dtype in RANGE:
        for sa, sb in shapes:
            a, b = codes(dtype, sa), codes(dtype, sb)
            ss, zz = [scale() for _ in range(3)], [zero(dtype) for _ in range(3)]
            # Where the result is not saturated all the time.
            ss[2] = np.float32(2 * (ss[0] + ss[1]) if kind == "Add" else 128 * ss[0] * ss[1])
            feeds = [one("a", a), one("as", ss[0]), one("az", zz[0]), one("b", b), one("bs", ss[1]), one("bz", zz[1]),
                     one("ys", ss[2]), one("yz", zz[2])]
            y = run(f"QLinear{kind}", "com.microsoft", feeds, {}, 17)
            body = f"q{kind.lower()}(%a, %b) {{out = {qtype(y, ss[2], zz[2])}}}"
            case(f"q{kind.lower()}", [("a", a, qtype(a, ss[0], zz[0])), ("b", b, qtype(b, ss[1], zz[1]))], body, y)


def conv_geometry(rank):
    k = rng.integers(1, 4, rank).tolist()
    strides, dil = rng.integers(1, 3, rank).tolist(), rng.integers(1, 3, rank).tolist()
    pads = rng.integers(0, 3, 2 * rank).tolist()
    pads = [min(p, kk) for p, kk in zip(pads, k + k)]
    groups = int(rng.choice([1, 1, 2, 4]))
    cin, cout = groups * int(rng.integers(1, 5)), groups * int(rng.integers(1, 5))
    size = (rng.integers(3, 9, rank) + [(kk - 1) * d for kk, d in zip(k, dil)]).tolist()
    return k, strides, dil, pads, groups, cin, cout, size


def conv_text(strides, dil, pads, groups):
    return f"strides = {strides}, pads = {pads}, dilations = {dil}, groups = {groups}"


def qconv():
    for xt, wt in [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]:
        for rank in (1, 2, 2, 3):
            k, strides, dil, pads, groups, cin, cout, size = conv_geometry(rank)
            x, w = codes(xt, [2, cin] + size), codes(wt, [cout, cin // groups] + k)
            channels = bool(rng.integers(2))
            n = cout if channels else 1
            xs, ws = scale(), np.array([scale() for _ in range(n)], np.float32)
            xz = zero(xt)
            wz = np.zeros(n, wt) if channels and wt == "int8" else np.full(n, zero(wt))
            ys, yz = np.float32(xs * ws.mean() * 150 * np.sqrt(w[0].size) * 8), zero(xt)
            b = rng.integers(-20000, 20000, cout).astype("int32") if rng.integers(2) else None
            shape = (n,) if channels else ()
            feeds = [one("x", x), one("xs", xs), one("xz", xz), one("w", w), one("ws", ws.reshape(shape)), one("wz", wz.reshape(shape)),
                     one("ys", ys), one("yz", yz), None if b is None else one("b", b)]
            attrs = dict(strides=strides, dilations=dil, pads=pads, group=groups)
            y = run("QLinearConv", "", feeds, attrs, 17)
            inputs = [("x", x, qtype(x, xs, xz)), ("w", w, qtype(w, ws, wz, 0 if channels else None))]
            if b is not None:
                inputs.append(("b", b, "s32"))
            names = ", ".join("%" + i[0] for i in inputs)
            case("qconv", inputs, f"qconv({names}) {{{conv_text(strides, dil, pads, groups)}, out = {qtype(y, ys, yz)}}}", y)


def conv():
    for rank in (1, 2, 2, 3):
        k, strides, dil, pads, groups, cin, cout, size = conv_geometry(rank)
        x = rng.normal(size=[2, cin] + size).astype("float32")
        w = rng.normal(size=[cout, cin // groups] + k).astype("float32")
        b = rng.normal(size=cout).astype("float32")
        auto = str(rng.choice(["NOTSET", "SAME_UPPER", "SAME_LOWER"])) if dil == [1] * rank else "NOTSET"
        attrs = dict(strides=strides, dilations=dil, group=groups)
        attrs.update(dict(pads=pads) if auto == "NOTSET" else dict(auto_pad=auto))
        y = run("Conv", "", [one("x", x), one("w", w), one("b", b)], attrs, 17)
        padding = pads if auto == "NOTSET" else auto.lower()
        inputs = [("x", x, "f32"), ("w", w, "f32"), ("b", b, "f32")]
        case("conv", inputs, f"conv(%x, %w, %b) {{{conv_text(strides, dil, padding, groups)}}}", y, 1e-5)


def qmatmul():
    for at, bt in [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]:
        for sa, sb in [([3, 40], [40, 5]), ([2, 3, 7], [7, 4]), ([2, 2, 3, 7], [2, 2, 7, 4])]:
            a, b = codes(at, sa), codes(bt, sb)
            columns = len(sb) == 2 and bool(rng.integers(2))
            n = sb[-1] if columns else 1
            as_, bs = scale(), np.array([scale() for _ in range(n)], np.float32)
            az, bz = zero(at), np.array([zero(bt) for _ in range(n)])
            ys, yz = np.float32(as_ * bs.mean() * 150 * np.sqrt(sa[-1]) * 8), zero(at)
            shape = (n,) if columns else ()
            feeds = [one("a", a), one("as", as_), one("az", az), one("b", b), one("bs", bs.reshape(shape)), one("bz", bz.reshape(shape)),
                     one("ys", ys), one("yz", yz)]
            y = run("QLinearMatMul", "", feeds, {}, 17)
            inputs = [("a", a, qtype(a, as_, az)), ("b", b, qtype(b, bs, bz, len(sb) - 1 if columns else None))]
            case("qmatmul", inputs, f"qmatmul(%a, %b) {{out = {qtype(y, ys, yz)}}}", y)


def qgemm():
    for at, bt in [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")]:
        for trans in (0, 1):
            m, k, n = 3, 33, 6
            a, b = codes(at, [m, k]), codes(bt, [n, k] if trans else [k, n])
            c = rng.integers(-20000, 20000, n).astype("int32")
            columns = bool(rng.integers(2))
            count_ = n if columns else 1
            alpha = float(rng.choice([1.0, 0.5, 1.7]))
            as_, bs = scale(), np.array([scale() for _ in range(count_)], np.float32)
            az, bz = zero(at), np.array([zero(bt) for _ in range(count_)])
            ys, yz = np.float32(alpha * as_ * bs.mean() * 150 * np.sqrt(k) * 8), zero(at)
            shape = (count_,) if columns else ()
            feeds = [one("a", a), one("as", as_), one("az", az), one("b", b), one("bs", bs.reshape(shape)), one("bz", bz.reshape(shape)),
                     one("c", c), one("ys", ys), one("yz", yz)]
            y = run("QGemm", "com.microsoft", feeds, dict(alpha=alpha, transB=trans), 17)
            inputs = [("a", a, qtype(a, as_, az)), ("b", b, qtype(b, bs, bz, (0 if trans else 1) if columns else None)), ("c", c, "s32")]
            flag = "trans_b, " if trans else ""
            case("qgemm", inputs, f"qmatmul(%a, %b, %c) {{{flag}alpha = {num(alpha)}, out = {qtype(y, ys, yz)}}}", y)


def qmean():
    for dtype in RANGE:
        for shape in ([2, 5, 7, 7], [1, 32, 4, 4], [3, 4, 9]):
            x, (xs, ys), (xz, yz) = codes(dtype, shape), (scale(), scale()), (zero(dtype), zero(dtype))
            ys = np.float32(xs * rng.uniform(0.2, 1.5))
            feeds = [one("x", x), one("xs", xs), one("xz", xz), one("ys", ys), one("yz", yz)]
            y = run("QLinearGlobalAveragePool", "com.microsoft", feeds, dict(channels_last=0), 17)
            axes = list(range(2, len(shape)))
            case("qmean", [("x", x, qtype(x, xs, xz))], f"qmean(%x) {{axes = {axes}, keep_dims, out = {qtype(y, ys, yz)}}}", y)


def pools():
    for kind in ("Max", "Average"):
        for rank in (1, 2, 2, 2, 3):
            k, strides = rng.integers(1, 5, rank).tolist(), rng.integers(1, 4, rank).tolist()
            dil = rng.integers(1, 3, rank).tolist()
            pads = [int(rng.integers(0, kk)) for kk in k + k]
            size = (rng.integers(3, 9, rank) + [(kk - 1) * d for kk, d in zip(k, dil)]).tolist()
            ceil, include = int(rng.integers(2)), int(rng.integers(2))
            x = rng.normal(size=[2, 3] + size).astype("float32")
            attrs = dict(kernel_shape=k, strides=strides, dilations=dil, pads=pads, ceil_mode=ceil)
            if kind == "Average":
                attrs["count_include_pad"] = include
            y = run(f"{kind}Pool", "", [one("x", x)], attrs, 19)
            flags = (", ceil_mode" if ceil else "") + (", count_include_pad" if include and kind == "Average" else "")
            body = f"{kind.lower()}_pool(%x) {{kernel = {k}, strides = {strides}, pads = {pads}, dilations = {dil}{flags}}}"
            case("pool", [("x", x, "f32")], body, y, 0 if kind == "Max" else 1e-6)


def quantize():
    for dtype in RANGE:
        for axis in (None, 1):
            x = (rng.normal(size=[2, 5, 40]) * 3).astype("float32")
            n = 1 if axis is None else 5
            s, z = np.array([scale(-6, -3) for _ in range(n)], np.float32), np.array([zero(dtype) for _ in range(n)])
            # Ties, too.
            x[:, :, :20] = (np.round(x[:, :, :20] / s.reshape(-1, 1)) + 0.5) * s.reshape(-1, 1)
            shape = () if axis is None else (n,)
            feeds = [one("x", x), one("ys", s.reshape(shape)), one("yz", z.reshape(shape))]
            attrs = {} if axis is None else dict(axis=axis)
            y = run("QuantizeLinear", "", feeds, attrs, 17)
            case("quantize", [("x", x, "f32")], f"quantize(%x) {{out = {qtype(y, s, z, axis)}}}", y)
            feeds = [one("x", y), one("xs", s.reshape(shape)), one("xz", z.reshape(shape))]
            back = run("DequantizeLinear", "", feeds, attrs, 17)
            case("dequantize", [("x", y, qtype(y, s, z, axis))], "dequantize(%x)", back)


def floats():
    x = rng.normal(size=[3, 4, 6]).astype("float32")
    f = [("x", x, "f32")]
    for kind in ("Mean", "Sum", "Max", "Min", "Prod"):
        for axes, keep in (([1], 1), ([0, 2], 0), ([-1], 1)):
            attrs, feeds, opset = dict(keepdims=keep, axes=axes), [one("x", x)], 11
            y = run(f"Reduce{kind}", "", feeds, attrs, opset)
            flag = ", keep_dims" if keep else ""
            case("reduce", f, f"reduce_{kind.lower()}(%x) {{axes = {axes}{flag}}}", y, 1e-6)
    for axis in (0, 1, -1):
        case("softmax", f, f"softmax(%x) {{axis = {axis}}}", run("Softmax", "", [one("x", x)], dict(axis=axis), 13), 1e-6)
    y = run("Softmax", "", [one("x", x)], dict(axis=1), 11)
    case("softmax_flat", f, "softmax(%x) {axis = 1, flatten}", y, 1e-6)
    y = run("ArgMax", "", [one("x", x)], dict(axis=1, keepdims=0), 13)
    case("argmax", f, "argmax(%x) {axis = 1}", y)
    scale_, bias = rng.normal(size=[4, 6]).astype("float32"), rng.normal(size=[4, 6]).astype("float32")
    y = run("LayerNormalization", "", [one("x", x), one("g", scale_), one("b", bias)], dict(axis=1, epsilon=1e-3), 17)
    case("layer_norm", f + [("g", scale_, "f32"), ("b", bias, "f32")], "layer_norm(%x, %g, %b) {axis = 1, epsilon = 0.001}", y, 1e-5)
    four = [np.abs(rng.normal(size=[4])).astype("float32") + 0.1 for _ in range(4)]
    y = run("BatchNormalization", "", [one("x", x)] + [one("pqrt"[i], v) for i, v in enumerate(four)], dict(epsilon=1e-3), 15)
    case("batch_norm", f + [("pqrt"[i], v, "f32") for i, v in enumerate(four)], "batch_norm(%x, %p, %q, %r, %t) {epsilon = 0.001}", y, 1e-5)
    a, b, c = (rng.normal(size=s).astype("float32") for s in ([5, 3], [4, 5], [4]))
    y = run("Gemm", "", [one("a", a), one("b", b), one("c", c)], dict(alpha=0.7, beta=1.3, transA=1, transB=1), 13)
    case("gemm", [("a", a, "f32"), ("b", b, "f32"), ("c", c, "f32")], "gemm(%a, %b, %c) {alpha = 0.7, beta = 1.3, trans_a, trans_b}", y, 1e-5)
    for sa, sb in (([2, 1, 3, 4], [5, 4, 2]), ([4], [3, 4, 2]), ([2, 3, 4], [4]), ([4], [4])):
        a, b = rng.normal(size=sa).astype("float32"), rng.normal(size=sb).astype("float32")
        y = run("MatMul", "", [one("a", a), one("b", b)], {}, 13)
        case("matmul", [("a", a, "f32"), ("b", b, "f32")], "matmul(%a, %b)", y, 1e-5)
    unary = [("Sigmoid", "sigmoid", {}), ("Tanh", "tanh", {}), ("Erf", "erf", {}), ("HardSwish", "hard_swish", {}), ("Softplus", "softplus", {}),
             ("Elu", "elu", dict(alpha=0.7)), ("LeakyRelu", "leaky_relu", dict(alpha=0.2)), ("HardSigmoid", "hard_sigmoid", dict(alpha=0.3, beta=0.4)),
             ("Round", "round", {}), ("Sign", "sign", {}), ("Exp", "exp", {}), ("Sin", "sin", {}), ("Floor", "floor", {}), ("Ceil", "ceil", {})]
    for op, name, attrs in unary:
        x2 = (rng.normal(size=[50]) * 3).astype("float32")
        y = run(op, "", [one("x", x2)], attrs, 14)
        inside = ", ".join(f"{k} = {num(v)}" for k, v in attrs.items())
        case("unary", [("x", x2, "f32")], f"{name}(%x)" + (f" {{{inside}}}" if inside else ""), y, 1e-6)
    for op in ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min"):
        a = np.abs(rng.normal(size=[3, 1, 4])).astype("float32") if op == "Pow" else rng.normal(size=[3, 2, 4]).astype("float32")
        b = rng.normal(size=[2, 1] if op != "Pow" else [2, 4]).astype("float32")
        y = run(op, "", [one("a", a), one("b", b)], {}, 16)
        case("binary", [("a", a, "f32"), ("b", b, "f32")], f"{op.lower()}(%a, %b)", y, 1e-6)


def movement():
    x = rng.normal(size=[3, 4, 5]).astype("float32")
    f = [("x", x, "f32")]

    def consts(**kw):
        return "".join(f"  const %{k}: s64[{len(v)}] = {v}\n" for k, v in kw.items())

    def moved(op, name, attrs, text_attrs, ints, opset=18, extra=()):
        feeds = [one("x", x)] + [one(k, np.array(v, "int64")) for k, v in ints.items()]
        y = run(op, "", feeds[: 1 + len(ints)], attrs, opset)
        args = ", ".join("%" + k for k in ["x", *ints])
        body = f"{name}({args})" + (f" {{{text_attrs}}}" if text_attrs else "")
        case("move", f, body, y)
        text[-1] = text[-1].replace("  %y = ", consts(**ints) + "  %y = ")

    moved("Transpose", "transpose", dict(perm=[2, 0, 1]), "perm = [2, 0, 1]", {})
    moved("Slice", "slice", {}, "", dict(st=[-1, 0], en=[-100, 3], ax=[2, 1], sp=[-2, 2]))
    moved("Slice", "slice", {}, "", dict(st=[1, -2], en=[100, 100]))
    moved("Expand", "expand", {}, "", dict(sh=[2, 3, 1, 5]))
    moved("Tile", "tile", {}, "", dict(re=[1, 2, 3]))
    moved("Pad", "pad", dict(mode="reflect"), "mode = reflect", dict(pa=[0, 2, 3, 1, 1, 2]))
    moved("Pad", "pad", dict(mode="edge"), "mode = edge", dict(pa=[0, 2, 3, 1, -1, 2]))
    moved("Pad", "pad", {}, "", dict(pa=[0, 2, -3, 1, -1, 2]))
    moved("Gather", "gather", dict(axis=1), "axis = 1", dict(ix=[3, -4, 0]))
    moved("Reshape", "reshape", {}, "", dict(sh=[0, -1, 2]))


for _ in range(count):
    binary("Add")
    binary("Mul")
    qconv()
    conv()
    qmatmul()
    qgemm()
    qmean()
    pools()
    quantize()
    floats()
    movement()

open(f"{out}/cases.txt", "w").write("\n".join(text) + "\n")
np.savez_compressed(f"{out}/cases.npz", **arrays)
print(len({k.split(".")[0] for k in arrays}), "cases")
