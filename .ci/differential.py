#!/usr/bin/env python3
"""Random graphs here and in ONNX Runtime: in float, and the INT8 file that `quantal quantize` makes of them, there and
here.

   differential.py --quantal PATH --seeds 0:200 [--jobs N] [--keep DIR]

A seed makes one graph: operators, shapes (sides of 1, odd sizes, broadcasts, a batch of 0), opset and data all follow
from it, on every machine. Float outputs agree within 1e-4 of their range. The INT8 file must load in both, and agree
within a few steps of the output's codes: sums are integers in both, but ONNX Runtime runs some of the operators between
them in float. Exit 1 if a seed fails; `--keep` then leaves its model and data.
"""
import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

PANIC = ("internal error", "panicked", "overflowed its stack", "memory allocation of")
TIMEOUT = 120
# ONNX Runtime's own limits, not faults of either side: these seeds are passed over.
UNSUPPORTED = ("NOT_IMPLEMENTED", "Could not find an implementation")


class Builder:
    """A graph as it grows: a value is a name, a shape and whether it may be negative."""

    def __init__(self, seed):
        self.r = np.random.default_rng(seed)
        self.opset = int(self.r.choice([13, 14, 17, 18, 19, 21]))
        self.nodes, self.inits, self.values, self.count = [], [], [], 0

    def pick(self, items):
        return items[int(self.r.integers(len(items)))]

    def name(self):
        self.count += 1
        return f"v{self.count}"

    def const(self, array, of=None):
        name = of or f"c{len(self.inits)}"
        self.inits.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, *shape):
        fan = max(1, int(np.prod(shape[1:])) if len(shape) > 1 else 1)
        return self.const((self.r.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def ints(self, *values):
        return self.const(np.array(values, np.int64))

    def node(self, op, inputs, shape, domain="", **attrs):
        out = self.name()
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"n{len(self.nodes)}", domain=domain, **attrs))
        self.values.append((out, tuple(int(d) for d in shape)))
        return out

    def value(self, rank=None):
        found = [v for v in self.values if rank is None or len(v[1]) == rank]
        # Late values more often: graphs become deep.
        return found[-1 - min(int(self.r.geometric(0.4)) - 1, len(found) - 1)] if found else None


def conv(b):
    x = b.value(4) or b.value(3)
    if x is None:
        return
    name, shape = x
    spatial = len(shape) - 2
    c = shape[1]
    groups = int(b.pick([1, 1, 1, c] + [g for g in (2, 3) if c % g == 0]))
    out = groups * int(b.pick([1, 1, 2, 3, 5])) if groups > 1 else int(b.pick([1, 2, 3, 4, 7, 8, 16]))
    kernel = [int(b.pick([1, 1, 2, 3, 3, 5])) for _ in range(spatial)]
    strides = [int(b.pick([1, 1, 2, 3, 7])) for _ in range(spatial)]
    dilations = [int(b.pick([1, 1, 1, 2, 3])) for _ in range(spatial)]
    if b.r.random() < 0.25:
        conv_transpose(b, name, shape, groups, out // groups, kernel, strides, dilations)
        return
    pads = [int(b.r.integers(0, d * (k - 1) // 2 + 2)) for k, d in zip(kernel, dilations)] * 2
    sides = []
    for i in range(spatial):
        room = shape[2 + i] + pads[i] + pads[i + spatial] - dilations[i] * (kernel[i] - 1) - 1
        if room < 0:
            return
        sides.append(room // strides[i] + 1)
    inputs = [name, b.weight(out, c // groups, *kernel)]
    if b.r.random() < 0.7:
        inputs.append(b.weight(out))
    b.node("Conv", inputs, (shape[0], out, *sides), group=groups, strides=strides, dilations=dilations, pads=pads,
           kernel_shape=kernel)


def conv_transpose(b, name, shape, groups, each, kernel, strides, dilations):
    extra = [int(b.r.integers(0, max(s, d))) if b.r.random() < 0.3 else 0 for s, d in zip(strides, dilations)]
    pads = [int(b.r.integers(0, 2)) for _ in kernel] * 2
    sides = []
    for i, k in enumerate(kernel):
        side = (shape[2 + i] - 1) * strides[i] + extra[i] + dilations[i] * (k - 1) + 1 - 2 * pads[i]
        if side < 1 or side > 200:
            return
        sides.append(side)
    inputs = [name, b.weight(shape[1], each, *kernel)]
    if b.r.random() < 0.5:
        inputs.append(b.weight(groups * each))
    b.node("ConvTranspose", inputs, (shape[0], groups * each, *sides), group=groups, strides=strides,
           dilations=dilations, pads=pads, output_padding=extra, kernel_shape=kernel)


def pool(b):
    x = b.value(4)
    if x is None:
        return
    name, shape = x
    if b.r.random() < 0.3:
        b.node(b.pick(["GlobalAveragePool", "GlobalMaxPool"]), [name], (*shape[:2], 1, 1))
        return
    kernel = [int(b.pick([1, 2, 3])) for _ in range(2)]
    strides = [int(b.pick([1, 2, 3])) for _ in range(2)]
    pads = [int(b.r.integers(0, k // 2 + 1)) for k in kernel] * 2
    sides = [(shape[2 + i] + 2 * pads[i] - kernel[i]) // strides[i] + 1 for i in range(2)]
    if min(sides) < 1 or min(shape[2 + i] + 2 * pads[i] - kernel[i] for i in range(2)) < 0:
        return
    op = b.pick(["MaxPool", "AveragePool"])
    attrs = {} if op == "MaxPool" else {"count_include_pad": int(b.r.integers(0, 2))}
    b.node(op, [name], (*shape[:2], *sides), kernel_shape=kernel, strides=strides, pads=pads, **attrs)


def matmul(b):
    name, shape = b.value()
    if len(shape) < 2:
        return
    n = int(b.pick([1, 2, 3, 7, 16, 33]))
    if len(shape) == 2 and b.r.random() < 0.5:
        transposed = int(b.r.integers(0, 2))
        w = b.weight(n, shape[1]) if transposed else b.weight(shape[1], n)
        bias = [b.weight(*b.pick([(n,), (1, n), (1,)]))] if b.r.random() < 0.7 else []
        b.node("Gemm", [name, w, *bias], (shape[0], n), transB=transposed)
        return
    if len(shape) >= 3 and b.r.random() < 0.25:
        # Two run-time tensors, as in attention.
        swap = list(range(len(shape)))
        swap[-1], swap[-2] = swap[-2], swap[-1]
        turned = b.node("Transpose", [name], [shape[i] for i in swap], perm=swap)
        scores = b.node("MatMul", [name, turned], (*shape[:-1], shape[-2]))
        b.node("Softmax", [scores], (*shape[:-1], shape[-2]), axis=-1)
        return
    w = b.weight(shape[-1], n)
    out = b.node("MatMul", [name, w], (*shape[:-1], n))
    if b.r.random() < 0.5:
        b.node("Add", [out, b.weight(n)][:: b.pick([1, -1])], (*shape[:-1], n))


def binary(b):
    name, shape = b.value()
    op = b.pick(["Add", "Add", "Mul", "Sub", "Max", "Min"])
    same = [v for v in b.values if v[1] == shape and v[0] != name]
    if same and b.r.random() < 0.5:
        other, full = b.pick(same)[0], shape
    else:
        # A constant that broadcasts, of a lower, the same or a higher rank.
        dims = [d if b.r.random() < 0.5 else 1 for d in shape][int(b.r.integers(0, len(shape) + 1)):]
        dims = [1] * int(b.pick([0, 0, 0, 1])) + dims if len(dims) == len(shape) and len(shape) < 4 else dims
        other = b.weight(*dims) if dims else b.const(np.float32(b.r.standard_normal()))
        full = np.broadcast_shapes(shape, tuple(dims))
    pair = [name, other][:: b.pick([1, -1])]
    b.node(op, pair, full)


def unary(b):
    name, shape = b.value()
    op = b.pick(["Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Clip", "Swish", "Elu", "Abs", "Neg",
                 "Erf", "Softplus", "HardSwish", "Floor", "PRelu"])
    if op == "Swish":
        gate = b.node("Sigmoid", [name], shape)
        b.node("Mul", [name, gate], shape)
    elif op == "Clip":
        low, high = sorted(b.r.uniform(-2, 6, 2).astype(np.float32))
        b.node("Clip", [name, b.const(low), b.const(high)], shape)
    elif op == "PRelu":
        if len(shape) >= 3:
            b.node("PRelu", [name, b.const(b.r.uniform(0, 1, (shape[1],) + (1,) * (len(shape) - 2)).astype(np.float32))],
                   shape)
    elif op == "HardSwish" and b.opset < 14:
        return
    elif op == "LeakyRelu":
        b.node(op, [name], shape, alpha=float(b.r.uniform(0, 0.5)))
    elif op != "Floor":
        b.node(op, [name], shape)


def move(b):
    name, shape = b.value()
    rank = len(shape)
    kind = b.pick(["Transpose", "Reshape", "Flatten", "Concat", "Slice", "Pad", "Squeeze", "Unsqueeze", "Resize", "Expand",
                   "Split", "Gather", "Tile"])
    if kind == "Transpose":
        perm = [int(i) for i in b.r.permutation(rank)]
        b.node("Transpose", [name], [shape[i] for i in perm], perm=perm)
    elif kind == "Reshape" and 0 not in shape:
        flat = int(np.prod(shape[1:]))
        cut = b.pick([d for d in range(1, flat + 1) if flat % d == 0])
        b.node("Reshape", [name, b.ints(0, -1, cut)], (shape[0], flat // cut, cut))
    elif kind == "Flatten":
        axis = int(b.r.integers(0, rank + 1))
        if 0 not in shape:
            b.node("Flatten", [name], (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))), axis=axis)
    elif kind == "Concat":
        axis = int(b.r.integers(0, rank))
        parts = [v for v in b.values if len(v[1]) == rank and all(v[1][i] == shape[i] for i in range(rank) if i != axis)]
        parts = [b.pick(parts) for _ in range(int(b.pick([2, 3])))]
        total = sum(p[1][axis] for p in parts)
        if total < 200:
            b.node("Concat", [p[0] for p in parts], [*shape[:axis], total, *shape[axis + 1:]], axis=axis)
    elif kind == "Slice":
        axis = int(b.r.integers(0, rank))
        if shape[axis] > 1:
            start, step = int(b.r.integers(0, shape[axis])), int(b.pick([1, 1, 2, -1]))
            end = shape[axis] if step > 0 else -shape[axis] - 1
            size = len(range(shape[axis])[start:end if step > 0 else None:step])
            b.node("Slice", [name, b.ints(start), b.ints(end), b.ints(axis), b.ints(step)],
                   [*shape[:axis], size, *shape[axis + 1:]])
    elif kind == "Pad" and 0 not in shape:
        mode = b.pick(["constant", "edge", "reflect"])
        before = [int(b.r.integers(0, 3)) if mode != "reflect" or d > 2 else 0 for d in shape]
        after = [int(b.r.integers(0, 3)) if mode != "reflect" or d > 2 else 0 for d in shape]
        b.node("Pad", [name, b.ints(*before, *after)], [d + p + q for d, p, q in zip(shape, before, after)], mode=mode)
    elif kind == "Squeeze" and 1 in shape and rank > 1:
        axis = b.pick([i for i, d in enumerate(shape) if d == 1])
        b.node("Squeeze", [name, b.ints(axis)], [d for i, d in enumerate(shape) if i != axis])
    elif kind == "Unsqueeze" and rank < 4:
        axis = int(b.r.integers(0, rank + 1))
        b.node("Unsqueeze", [name, b.ints(axis)], [*shape[:axis], 1, *shape[axis:]])
    elif kind == "Resize" and rank == 4 and 0 not in shape and max(shape[2:]) < 20:
        scale = b.pick([2, 3])
        mode = b.pick(["nearest", "linear"])
        b.node("Resize", [name, "", b.const(np.array([1, 1, scale, scale], np.float32))],
               (*shape[:2], shape[2] * scale, shape[3] * scale), mode=mode,
               coordinate_transformation_mode=b.pick(["half_pixel", "asymmetric"]),
               **({"nearest_mode": "floor"} if mode == "nearest" else {}))
    elif kind == "Expand":
        full = [int(b.pick([2, 3])) if d == 1 and b.r.random() < 0.5 else d for d in shape]
        b.node("Expand", [name, b.ints(*full)], full)
    elif kind == "Split" and rank >= 2 and shape[1] > 1:
        first = int(b.r.integers(1, shape[1]))
        outs = [b.name(), b.name()]
        b.nodes.append(helper.make_node("Split", [name, b.ints(first, shape[1] - first)], outs,
                                        name=f"n{len(b.nodes)}", axis=1))
        b.values += [(o, (shape[0], d, *shape[2:])) for o, d in zip(outs, (first, shape[1] - first))]
    elif kind == "Gather" and shape[-1] > 0:
        at = b.r.integers(-shape[-1], shape[-1], int(b.pick([1, 2, 5])))
        b.node("Gather", [name, b.const(at.astype(np.int64))], (*shape[:-1], len(at)), axis=-1)
    elif kind == "Tile" and int(np.prod(shape)) < 2000:
        times = [int(b.pick([1, 1, 2])) for _ in shape]
        b.node("Tile", [name, b.ints(*times)], [d * t for d, t in zip(shape, times)])


def norm(b):
    name, shape = b.value()
    if 0 in shape:
        return
    kind = b.pick(["Softmax", "LayerNorm", "BatchNorm", "Reduce", "InstanceNorm", "LogSoftmax"])
    if kind == "Softmax":
        b.node("Softmax", [name], shape, axis=int(b.r.integers(-1, len(shape))))
    elif kind == "LogSoftmax":
        b.node("LogSoftmax", [name], shape, axis=-1)
    elif kind == "LayerNorm" and b.opset >= 17:
        b.node("LayerNormalization", [name, b.weight(shape[-1]), b.weight(shape[-1])], shape, axis=-1)
    elif kind == "BatchNorm" and len(shape) >= 3:
        c = shape[1]
        var = b.const(b.r.uniform(0.5, 2, c).astype(np.float32))
        b.node("BatchNormalization", [name, b.weight(c), b.weight(c), b.weight(c), var], shape)
    elif kind == "InstanceNorm" and len(shape) >= 3 and int(np.prod(shape[2:])) > 1:
        b.node("InstanceNormalization", [name, b.weight(shape[1]), b.weight(shape[1])], shape, epsilon=1e-2)
    elif kind == "Reduce" and len(shape) > 1:
        op = b.pick(["ReduceMean", "ReduceMax", "ReduceSum"])
        axes = sorted({int(b.r.integers(0, len(shape))) for _ in range(2)})
        keep = int(b.r.integers(0, 2))
        left = [1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes]
        if left:
            as_input = op == "ReduceSum" or b.opset >= 18
            inputs, attrs = ([name, b.ints(*axes)], {}) if as_input else ([name], {"axes": axes})
            b.node(op, inputs, left, keepdims=keep, **attrs)


def branch(b):
    """An If whose sides read a value around them, or a Loop that adds one a few times."""
    name, shape = b.value()
    if b.r.random() < 0.5:
        def side(op):
            out = f"{op}_{len(b.nodes)}"
            node = helper.make_node(op, [name, b.weight(*shape[-1:])], [out])
            return helper.make_graph([node], out, [], [helper.make_tensor_value_info(out, 1, shape)])
        total = b.node("ReduceMax", [name], (), keepdims=0) if 0 not in shape else None
        if total is None:
            return
        b.values.pop()
        cond, out = b.name(), b.name()
        b.nodes.append(helper.make_node("Greater", [total, b.const(np.float32(b.pick([-9, 0, 9])))], [cond]))
        b.nodes.append(helper.make_node("If", [cond], [out], name=f"n{len(b.nodes)}", then_branch=side("Mul"),
                                        else_branch=side("Add")))
        b.values.append((out, shape))
        return
    tag, info = str(len(b.nodes)), helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["held" + tag, name], ["sum" + tag]), helper.make_node("Tanh", ["sum" + tag], ["next" + tag]),
         helper.make_node("Identity", ["on" + tag], ["again" + tag])], "body" + tag,
        [info("i" + tag, TensorProto.INT64, []), info("on" + tag, TensorProto.BOOL, []), info("held" + tag, 1, shape)],
        [info("again" + tag, TensorProto.BOOL, []), info("next" + tag, 1, shape)])
    b.node("Loop", [b.const(np.int64(b.pick([1, 3]))), "", name], shape, body=body)


KINDS = [conv] * 5 + [matmul] * 4 + [binary] * 4 + [unary] * 4 + [move] * 4 + [pool] * 2 + [norm] * 2 + [branch]


def build(seed):
    b = Builder(seed)
    batch = int(b.pick([1, 1, 1, 2, 3]))
    shape = b.pick([
        (batch, int(b.pick([1, 2, 3, 4, 8])), int(b.pick([1, 2, 5, 8, 13])), int(b.pick([1, 3, 7, 9, 16]))),
        (batch, int(b.pick([1, 3, 8])), int(b.pick([1, 4, 17]))),
        (batch, int(b.pick([1, 5, 16, 31]))),
    ])
    b.values.append(("x", shape))
    for _ in range(int(b.r.integers(1, 9))):
        b.pick(KINDS)(b)
    used = {i for n in b.nodes for i in n.input}
    outputs = [v for v in b.values[1:] if v[0] not in used][-3:]
    if not outputs:
        return None
    info = helper.make_tensor_value_info
    graph = helper.make_graph(b.nodes, f"seed{seed}", [info("x", 1, shape)], [info(n, 1, s) for n, s in outputs], b.inits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=9)
    data = [b.r.standard_normal(shape).astype(np.float32) for _ in range(4)]
    return model, data, [n for n, _ in outputs]


def there(model, x):
    """The outputs of ONNX Runtime without its own rewrites, and without its saturating products."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": x})))


def far(name, got, want, part):
    """What is wrong with an output, if its largest difference is more than `part` of its range."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{name}: {got.dtype} {got.shape}, ONNX Runtime has {want.dtype} {want.shape}"
    if want.size == 0:
        return None
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return f"{name}: other values are not finite"
    finite = np.isfinite(want)
    if not finite.any():
        return None
    apart = np.abs(got[finite].astype(np.float64) - want[finite]).max()
    reach = max(np.abs(want[finite]).max(), 1e-3)
    return f"{name}: off by {apart:.3g}, {apart / reach:.2g} of its range" if apart > part * reach else None


def quantal(command, *args):
    done = subprocess.run([command, *args], capture_output=True, text=True, timeout=TIMEOUT)
    if any(word in done.stderr for word in PANIC) or done.returncode not in (0, 1):
        raise RuntimeError(f"`quantal {args[0]}` ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done


def one(seed, command, keep):
    made = build(seed)
    if made is None:
        return "empty", ""
    model, data, outputs = made
    folder = tempfile.mkdtemp(prefix="differential")
    try:
        kind, text = check(command, folder, model, data, outputs)
    except subprocess.TimeoutExpired as e:
        kind, text = "hang", str(e.cmd[:2])
    except RuntimeError as e:
        kind, text = "crash", str(e)
    if keep and kind not in ("ok", "passed over"):
        shutil.copytree(folder, os.path.join(keep, str(seed)), dirs_exist_ok=True)
    shutil.rmtree(folder)
    return kind, text


def check(command, folder, model, data, outputs):
    path = lambda name: os.path.join(folder, name)
    onnx.save(model, path("m.onnx"))
    os.mkdir(path("data"))
    for i, x in enumerate(data):
        np.savez(path(f"data/{i}.npz"), x=x)
    try:
        want = there(path("m.onnx"), data[0])
    except Exception as e:  # whatever ONNX Runtime raises
        return "passed over", str(e)[:100]
    done = quantal(command, "run", path("m.onnx"), "--input", path("data/0.npz"), "--output", path("out.npz"))
    if done.returncode:
        return "refused", done.stderr.strip()[:300]
    got = np.load(path("out.npz"))
    if sorted(got.files) != sorted(outputs):
        return "float", f"outputs are {got.files}"
    for name in outputs:
        if problem := far(name, got[name], want[name], 1e-4):
            return "float", problem
    quantal(command, "inspect", path("m.onnx"))
    done = quantal(command, "quantize", path("m.onnx"), "--data", path("data"), "--output", path("q.onnx"))
    if done.returncode:
        return "not quantized", done.stderr.strip()[:300]
    try:
        want = there(path("q.onnx"), data[0])
    except Exception as e:
        if any(word in str(e) for word in UNSUPPORTED):
            return "passed over", str(e)[:100]
        return "unloadable", str(e)[:300]
    done = quantal(command, "run", path("q.onnx"), "--input", path("data/0.npz"), "--output", path("qout.npz"))
    if done.returncode:
        return "int8 refused", done.stderr.strip()[:300]
    got = np.load(path("qout.npz"))
    for name in outputs:
        # Rounding at every step on the way; most outputs are equal.
        if problem := far(name, got[name], want[name], 0.06):
            return "int8", problem
    return "ok", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantal", required=True)
    parser.add_argument("--seeds", default="0:200", help="FROM:TO")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep", help="a folder for the models and data of seeds that fail")
    args = parser.parse_args()
    first, last = (int(n) for n in args.seeds.split(":"))
    counts, failed = {}, []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        seeds = range(first, last)
        for seed, (kind, text) in zip(seeds, pool.map(lambda s: one(s, args.quantal, args.keep), seeds)):
            counts[kind] = counts.get(kind, 0) + 1
            if kind not in ("ok", "empty", "passed over"):
                failed.append(seed)
                print(f"seed {seed}: {kind}: {text}", flush=True)
    print(f"seeds {args.seeds}: {counts}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
