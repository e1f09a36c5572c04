"""GMAC/s of one int8 depthwise convolution node in ONNX Runtime and OpenVINO, 1 thread.

Usage: peers_depthwise.py [SIZE,CHANNELS,KERNEL,STRIDE ...]

Compare with `cargo bench --bench depthwise`, run on the same machine right before or after. ONNX Runtime runs
QLinearConv on NCHW, as models hold it, which it rewrites to its NHWC form; OpenVINO runs the QDQ form.
"""
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto as T, helper as h, numpy_helper as nh

LAYERS = [(112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 144, 3, 2), (28, 192, 3, 1), (28, 192, 3, 2),
          (14, 384, 3, 1), (14, 576, 3, 1), (14, 576, 3, 2), (7, 960, 3, 1), (56, 144, 5, 2), (28, 240, 5, 1),
          (14, 480, 5, 1), (14, 672, 5, 1), (14, 672, 5, 2), (7, 1152, 5, 1), (56, 128, 3, 1)]
rng = np.random.default_rng(0)


def model(size, channels, kernel, stride, qdq):
    w = rng.integers(-127, 128, (channels, 1, kernel, kernel), dtype=np.int8)
    out = (size + 2 * (kernel // 2) - kernel) // stride + 1
    ini = [nh.from_array(w, 'w')]
    for name, value, dtype in [('xs', 0.02, np.float32), ('xz', 3, np.uint8), ('ws', [0.01] * channels, np.float32),
                               ('wz', [0] * channels, np.int8), ('ys', 0.9, np.float32), ('yz', 5, np.uint8),
                               ('bs', [0.0002] * channels, np.float32), ('bz', [0] * channels, np.int32)]:
        ini.append(nh.from_array(np.array(value, dtype=dtype), name))
    ini.append(nh.from_array(rng.integers(-999, 999, channels, dtype=np.int32), 'b'))
    attributes = dict(group=channels, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
    if qdq:
        nodes = [h.make_node('DequantizeLinear', ['x', 'xs', 'xz'], ['xf']),
                 h.make_node('DequantizeLinear', ['w', 'ws', 'wz'], ['wf'], axis=0),
                 h.make_node('DequantizeLinear', ['b', 'bs', 'bz'], ['bf'], axis=0),
                 h.make_node('Conv', ['xf', 'wf', 'bf'], ['yf'], **attributes),
                 h.make_node('QuantizeLinear', ['yf', 'ys', 'yz'], ['y'])]
    else:
        nodes = [h.make_node('QLinearConv', ['x', 'xs', 'xz', 'w', 'ws', 'wz', 'ys', 'yz', 'b'], ['y'], **attributes)]
    used = {i for n in nodes for i in n.input}
    graph = h.make_graph(nodes, 'g', [h.make_tensor_value_info('x', T.UINT8, [1, channels, size, size])],
                         [h.make_tensor_value_info('y', T.UINT8, [1, channels, out, out])],
                         [i for i in ini if i.name in used])
    return h.make_model(graph, opset_imports=[h.make_opsetid('', 13)], ir_version=8), out * out * channels * kernel ** 2


def best(f, seconds=0.3):
    f()
    least, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(10):
            f()
        least = min(least, (time.perf_counter() - start) / 10)
    return least


def profiled(m, x):
    """Seconds of the convolution kernel alone by ONNX Runtime's profile: without layout changes around it."""
    import json
    import os
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling, options.profile_file_prefix = True, '/tmp/peers_depthwise'
    session = ort.InferenceSession(m.SerializeToString(), options, providers=['CPUExecutionProvider'])
    for _ in range(200):
        session.run(None, {'x': x})
    path = session.end_profiling()
    events = [e for e in json.load(open(path)) if e.get('cat') == 'Node' and 'Conv' in e['args'].get('op_name', '')]
    os.remove(path)
    return min(e['dur'] for e in events) * 1e-6


def openvino(m, x):
    """Seconds of one inference, and of the convolution primitive alone by OpenVINO's counters."""
    core = ov.Core()
    read = core.read_model(m.SerializeToString(), b'')
    config = {'INFERENCE_NUM_THREADS': 1, 'NUM_STREAMS': 1}
    request = core.compile_model(read, 'CPU', config).create_infer_request()
    request.set_input_tensor(ov.Tensor(x))
    whole = best(request.infer)
    request = core.compile_model(read, 'CPU', {**config, 'PERF_COUNT': True}).create_infer_request()
    request.set_input_tensor(ov.Tensor(x))
    alone = 1e9
    for _ in range(200):
        request.infer()
        spent = [i.real_time.total_seconds() for i in request.profiling_info if 'Convolution' in i.node_type]
        alone = min(alone, sum(spent))
    return whole, alone


if __name__ == '__main__':
    layers = [tuple(map(int, a.split(','))) for a in sys.argv[1:]] or LAYERS
    print(f'onnxruntime {ort.__version__}, openvino {ov.__version__}; microseconds (GMAC/s)')
    for size, channels, kernel, stride in layers:
        x = rng.integers(0, 256, (1, channels, size, size), dtype=np.uint8)
        qlinear, macs = model(size, channels, kernel, stride, qdq=False)
        qdq, _ = model(size, channels, kernel, stride, qdq=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(qlinear.SerializeToString(), options, providers=['CPUExecutionProvider'])
        binding = session.io_binding()
        binding.bind_ortvalue_input('x', ort.OrtValue.ortvalue_from_numpy(x))
        binding.bind_output('y')
        whole, alone = openvino(qdq, x)
        times = [('ort run', best(lambda: session.run_with_iobinding(binding))), ('ort kernel', profiled(qlinear, x)),
                 ('openvino run', whole), ('openvino kernel', alone)]
        print(f'{kernel}x{kernel}s{stride}-{size}x{size}x{channels}: ' +
              ', '.join(f'{name} {t * 1e6:.1f} ({macs / t / 1e9:.1f})' for name, t in times if t), flush=True)
