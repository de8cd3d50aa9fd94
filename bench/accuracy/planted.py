"""Faults planted into good models, and what the algorithm for each gives back. The float function stays the same.

$ python planted.py --quantal EXE --assets ASSETS --sentences FOLDER --work WORK

- channels of mobilenetv2_deq (Clip made Relu, or factors could not pass) rescaled by powers of two from 1/64 to 64
  between its convolutions, one scale for each weight tensor, nothing kept in float: equalization (Nagel 2019);
- four channels behind each norm of minilm_sst2 64 times larger: SmoothQuant (Xiao 2022);
- 4-bit weights of cifar10_resnet20 and mobilenetv2_deq: GPTQ (Frantar 2022) against rounding to the nearest.

`--sentences` holds `minilm_sst2.onnx` and its `tokenizer.json`.
"""

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Weights:
    """The initializers of a model, to be scaled along an axis."""

    def __init__(self, model):
        self.graph = model.graph
        self.at = {t.name: i for i, t in enumerate(model.graph.initializer)}

    def scale(self, name, axis, factors):
        tensor = self.graph.initializer[self.at[name]]
        values = numpy_helper.to_array(tensor)
        shape = [1] * values.ndim
        shape[axis] = len(factors)
        values = (values * factors.reshape(shape)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, name))


def rescaled_mobilenet(model):
    """Channels of each value between two convolutions, larger or smaller by up to 64; gives the number of values."""
    weights, rng, values = Weights(model), np.random.default_rng(1), 0
    for node in model.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:]
    made = {output: node for node in model.graph.node for output in node.output}
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for relu in [n for n in model.graph.node if n.op_type == "Relu"]:
        before, after = made[relu.input[0]], readers[relu.output[0]]
        if before.op_type != "Conv" or len(after) != 1 or after[0].op_type != "Conv":
            continue
        channels = weights.graph.initializer[weights.at[before.input[1]]].dims[0]
        factors = np.exp2(rng.integers(-6, 7, channels)).astype(np.float32)
        weights.scale(before.input[1], 0, factors)
        weights.scale(before.input[2], 0, factors)
        depthwise = weights.graph.initializer[weights.at[after[0].input[1]]].dims[1] == 1
        weights.scale(after[0].input[1], 0 if depthwise else 1, 1 / factors)
        values += 1
    return values


def outliers_behind_norms(model):
    """Four channels of each norm 64 times larger; products take that back in their rows, sums by a Mul; gives the number."""
    weights, rng, norms = Weights(model), np.random.default_rng(2), 0
    for norm in [n for n in model.graph.node if n.op_type == "LayerNormalization"]:
        readers = [n for n in model.graph.node if norm.output[0] in n.input]
        products = [n for n in readers if n.op_type == "MatMul" and n.input[1] in weights.at]
        if not products:
            continue
        channels = weights.graph.initializer[weights.at[norm.input[1]]].dims[0]
        factors = np.ones(channels, np.float32)
        factors[rng.choice(channels, 4, replace=False)] = 64
        for name in norm.input[1:]:
            weights.scale(name, 0, factors)
        for name in {n.input[1] for n in products}:
            weights.scale(name, 0, 1 / factors)
        others = [n for n in readers if n not in products]
        if others:
            back, small = f"{norm.output[0]}_back", f"{norm.output[0]}_small"
            model.graph.initializer.append(numpy_helper.from_array(1 / factors, back))
            at = next(i for i, n in enumerate(model.graph.node) if n.output and n.output[0] == norm.output[0])
            model.graph.node.insert(at + 1, helper.make_node("Mul", [norm.output[0], back], [small]))
            for node in others:
                node.input[:] = [small if name == norm.output[0] else name for name in node.input]
        norms += 1
    return norms


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--quantal", "--assets", "--sentences", "--work"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    def quantized(model, kind, recipe, data):
        toml, out = args.work / "recipe.toml", args.work / "out.onnx"
        toml.write_text(recipe)
        folder = args.assets / "data" / kind
        calibration, evaluation = (folder / part for part in ("calibration", "evaluation"))
        if kind == "sst2":
            more = ["--data", f"{calibration}.tsv", "--eval", f"{evaluation}.tsv"]
            more += ["--tokenizer", args.sentences / "tokenizer.json"]
        else:
            more = ["--data", calibration / "images", "--eval", evaluation / "images", "--preprocess", data]
            more += ["--labels", evaluation / "labels.csv"]
        command = [args.quantal, "quantize", model, "--recipe", toml, "-o", out, "--json", *more]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def row(title, result):
        before, after = (100 * part["top1"] for part in result["accuracy"])
        print(f"{title:44} top-1 {before:6.2f} -> {after:6.2f}  {result['output_sqnr_db']:5.1f} dB", flush=True)

    models = args.assets / "models"
    planted = args.work / "planted.onnx"
    model = onnx.load(models / "mobilenetv2_deq/mobilenetv2_deq.onnx")
    print(f"mobilenetv2_deq, {rescaled_mobilenet(model)} values rescaled, one scale a weight tensor")
    onnx.save(model, planted)
    one = '[weights]\ngranularity = "per_tensor"\n[activations]\nmin_channel_sqnr_db = 0\n'
    for title, recipe in [("as it is", one), ("equalization", f"equalization = true\n{one}")]:
        row(f"  {title}", quantized(planted, "imagenet", recipe, "imagenet"))

    model = onnx.load(args.sentences / "minilm_sst2.onnx")
    print(f"minilm_sst2, 4 channels x 64 behind {outliers_behind_norms(model)} norms")
    onnx.save(model, planted)
    for title, guard in [("", ""), (", no norm kept in float", "[activations]\nmin_norm_sqnr_db = 0\n")]:
        for name, recipe in [("as it is", guard), ("smooth_quant", f"smooth_quant = true\n{guard}")]:
            row(f"  {name}{title}", quantized(planted, "sst2", recipe, None))

    print("4-bit weights")
    for name, kind in [("cifar10_resnet20", "cifar10"), ("mobilenetv2_deq", "imagenet")]:
        for rounding in ("nearest", "gptq"):
            recipe = f'[weights]\nqmin = -7\nqmax = 7\nrounding = "{rounding}"\n'
            row(f"  {name}, {rounding}", quantized(models / name / f"{name}.onnx", kind, recipe, kind))


if __name__ == "__main__":
    main()
