"""The networks that are timed: real architectures with random weights of a fixed seed, so that nothing is downloaded.

Graphs are as PyTorch exports them for inference at opset 17: batch norm folded into convolutions, GELU by Erf, SiLU as
x * Sigmoid(x), attention as Reshape, Transpose and MatMul. Images are [N, 3, 224, 224] float32; BERT takes input_ids and
attention_mask, [N, 128] int64. Fan-in scaled weights and a damped residual branch keep activations of order one through
any depth, so that calibration sees ranges as a trained network has them.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 1000
TOKENS, VOCABULARY = 128, 30522


class Builder:
    """A graph that grows node by node; values are their names."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}

    def hold(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def ints(self, *values):
        return self.hold(np.array(values, np.int64))

    def number(self, value):
        return self.hold(np.array(value, np.float32))

    def gaussian(self, *shape, spread):
        return self.hold(self.random.normal(0.0, spread, shape).astype(np.float32))

    def __call__(self, op, *inputs, **attributes):
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def convolve(self, x, channels, out, kernel, stride=1, groups=1, pad=None, gain=2.0):
        fan_in = channels // groups * kernel * kernel
        weight = self.gaussian(out, channels // groups, kernel, kernel, spread=math.sqrt(gain / fan_in))
        pads = [kernel // 2 if pad is None else pad] * 4
        return self("Conv", x, weight, self.gaussian(out, spread=0.05), kernel_shape=[kernel] * 2, strides=[stride] * 2,
                    pads=pads, dilations=[1, 1], group=groups)

    def dense(self, x, inputs, outputs):
        product = self("MatMul", x, self.gaussian(inputs, outputs, spread=0.02))
        return self("Add", product, self.gaussian(outputs, spread=0.02))

    def normalize(self, x, width, epsilon):
        scale = self.hold(self.random.normal(1.0, 0.1, width).astype(np.float32))
        return self("LayerNormalization", x, scale, self.gaussian(width, spread=0.1), axis=-1, epsilon=epsilon)

    def relu6(self, x):
        return self("Clip", x, self.number(0), self.number(6))

    def silu(self, x):
        return self("Mul", x, self("Sigmoid", x))

    def gelu(self, x):
        bent = self("Add", self("Erf", self("Div", x, self.number(math.sqrt(2)))), self.number(1))
        return self("Mul", self("Mul", x, bent), self.number(0.5))

    def classify(self, x, channels, classes=CLASSES):
        weight = self.gaussian(classes, channels, spread=0.05)
        return self("Gemm", x, weight, self.gaussian(classes, spread=0.05), transB=1)

    def pooled_classes(self, x, channels):
        return self.classify(self("Flatten", self("GlobalAveragePool", x), axis=1), channels)

    def block(self, x, width, heads, tokens, normed_first, epsilon, mask=None):
        """One transformer block, its norms before (ViT) or after (BERT) each half."""
        for half in (lambda v: self.attend(v, width, heads, tokens, mask), lambda v: self.mlp(v, width)):
            if normed_first:
                x = self("Add", x, half(self.normalize(x, width, epsilon)))
            else:
                x = self.normalize(self("Add", x, half(x)), width, epsilon)
        return x

    def attend(self, x, width, heads, tokens, mask):
        each = width // heads
        split = self.ints(0, tokens, heads, each)

        def heads_of(order):
            return self("Transpose", self("Reshape", self.dense(x, width, width), split), perm=order)

        query, key, value = heads_of([0, 2, 1, 3]), heads_of([0, 2, 3, 1]), heads_of([0, 2, 1, 3])
        scores = self("Div", self("MatMul", query, key), self.number(math.sqrt(each)))
        if mask:
            scores = self("Add", scores, mask)
        mixed = self("Transpose", self("MatMul", self("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
        return self.dense(self("Reshape", mixed, self.ints(0, tokens, width)), width, width)

    def mlp(self, x, width):
        return self.dense(self.gelu(self.dense(x, width, 4 * width)), 4 * width, width)

    def model(self, name, inputs, result, shape):
        output = helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, name, inputs, [output], list(self.constants.values()))
        opset = [helper.make_opsetid("", 17)]
        made = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="quantal-bench")
        return onnx.shape_inference.infer_shapes(made)


def images(batch):
    return [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 224, 224])]


def resnet(name, batch, blocks, bottleneck):
    g = Builder(len(name) + sum(blocks))
    x = g("Relu", g.convolve("input", 3, 64, 7, 2))
    x, channels = g("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        out = 4 * width if bottleneck else width
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            if bottleneck:
                y = g("Relu", g.convolve(x, channels, width, 1))
                y = g("Relu", g.convolve(y, width, width, 3, stride))
                y = g.convolve(y, width, out, 1, gain=0.5)
            else:
                y = g("Relu", g.convolve(x, channels, width, 3, stride))
                y = g.convolve(y, width, out, 3, gain=0.5)
            if channels != out or stride != 1:
                x = g.convolve(x, channels, out, 1, stride, gain=1.0)
            x, channels = g("Relu", g("Add", y, x)), out
    return g.model(name, images(batch), g.pooled_classes(x, channels), [batch, CLASSES])


# Expansion, channels, repeats, first stride, kernel.
MOBILENETV2 = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
               (6, 320, 1, 1, 3)]
EFFICIENTNET_B0 = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
                   (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)]


def inverted_residuals(name, batch, stages, squeeze):
    """MobileNetV2, or with squeeze-excite and SiLU EfficientNet."""
    g = Builder(len(name))
    bend = g.silu if squeeze else g.relu6
    x, channels = bend(g.convolve("input", 3, 32, 3, 2)), 32
    for expansion, out, repeats, first_stride, kernel in stages:
        for i in range(repeats):
            stride, wide = (first_stride if i == 0 else 1), channels * expansion
            y = x if expansion == 1 else bend(g.convolve(x, channels, wide, 1))
            y = bend(g.convolve(y, wide, wide, kernel, stride, groups=wide))
            if squeeze:
                few = max(1, channels // 4)
                gate = g.silu(g.convolve(g("GlobalAveragePool", y), wide, few, 1))
                y = g("Mul", y, g("Sigmoid", g.convolve(gate, few, wide, 1)))
            y = g.convolve(y, wide, out, 1, gain=1.0)
            x = g("Add", x, y) if stride == 1 and channels == out else y
            channels = out
    x = bend(g.convolve(x, channels, 1280, 1))
    return g.model(name, images(batch), g.pooled_classes(x, 1280), [batch, CLASSES])


def vit(name, batch, width=768, layers=12, heads=12, patch=16):
    g = Builder(len(name))
    patches = (224 // patch) ** 2
    x = g.convolve("input", 3, width, patch, patch, pad=0, gain=1.0)
    x = g("Transpose", g("Reshape", x, g.ints(0, width, patches)), perm=[0, 2, 1])
    first = g.hold(np.repeat(g.random.normal(0, 0.02, (1, 1, width)).astype(np.float32), batch, axis=0))
    x = g("Add", g("Concat", first, x, axis=1), g.gaussian(1, patches + 1, width, spread=0.02))
    for _ in range(layers):
        x = g.block(x, width, heads, patches + 1, True, 1e-6)
    x = g("Gather", g.normalize(x, width, 1e-6), g.hold(np.array(0, np.int64)), axis=1)
    return g.model(name, images(batch), g.classify(x, width), [batch, CLASSES])


def bert(name, batch, width=768, layers=12, heads=12):
    g = Builder(len(name))
    words = g("Gather", g.gaussian(VOCABULARY, width, spread=0.02), "input_ids")
    x = g.normalize(g("Add", words, g.gaussian(1, TOKENS, width, spread=0.02)), width, 1e-12)
    given = g("Cast", g("Unsqueeze", "attention_mask", g.ints(1, 2)), to=TensorProto.FLOAT)
    mask = g("Mul", g("Sub", g.number(1), given), g.number(np.finfo(np.float32).min))
    for _ in range(layers):
        x = g.block(x, width, heads, TOKENS, False, 1e-12, mask)
    x = g("Gather", x, g.hold(np.array(0, np.int64)), axis=1)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [batch, TOKENS]) for n in ("input_ids", "attention_mask")]
    return g.model(name, inputs, g.classify(x, width, 2), [batch, 2])


NETWORKS = {
    "resnet50": lambda batch: resnet("resnet50", batch, [3, 4, 6, 3], True),
    "resnet18": lambda batch: resnet("resnet18", batch, [2, 2, 2, 2], False),
    "mobilenetv2": lambda batch: inverted_residuals("mobilenetv2", batch, MOBILENETV2, False),
    "efficientnet_b0": lambda batch: inverted_residuals("efficientnet_b0", batch, EFFICIENTNET_B0, True),
    "vit_b16": lambda batch: vit("vit_b16", batch),
    "bert_base": lambda batch: bert("bert_base", batch),
}
