"""Single operators in requant, ONNX Runtime and OpenVINO, 1 thread each, in one run.

Usage: peers.py [--requant PATH] [--nchw] [--seconds S] [KIND ...]      needs numpy, onnx, onnxruntime, openvino

Every problem is one ONNX file that all three read: an operator between DequantizeLinear and QuantizeLinear, which each
fuses as it can, or, for some s8 products, one that is quantized itself. Images are NHWC, turned to the operator's NCHW
and back by Transpose nodes that all three may cancel; with --nchw they are NCHW. A time is the least of one whole run
with inputs in place: `requant bench`, a session with bound inputs and outputs, an inference request with set tensors.
"kernel" is what the peer's own profile says of all its nodes but layout changes, in whole microseconds. KIND selects
kinds of operator by name.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto as T, helper as h, numpy_helper as nh

rng = np.random.default_rng(0)
# What is no operator of ours: layout changes, and what reads and writes the ends of the graph.
NOT_KERNELS = ('Transpose', 'Reorder', 'Permute', 'Parameter', 'Result', 'Input', 'Output', 'Constant', 'Const',
               'Reshape')


class Graph:
    """One operator on quantized tensors, with the ends that models give it."""

    def __init__(self, nchw):
        self.nchw, self.nodes, self.constants, self.inputs, self.feeds, self.names = nchw, [], [], [], [], 0

    def name(self):
        self.names += 1
        return f'v{self.names}'

    def constant(self, value, dtype=None):
        name = self.name()
        self.constants.append(nh.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def node(self, op, inputs, **attributes):
        out = self.name()
        self.nodes.append(h.make_node(op, inputs, [out], **attributes))
        return out

    def scale(self, scale, zero, dtype):
        return [self.constant(scale, np.float32), self.constant(zero, dtype)]

    def feed(self, array):
        name = self.name()
        self.feeds.append((name, array))
        self.inputs.append(h.make_tensor_value_info(name, h.np_dtype_to_tensor_dtype(array.dtype), array.shape))
        return name

    def image(self, *shape):
        """A u8 image as the operator reads it; `shape` is N, C, H, W."""
        n, c, height, width = shape
        stored = shape if self.nchw else (n, height, width, c)
        x = self.feed(rng.integers(0, 256, stored, dtype=np.uint8))
        return x if self.nchw else self.node('Transpose', [x], perm=[0, 3, 1, 2])

    def codes(self, *shape, dtype=np.uint8):
        return self.feed(rng.integers(0, 256, shape, dtype=np.uint8).view(dtype))

    def real(self, x, scale=0.02, zero=3, dtype=np.uint8):
        return self.node('DequantizeLinear', [x, *self.scale(scale, zero, dtype)])

    def code(self, x, scale=0.05, zero=5, dtype=np.uint8):
        return self.node('QuantizeLinear', [x, *self.scale(scale, zero, dtype)])

    def weights(self, shape, axis):
        w = self.constant(rng.integers(-127, 128, shape, dtype=np.int8))
        scales = self.constant([0.01] * shape[axis], np.float32), self.constant([0] * shape[axis], np.int8)
        return self.node('DequantizeLinear', [w, *scales], axis=axis)

    def bias(self, n):
        b = self.constant(rng.integers(-999, 999, n, dtype=np.int32))
        scales = self.constant([0.0002] * n, np.float32), self.constant([0] * n, np.int32)
        return self.node('DequantizeLinear', [b, *scales], axis=0)

    def model(self, out, shape, dtype=T.UINT8, image=False):
        if image and not self.nchw:
            out, shape = self.node('Transpose', [out], perm=[0, 2, 3, 1]), [shape[i] for i in (0, 2, 3, 1)]
        outputs = [h.make_tensor_value_info(out, dtype, shape)]
        graph = h.make_graph(self.nodes, 'g', self.inputs, outputs, self.constants)
        return h.make_model(graph, opset_imports=[h.make_opsetid('', 13)], ir_version=8)


def gemm(g, m, n, k):
    y = g.node('MatMul', [g.real(g.codes(m, k)), g.weights((k, n), 1)])
    return g.model(g.code(y, 3.1), [m, n])


def gemm_s8(g, op, m, n, k):
    """Of s8 activations. ONNX Runtime multiplies those of MatMul in f32 and has integers for QLinearMatMul alone."""
    a = g.codes(m, k, dtype=np.int8)
    if op == 'MatMul':
        y = g.code(g.node(op, [g.real(a, dtype=np.int8), g.weights((k, n), 1)]), 3.1, dtype=np.int8)
    else:
        b = g.constant(rng.integers(-127, 128, (k, n), dtype=np.int8))
        of_a, of_b, of_y = (g.scale(scale, zero, np.int8) for scale, zero in ((0.02, 3), (0.01, 0), (3.1, 5)))
        y = g.node(op, [a, *of_a, b, *of_b, *of_y])
    return g.model(y, [m, n], T.INT8)


def batched(g, batch, m, n, k):
    """Products of two activations, as attention has them."""
    y = g.node('MatMul', [g.real(g.codes(batch, m, k)), g.real(g.codes(batch, k, n), 0.03, 128)])
    return g.model(g.code(y, 3.1), [batch, m, n])


def conv(g, height, width, c, out_c, kernel, stride=1, pads=None, groups=1, dilation=1):
    reach = [dilation * (size - 1) for size in kernel]
    top, left = [size // 2 for size in reach] if pads is None else pads
    oh, ow = (height + 2 * top - reach[0] - 1) // stride + 1, (width + 2 * left - reach[1] - 1) // stride + 1
    x, w = g.real(g.image(1, c, height, width)), g.weights((out_c, c // groups, *kernel), 0)
    y = g.node('Conv', [x, w, g.bias(out_c)], kernel_shape=kernel, strides=[stride] * 2, group=groups,
               dilations=[dilation] * 2, pads=[top, left, top, left])
    return g.model(g.code(y, 0.9), [1, out_c, oh, ow], image=True)


def concat(g, size, *channels):
    parts = [g.real(g.image(1, c, size, size)) for c in channels]
    y = g.code(g.node('Concat', parts, axis=1), 0.02, 3)
    return g.model(y, [1, sum(channels), size, size], image=True)


def binary(op):
    def build(g, *shape):
        y = g.node(op, [g.real(g.codes(*shape)), g.real(g.codes(*shape), 0.03, 7)])
        return g.model(g.code(y), list(shape))
    return build


def unary(op, **attributes):
    def build(g, *shape):
        y = g.node(op, [g.real(g.codes(*shape))], **attributes)
        return g.model(g.code(y, 0.01, 0), list(shape))
    return build


def quantize(g, *shape):
    x = g.feed(rng.standard_normal(shape, dtype=np.float32))
    return g.model(g.code(x), list(shape))


def dequantize(g, *shape):
    return g.model(g.real(g.codes(*shape)), list(shape), T.FLOAT)


def pool(op):
    def build(g, c, size, kernel, stride, pad):
        out = (size + 2 * pad - kernel) // stride + 1
        attributes = dict(kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        y = g.code(g.node(op, [g.real(g.image(1, c, size, size))], **attributes), 0.02, 3)
        return g.model(y, [1, c, out, out], image=True)
    return build


def global_pool(g, c, size):
    y = g.code(g.node('GlobalAveragePool', [g.real(g.image(1, c, size, size))]), 0.02, 3)
    return g.model(y, [1, c, 1, 1], image=True)


def softmax(g, *shape):
    y = g.node('Softmax', [g.real(g.codes(*shape))], axis=-1)
    return g.model(g.code(y, 1 / 256, 0), list(shape))


def resize(g, c, size, mode):
    scales = g.constant([1, 1, 2, 2], np.float32)
    places = 'asymmetric' if mode == 'nearest' else 'half_pixel'
    x = g.real(g.image(1, c, size, size))
    y = g.node('Resize', [x, '', scales], mode=mode, coordinate_transformation_mode=places, nearest_mode='floor')
    return g.model(g.code(y, 0.02, 3), [1, c, 2 * size, 2 * size], image=True)


def one(size, c, out_c, stride=1):
    label = f'{size}×{size}×{c} → {out_c}' + (f' s{stride}' if stride > 1 else '')
    return label, (size, size, c, out_c, [1, 1], stride)


def dense(size, c, out_c, kernel, stride=1, pads=None, groups=1, dilation=1):
    kh, kw = kernel
    changes = ((stride, 's'), (groups, 'groups '), (dilation, 'dilation '))
    label = f'{kh}×{kw} {size}×{size}×{c} → {out_c}' + ''.join(f' {name}{n}' for n, name in changes if n > 1)
    return label, (size, size, c, out_c, list(kernel), stride, pads, groups, dilation)


def depthwise(size, c, kernel, stride, dilation=1):
    label = f'{kernel}×{kernel} s{stride} {size}×{size}×{c}' + (f' dilation {dilation}' if dilation > 1 else '')
    return label, (size, size, c, c, [kernel, kernel], stride, None, c, dilation)


def shaped(*shapes):
    return [('×'.join(map(str, s)), s) for s in shapes]


# Layers of MobileNetV2, EfficientNet-Lite0, ResNet-50, Inception-v3, MiniLM and PP-OCR.
KINDS = [
    ('gemm', gemm, shaped((1, 1000, 1280), (1, 1024, 1024), (16, 1024, 1024), (128, 384, 384), (128, 1536, 384),
                          (128, 384, 1536), (128, 768, 768), (384, 3072, 768), (784, 128, 128), (3136, 64, 576),
                          (192, 512, 4608), (196, 512, 4608), (32, 1024, 1024), (1024, 1024, 1024), (2048, 2048, 2048))),
    ('gemv', gemm, shaped((1, 4096, 4096), (1, 1000, 2048))),
    ('gemm-s8', gemm_s8, [(f'{label} {op}', (op, *shape)) for op in ('MatMul', 'QLinearMatMul') for label, shape in
                          shaped((128, 768, 768), (384, 3072, 768), (1024, 1024, 1024))]),
    # Heads of MiniLM's attention, queries by keys and probabilities by values, and of a BERT.
    ('batched', batched, shaped((12, 128, 128, 32), (12, 128, 32, 128), (12, 384, 384, 64))),
    ('conv1x1', conv, [one(112, 32, 16), one(56, 24, 144), one(28, 192, 32), one(14, 576, 96), one(7, 960, 320),
                       one(56, 64, 256), one(14, 1024, 256), one(56, 256, 512, 2), one(40, 96, 96)]),
    ('conv', conv, [dense(56, 64, 64, (3, 3)), dense(28, 128, 128, (3, 3)), dense(14, 256, 256, (3, 3)),
                    dense(7, 512, 512, (3, 3)), dense(56, 128, 128, (3, 3), 2), dense(17, 128, 128, (1, 7)),
                    dense(17, 192, 192, (7, 1)), dense(35, 48, 64, (5, 5)), dense(160, 96, 24, (3, 3))]),
    ('grouped', conv, [dense(56, 128, 128, (3, 3), groups=32), dense(14, 512, 512, (3, 3), groups=32)]),
    # ResNet and MobileNetV2 as DeepLab has them, with dilation for strides.
    ('dilated', conv, [dense(28, 256, 256, (3, 3), dilation=2), dense(33, 256, 256, (3, 3), dilation=6),
                       depthwise(33, 576, 3, 1, 2), depthwise(33, 960, 3, 1, 2)]),
    ('first', conv, [dense(224, 3, 32, (3, 3), 2), dense(299, 3, 32, (3, 3), 2, (0, 0)), dense(224, 3, 64, (7, 7), 2)]),
    ('depthwise', conv, [depthwise(112, 32, 3, 1), depthwise(112, 96, 3, 2), depthwise(56, 128, 3, 1),
                         depthwise(56, 144, 3, 1), depthwise(56, 144, 3, 2), depthwise(28, 192, 3, 1),
                         depthwise(28, 192, 3, 2), depthwise(14, 384, 3, 1), depthwise(14, 576, 3, 1),
                         depthwise(14, 576, 3, 2), depthwise(7, 960, 3, 1), depthwise(56, 144, 5, 2),
                         depthwise(28, 240, 5, 1), depthwise(14, 672, 5, 1), depthwise(7, 1152, 5, 1)]),
    ('concat', concat, [('56×56 of 64 + 64', (56, 64, 64)), ('28×28 of 256 + 256', (28, 256, 256))]),
    ('add', binary('Add'), shaped((1, 24, 56, 56), (1, 96, 14, 14), (1, 256, 56, 56))),
    ('mul', binary('Mul'), shaped((1, 24, 56, 56), (1, 256, 56, 56))),
    ('quantize', quantize, shaped((1, 3, 224, 224), (128, 384), (1, 256, 56, 56))),
    ('dequantize', dequantize, shaped((1, 1000), (128, 384), (1, 256, 56, 56))),
    ('sigmoid', unary('Sigmoid'), shaped((1, 96, 40, 40), (1, 256, 56, 56))),
    ('leaky-relu', unary('LeakyRelu', alpha=0.1), shaped((1, 96, 40, 40), (1, 256, 56, 56))),
    ('average-pool', pool('AveragePool'), [('3×3 35×35×288', (288, 35, 3, 1, 1)),
                                             ('2×2 s2 56×56×128', (128, 56, 2, 2, 0))]),
    ('global-pool', global_pool, [('7×7×1280', (1280, 7)), ('7×7×2048', (2048, 7)), ('8×8×2048', (2048, 8))]),
    ('max-pool', pool('MaxPool'), [('3×3 s2 112×112×64', (64, 112, 3, 2, 1)),
                                     ('3×3 s2 147×147×64', (64, 147, 3, 2, 0))]),
    ('softmax', softmax, shaped((1, 1000), (12, 128, 128), (40, 6625))),
    ('resize', resize, [(f'{mode} 2× 80×80×24', (24, 80, mode)) for mode in ('nearest', 'linear')]),
]


def best(f, seconds):
    f()
    least, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - start)
    return least * 1e6


def onnxruntime_us(path, feeds, seconds):
    def session(profiled):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling, options.profile_file_prefix = profiled, os.path.join(os.path.dirname(path), 'ort')
        session = ort.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        binding = session.io_binding()
        for name, array in feeds:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        binding.bind_output(session.get_outputs()[0].name)
        return session, lambda: session.run_with_iobinding(binding)
    _, run = session(False)
    whole = best(run, seconds)
    profiled, run = session(True)
    best(run, seconds)
    profile = profiled.end_profiling()
    least = {}
    with open(profile) as file:
        for event in json.load(file):
            name = event['name']
            if name.endswith('_kernel_time') and event['args'].get('op_name') not in NOT_KERNELS:
                least[name] = min(least.get(name, event['dur']), event['dur'])
    os.remove(profile)
    return whole, sum(least.values()) or None


def openvino_us(path, feeds, seconds):
    core = ov.Core()

    def request(**more):
        compiled = core.compile_model(path, 'CPU', {'INFERENCE_NUM_THREADS': 1, 'NUM_STREAMS': 1, **more})
        request = compiled.create_infer_request()
        for name, array in feeds:
            request.set_tensor(name, ov.Tensor(array))
        return request
    whole = best(request().infer, seconds)
    counted = request(PERF_COUNT=True)

    def kernels():
        counted.infer()
        return [i.real_time.total_seconds() * 1e6 for i in counted.profiling_info
                if i.node_type not in NOT_KERNELS and i.real_time.total_seconds() > 0]
    end, runs = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        runs.append(kernels())
    return whole, min((sum(run) for run in runs if run), default=None)


def requant_us(requant, path, seconds):
    command = [requant, 'bench', path, '--format', 'json', '--min-time', str(seconds)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        print(result.stderr.strip(), file=sys.stderr)
        return None
    return json.loads(result.stdout)['results'][0]['min_ms'] * 1e3


def cell(us, ours):
    """A time, and how often `ours` fits in; what does not run has none."""
    if us is None:
        return '–'
    return f'{us:.1f}' if ours in (None, us) else f'{us:.1f} ({us / ours:.1f}×)'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--requant', default='target/release/requant', help='the program [%(default)s]')
    parser.add_argument('--nchw', action='store_true', help='images in the order of ONNX, without Transpose nodes')
    parser.add_argument('--seconds', type=float, default=0.2, help='for each measurement [%(default)s]')
    parser.add_argument('kinds', nargs='*', metavar='KIND', help=', '.join(kind for kind, *_ in KINDS))
    args = parser.parse_args()
    unknown = set(args.kinds) - {kind for kind, *_ in KINDS}
    if unknown:
        parser.error(f'no such kind: {", ".join(sorted(unknown))}')
    print(f'onnxruntime {ort.__version__}, openvino {ov.__version__.split("-")[0]}; µs, and how often requant fits in\n')
    print('| operator | problem | requant | ORT | ORT kernel | OpenVINO | OpenVINO kernel |')
    print('|---|---|---|---|---|---|---|')
    for kind, build, problems in KINDS:
        if args.kinds and kind not in args.kinds:
            continue
        for label, problem in problems:
            with tempfile.TemporaryDirectory() as folder:
                graph, path = Graph(args.nchw), os.path.join(folder, 'model.onnx')
                onnx.save(build(graph, *problem), path)
                ours = requant_us(args.requant, path, args.seconds)
                peers = onnxruntime_us(path, graph.feeds, args.seconds) + openvino_us(path, graph.feeds, args.seconds)
            cells = [cell(us, ours) for us in (ours, *peers)]
            print(f'| {kind} | {label} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    sys.exit(main())
