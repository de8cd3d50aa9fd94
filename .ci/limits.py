#!/usr/bin/env python3
"""Models that ask for far more memory or time than they may have: `--max-memory` bounds the process, and loops and
folding end within 10 s.

   limits.py --quantal PATH [--only NAME]

Each case is a small file. It must end with exit 1 and a message, or, where there is a way, with exit 0; in either case
the peak of the process stays within the limit and a margin for the program itself, and nothing panics.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh

PANIC = re.compile(r"internal error|panicked|overflowed its stack|memory allocation of \d+ bytes failed")
# Runs a command from a small process: what a process held before it became the command counts for its peak.
LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.time()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10, time.time() - start]))
"""
# What the process takes besides the limit: code, stacks, the parsed file.
MARGIN_MIB = 100
SECONDS = 10


def value(name, shape, dtype=T.FLOAT):
    return h.make_tensor_value_info(name, dtype, shape)


def model(nodes, inputs, outputs, inits=(), opset=17):
    graph = h.make_graph(nodes, "g", inputs, outputs, list(inits))
    return h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=9)


def const(name, array, dtype=np.float32):
    return nh.from_array(np.array(array, dtype), name)


def shared_weight(_):
    """One weight of 4 MB that 600 MatMuls read: packed once, it fits."""
    nodes = [h.make_node("MatMul", [f"v{i}", "w"], [f"v{i + 1}"]) for i in range(600)]
    w = np.eye(1024, dtype=np.float32)
    return model(nodes, [value("v0", [1, 1024])], [value("v600", [1, 1024])], [nh.from_array(w, "w")]), {
        "v0": np.ones((1, 1024), np.float32)}


def shared_codes(_):
    """The same in INT8: 600 nodes, one DequantizeLinear of one weight."""
    q = lambda a, b: [h.make_node("QuantizeLinear", [a, "s", "z"], [b + "_q"]),
                      h.make_node("DequantizeLinear", [b + "_q", "s", "z"], [b])]
    nodes = [h.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"])] + q("x", "v0")
    for i in range(600):
        nodes += [h.make_node("MatMul", [f"v{i}", "w"], [f"m{i}"])] + q(f"m{i}", f"v{i + 1}")
    w = np.eye(2048, dtype=np.int8)
    inits = [const("s", 0.02), const("z", 128, np.uint8), nh.from_array(w, "wq"), const("ws", 1.0), const("wz", 0, np.int8)]
    return model(nodes, [value("x", [1, 2048])], [value("v600", [1, 2048])], inits), {"x": np.ones((1, 2048), np.float32)}


def own_weights(_):
    """60 weights of 4 MB: with their packed form more than the limit."""
    nodes = [h.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"]) for i in range(60)]
    inits = [nh.from_array(np.eye(1024, dtype=np.float32), f"w{i}") for i in range(60)]
    return model(nodes, [value("v0", [1, 1024])], [value("v60", [1, 1024])], inits), {"v0": np.ones((1, 1024), np.float32)}


def phases(stride):
    """A transposed convolution of 1x1 codes whose strides make stride^2 phases."""
    def make(_):
        nodes = [h.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]), h.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
                 h.make_node("DequantizeLinear", ["wq", "s", "wz"], ["w"]),
                 h.make_node("ConvTranspose", ["xd", "w"], ["y"], strides=[stride, stride])]
        inits = [const("s", 0.1), const("z", 0, np.uint8), const("wz", 0, np.int8),
                 nh.from_array(np.ones((1, 1, 1, 1), np.int8), "wq")]
        return model(nodes, [value("x", [1, 1, 1, 1])], [value("y", [1, 1, None, None])], inits), {
            "x": np.ones((1, 1, 1, 1), np.float32)}
    return make


def external(folder):
    """3 GB of external data, sparse on disk, as one weight."""
    with open(os.path.join(folder, "w.bin"), "wb") as f:
        f.truncate(3 << 30)
    w = onnx.TensorProto(name="w", data_type=T.FLOAT, dims=[1 << 15, 24576], data_location=T.EXTERNAL)
    for key, text in (("location", "w.bin"), ("offset", "0"), ("length", str(3 << 30))):
        w.external_data.add(key=key, value=text)
    return model([h.make_node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 1 << 15])], [value("y", [1, 24576])], [w]), {
        "x": np.ones((1, 1 << 15), np.float32)}


def loops(depth):
    """Loops without an end, one in the other, that do next to nothing."""
    def make(_):
        def body(level):
            nodes = []
            if level:
                nodes.append(h.make_node("Loop", ["many", "", f"v{level}"], [f"w{level}"], body=body(level - 1)))
            else:
                nodes.append(h.make_node("Add", [f"v{level}", "one"], [f"w{level}"]))
            nodes.append(h.make_node("Identity", [f"c{level}"], [f"k{level}"]))
            return h.make_graph(nodes, f"b{level}", [value(f"i{level}", [], T.INT64), value(f"c{level}", [], T.BOOL), value(f"v{level}", [])],
                                [value(f"k{level}", [], T.BOOL), value(f"w{level}", [])])
        return model([h.make_node("Loop", ["many", "", "x"], ["y"], body=body(depth - 1))], [value("x", [])], [value("y", [])],
                     [const("many", 999_999, np.int64), const("one", 1)]), {"x": np.float32(0)}
    return make


def body_loop(nodes, inits, shape=None):
    """A Loop that carries `v` to `w`."""
    body = h.make_graph(nodes + [h.make_node("Identity", ["c"], ["k"])], "b",
                        [value("i", [], T.INT64), value("c", [], T.BOOL), value("v", shape)], [value("k", [], T.BOOL), value("w", shape)])
    return model([h.make_node("Loop", ["many", "", "x"], ["y"], body=body)], [value("x", [1024])], [value("y", shape)],
                 [const("many", 999_999, np.int64), *inits]), {"x": np.ones(1024, np.float32)}


def doubling(_):
    return body_loop([h.make_node("Concat", ["v", "v"], ["w"], axis=0)], [])


def wide_turns(_):
    """Each turn makes 64 MB and gives one number back."""
    return body_loop([h.make_node("Expand", ["v", "to"], ["e"]), h.make_node("ReduceMax", ["e"], ["w"], axes=[0], keepdims=0)],
                     [const("to", [1 << 14, 1024], np.int64)])


def scanning(_):
    body = h.make_graph([h.make_node("Identity", ["c"], ["k"]), h.make_node("Identity", ["big"], ["s"])], "b",
                        [value("i", [], T.INT64), value("c", [], T.BOOL)], [value("k", [], T.BOOL), value("s", [1 << 20])])
    return model([h.make_node("Loop", ["many", ""], ["y"], body=body)], [value("x", [1])], [value("y", None), value("x", [1])],
                 [const("many", 999_999, np.int64), const("big", np.ones(1 << 20))]), {"x": np.ones(1, np.float32)}


def folding(_):
    """300 products of constants, 2^30 multiply-accumulates each."""
    nodes = [h.make_node("MatMul", [f"a{i}", "w"], [f"a{i + 1}"]) for i in range(300)]
    nodes.append(h.make_node("ReduceSum", ["a300"], ["r"], keepdims=0))
    nodes.append(h.make_node("Add", ["x", "r"], ["y"]))
    w = np.eye(1024, dtype=np.float32)
    return model(nodes, [value("x", [1])], [value("y", [1])], [nh.from_array(w, "w"), nh.from_array(w, "a0")]), {
        "x": np.ones(1, np.float32)}


def growing_constants(_):
    """A constant that doubles from node to node, to 32 GB."""
    nodes = [h.make_node("Concat", [f"a{i}", f"a{i}"], [f"a{i + 1}"], axis=0) for i in range(23)]
    nodes += [h.make_node("ReduceSum", ["a23"], ["r"], keepdims=0), h.make_node("Add", ["x", "r"], ["y"])]
    return model(nodes, [value("x", [1])], [value("y", [1])], [const("a0", np.ones(1024))]), {"x": np.ones(1, np.float32)}


def long_rows(_):
    """GPTQ of a product with K of 20,000: its second moment alone is 1.6 GB."""
    w = np.random.default_rng(1).standard_normal((20_000, 2)).astype(np.float32)
    return model([h.make_node("MatMul", ["x", "w"], ["y"])], [value("x", [1, 20_000])], [value("y", [1, 2])], [nh.from_array(w, "w")]), {
        "x": np.random.default_rng(2).standard_normal((1, 20_000)).astype(np.float32)}


# Name, model, verb, limit in MiB, and whether it must end well, must be refused, or may do either (None).
CASES = [
    ("shared_weight", shared_weight, "run", 100, True),
    ("shared_codes", shared_codes, "run", 100, True),
    ("own_weights", own_weights, "run", 400, False),
    ("phases_64", phases(64), "run", 100, True),
    ("phases_4000", phases(4000), "run", 200, True),
    ("external", external, "run", 500, False),
    ("external_inspect", external, "inspect", 500, None),
    ("loops_2", loops(2), "run", 200, False),
    ("loops_3", loops(3), "run", 200, False),
    ("doubling", doubling, "run", 4000, False),
    ("wide_turns", wide_turns, "run", 300, False),
    ("scanning", scanning, "run", 500, False),
    ("folding", folding, "inspect", 500, None),
    ("growing_constants", growing_constants, "run", 500, False),
    ("growing_constants_inspect", growing_constants, "inspect", 500, None),
    ("long_rows", long_rows, "gptq", 500, False),
]


def run(quantal, case):
    name, make, verb, limit, wanted = case
    with tempfile.TemporaryDirectory() as folder:
        path = lambda file: os.path.join(folder, file)
        made, feeds = make(folder)
        onnx.save(made, path("m.onnx"))
        np.savez(path("in.npz"), **feeds)
        command = [quantal, verb, path("m.onnx"), "--max-memory", str(limit)]
        if verb == "run":
            command += ["--input", path("in.npz"), "--output", path("out.npz")]
        elif verb == "gptq":
            with open(path("r.toml"), "w") as f:
                f.write('[weights]\nrounding = "gptq"\n')
            command[1] = "quantize"
            command += ["--data", path("in.npz"), "--output", path("q.onnx"), "--recipe", path("r.toml")]
        elif verb == "inspect":
            command += ["--coverage"]
        del made, feeds
        done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True, errors="replace")
        err, (code, mib, seconds) = done.stderr, json.loads(done.stdout.splitlines()[-1])
    problems = []
    if PANIC.search(err) or code not in (0, 1):
        problems.append(f"ended with {code}")
    elif wanted is not None and (code == 0) != wanted:
        problems.append("refused" if wanted else "not refused")
    if mib > limit + MARGIN_MIB:
        problems.append("over the limit")
    if seconds > SECONDS:
        problems.append("too slow")
    first = err.strip().splitlines()[0][:150] if err.strip() else ""
    print(f"{name:26} {'FAIL: ' + ', '.join(problems) if problems else 'ok':10} exit {code}, {mib} of {limit} MiB, {seconds:.1f} s  {first}",
          flush=True)
    return not problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantal", required=True)
    parser.add_argument("--only")
    args = parser.parse_args()
    done = [run(args.quantal, case) for case in CASES if args.only in (None, case[0])]
    print(f"{sum(done)} of {len(done)} limits hold")
    sys.exit(0 if done and all(done) else 1)


main()
