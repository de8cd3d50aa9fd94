#!/usr/bin/env python3
"""Writes the models in fuzz/seeds/onnx: one small model for each kind of graph, from which fuzzing starts where the
conformance cases are not at hand. Run it again, and commit the files, when a kind is added."""
import os
import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fuzz", "seeds", "onnx")
RNG = np.random.default_rng(1)


def f32(name, *shape):
    return nh.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def const(name, values, dtype):
    return nh.from_array(np.array(values, dtype), name)


def value(name, dtype, *shape):
    return h.make_tensor_value_info(name, dtype, list(shape))


def save(name, nodes, inputs, outputs, inits=(), opset=17, functions=()):
    graph = h.make_graph(nodes, name, inputs, outputs, list(inits))
    opsets = [h.make_opsetid("", opset)] + ([h.make_opsetid("own", 1)] if functions else [])
    model = h.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, os.path.join(HERE, name + ".onnx"))


def qdq(name, of, scale, zero, dtype=np.uint8):
    return ([h.make_node("QuantizeLinear", [of, name + "_s", name + "_z"], [name + "_q"]),
             h.make_node("DequantizeLinear", [name + "_q", name + "_s", name + "_z"], [name])],
            [const(name + "_s", scale, np.float32), const(name + "_z", zero, dtype)])


def main():
    os.makedirs(HERE, exist_ok=True)
    X = value("x", T.FLOAT, "n", 4, 6, 5)
    save("conv", [h.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 1]),
                  h.make_node("Relu", ["c"], ["r"]), h.make_node("GlobalAveragePool", ["r"], ["g"]),
                  h.make_node("Flatten", ["g"], ["f"]), h.make_node("Gemm", ["f", "m", "v"], ["y"], transB=1),
                  ], [X], [value("y", T.FLOAT, "n", 3)],
         [f32("w", 8, 4, 3, 3), f32("b", 8), f32("m", 3, 8), f32("v", 3)])
    nodes, inits = [], []
    for part in (qdq("xd", "x", 0.02, 128), qdq("cd", "c", 0.05, 0), qdq("td", "t", 0.1, 7)):
        nodes.append(part[0]), inits.extend(part[1])
    codes = RNG.integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    save("qdq", nodes[0] + [h.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
                            h.make_node("Conv", ["xd", "wd", "b"], ["c0"], group=1),
                            h.make_node("Relu", ["c0"], ["c"])] + nodes[1] +
         [h.make_node("ConvTranspose", ["cd", "ud"], ["t"], strides=[2, 3]),
          h.make_node("DequantizeLinear", ["uq", "us", "uz"], ["ud"])][::-1] + nodes[2] +
         [h.make_node("MaxPool", ["td"], ["y"], kernel_shape=[2, 2])], [X], [value("y", T.FLOAT, "n", 2, None, None)],
         inits + [nh.from_array(codes, "wq"), nh.from_array(np.full(8, 0.01, np.float32), "ws"),
                  nh.from_array(np.zeros(8, np.int8), "wz"),
                  nh.from_array(codes.reshape(8, 2, 3, 6)[:, :, :, :3].copy(), "uq"), const("us", 0.02, np.float32),
                  const("uz", 0, np.int8), f32("b", 8)])
    body = h.make_graph([h.make_node("Add", ["v", "step"], ["w"]), h.make_node("Less", ["w", "limit"], ["again"]),
                         h.make_node("Identity", ["w"], ["s"])], "body",
                        [value("i", T.INT64), value("on", T.BOOL), value("v", T.FLOAT, 1)],
                        [value("again", T.BOOL, 1), value("w", T.FLOAT, 1), value("s", T.FLOAT, 1)])
    save("loop", [h.make_node("Loop", ["m", "", "x"], ["y", "scan"], body=body)], [value("x", T.FLOAT, 1)],
         [value("y", T.FLOAT, 1), value("scan", T.FLOAT, None, 1)],
         [const("m", 5, np.int64), const("step", [1], np.float32), const("limit", [9], np.float32)])
    side = lambda op: h.make_graph([h.make_node(op, ["x", "k"], ["o"])], op, [], [value("o", T.FLOAT, 2, 3)])
    save("if", [h.make_node("ReduceSum", ["x"], ["sum"], keepdims=0), h.make_node("Greater", ["sum", "zero"], ["c"]),
                h.make_node("If", ["c"], ["y"], then_branch=side("Mul"), else_branch=side("Sub"))],
         [value("x", T.FLOAT, 2, 3)], [value("y", T.FLOAT, 2, 3)], [const("zero", 0, np.float32), f32("k", 3)])
    save("lstm", [h.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], hidden_size=3)],
         [value("x", T.FLOAT, 4, "n", 2)], [value("y", T.FLOAT, 4, 1, "n", 3)],
         [f32("w", 1, 12, 2), f32("r", 1, 12, 3), f32("b", 1, 24)])
    save("attention", [h.make_node("MatMul", ["x", "wq"], ["q"]), h.make_node("MatMul", ["x", "wk"], ["k"]),
                       h.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]), h.make_node("MatMul", ["q", "kt"], ["s"]),
                       h.make_node("Softmax", ["s"], ["p"], axis=-1), h.make_node("MatMul", ["p", "q"], ["o"]),
                       h.make_node("LayerNormalization", ["o", "g", "b"], ["y"])], [value("x", T.FLOAT, "n", 5, 8)],
         [value("y", T.FLOAT, "n", 5, 8)], [f32("wq", 8, 8), f32("wk", 8, 8), f32("g", 8), f32("b", 8)])
    save("shapes", [h.make_node("Shape", ["x"], ["s"]), h.make_node("Gather", ["s", "zero"], ["n"]),
                    h.make_node("Concat", ["n", "rest"], ["to"], axis=0), h.make_node("Reshape", ["x", "to"], ["r"]),
                    h.make_node("Slice", ["r", "from", "until", "axis"], ["c"]),
                    h.make_node("Pad", ["c", "pads"], ["p"]), h.make_node("Expand", ["p", "wide"], ["e"]),
                    h.make_node("Resize", ["e", "", "scales"], ["z"], mode="linear"),
                    h.make_node("TopK", ["z", "two"], ["y", "at"]), h.make_node("Tile", ["y", "times"], ["t"]),
                    h.make_node("ConstantOfShape", ["wide"], ["zeros"]), h.make_node("Range", ["a0", "a5", "a1"], ["seq"])],
         [value("x", T.FLOAT, "n", 4, 6)], [value(v, d, *[None] * r) for v, d, r in (
             ("t", T.FLOAT, 3), ("at", T.INT64, 3), ("zeros", T.FLOAT, 3), ("seq", T.INT64, 1))],
         [const("zero", [0], np.int64), const("rest", [-1, 3], np.int64), const("from", [1], np.int64),
          const("until", [-1], np.int64), const("axis", [1], np.int64), const("pads", [0, 1, 0, 0, 0, 1], np.int64),
          const("wide", [2, 1, 1], np.int64), const("scales", [1, 1, 2], np.float32), const("two", [2], np.int64),
          const("times", [1, 2, 1], np.int64), const("a0", 0, np.int64), const("a5", 5, np.int64), const("a1", 1, np.int64)])
    f = h.make_function("own", "Swish", ["a"], ["b"], [h.make_node("Sigmoid", ["a"], ["s"]),
                                                      h.make_node("Mul", ["a", "s"], ["b"])], [h.make_opsetid("", 17)])
    save("function", [h.make_node("Swish", ["x"], ["t"], domain="own"), h.make_node("Swish", ["t"], ["y"], domain="own")],
         [value("x", T.FLOAT, 3, 4)], [value("y", T.FLOAT, 3, 4)], functions=[f])
    save("einsum", [h.make_node("Einsum", ["x", "w"], ["e"], equation="bij,jk->bik"),
                    h.make_node("Split", ["e", "parts"], ["a", "b"], axis=2), h.make_node("Max", ["a", "b"], ["m"]),
                    h.make_node("ReduceMean", ["m"], ["r"], axes=[1], keepdims=0), h.make_node("Cast", ["r"], ["i"], to=T.INT32),
                    h.make_node("OneHot", ["i", "depth", "onoff"], ["y"])], [value("x", T.FLOAT, "n", 3, 4)],
         [value("y", T.FLOAT, "n", 3, 5)], [f32("w", 4, 6), const("parts", [3, 3], np.int64), const("depth", 5, np.int64),
                                            const("onoff", [0, 1], np.float32)])


main()
