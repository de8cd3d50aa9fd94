"""The contestants: each makes an INT8 model of a task from chosen calibration samples, and gives a way to run it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
import torch_x86  # noqa: E402, for both benches

# Quantal's recipes; each is evaluated in its own runtime, and the file it wrote in ONNX Runtime too.
QUANTAL = ("quantal_balanced", "quantal_fast", "quantal_best")
ORT_METHODS = ("MinMax", "Percentile", "Entropy")
PEERS = ("ort_default", "ort_minmax", "nncf", "nncf_mixed", "ort_percentile", "torch", "ort_entropy")
# What rows need besides ONNX Runtime.
NEEDS = {"nncf": ("nncf", "openvino"), "nncf_mixed": ("nncf", "openvino"), "torch": ("torch", "onnx2torch")}
# Rows of which seed 0 tells most: no contestant's best.
LATE = ("ort_default", "ort_entropy")
# Who competes as one: of each of these the best on a model counts.
FAMILIES = {"ONNX Runtime": ("ort_minmax", "ort_percentile", "ort_entropy"), "NNCF": ("nncf", "nncf_mixed"), "torch": ("torch",)}


def installed(contestant):
    return all(importlib.util.find_spec(package) for package in NEEDS.get(contestant, ()))


def run_ort(path, threads):
    """ONNX Runtime with kernels that cannot saturate, so that the numbers of the file count and not the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)[0]


# ---- ONNX Runtime


def make_ort(task, samples, scratch, method=None):
    """`quantize_static`: with a scale for each channel of s8 weights and u8 activations, or as it comes (`None`)."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(q.CalibrationDataReader):
        def __init__(self):
            self.rest = iter(samples)

        def get_next(self):
            return next(self.rest, None)

    prepared, made = scratch / "prepared.onnx", scratch / "ort.onnx"
    quant_pre_process(str(task.model), str(prepared), skip_symbolic_shape=True)
    options = {}
    if method:
        options = dict(quant_format=q.QuantFormat.QDQ, per_channel=True, activation_type=q.QuantType.QUInt8,
                       weight_type=q.QuantType.QInt8, calibrate_method=q.CalibrationMethod[method])
    q.quantize_static(str(prepared), str(made), Samples(), **options)
    return made


class Remade:
    """A task whose model was rewritten so that a quantizer that failed gets a second chance."""

    def __init__(self, task, model):
        self.model, self.is_text = model, task.is_text


def second_chance(task, samples, scratch):
    """What a patient user would try: a newer opset (scales for channels need 13), or samples of one length.
    `(task, samples, what was done)`, or None if there is nothing to try."""
    import onnx
    from onnx import version_converter

    network = onnx.load(task.model)
    if network.opset_import[0].version < 13:
        path = scratch / "newer.onnx"
        onnx.save(version_converter.convert_version(network, 17), path)
        return Remade(task, path), samples, "after conversion to opset 17"
    lengths = {next(iter(s.values())).shape for s in samples}
    if len(lengths) > 1:
        longest = max(shape[1] for shape in lengths)
        fill = lambda x: np.pad(x, ((0, 0), (0, longest - x.shape[1])))
        return task, [{k: fill(v) for k, v in s.items()} for s in samples], "calibrated on padded sentences"
    return None


def ort(task, samples, scratch, threads, method=None):
    """`(run, note)`. Loading the made model is part of making it: some do not load."""
    try:
        return run_ort(make_ort(task, samples, scratch, method), threads), ""
    except Exception as problem:
        again = second_chance(task, samples, scratch) if method else None
        if again is None:
            raise
        task, samples, note = again
        return run_ort(make_ort(task, samples, scratch, method), threads), f"{note}; before: {one_line(problem)}"


# ---- OpenVINO


def nncf(task, samples, scratch, threads, mixed=False):
    """`nncf.quantize` with its defaults (FastBiasCorrection among them), or the MIXED preset; run by OpenVINO."""
    import nncf as tool
    import openvino

    kind = tool.ModelType.TRANSFORMER if task.is_text else None
    preset = tool.QuantizationPreset.MIXED if mixed else None
    network = openvino.Core().read_model(str(task.model))
    made = tool.quantize(network, tool.Dataset(samples), subset_size=len(samples), model_type=kind, preset=preset,
                         fast_bias_correction=True)
    # Without the hint, bf16 would stand in for f32 where the CPU has it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    request = openvino.Core().compile_model(made, "CPU", settings).create_infer_request()
    return lambda feeds: next(iter(request.infer(feeds).values())), ""


# ---- torch


def torch(task, samples, threads):
    """The x86 configuration in FX graph mode, on the module that the file is converted to, if that is the same network."""
    import torch as tool

    tool.set_num_threads(threads)
    tensors = lambda feeds: tuple(map(tool.from_numpy, feeds.values()))
    network = torch_x86.load(task.model)
    reference = run_ort(task.model, threads)
    with tool.no_grad():
        for feeds in samples[:4]:
            expected = reference(feeds)
            error = np.abs(network(*tensors(feeds)).numpy() - expected).max() / np.abs(expected).max()
            # Sums in another order differ by less, by two digits.
            if not error < 1e-4:
                raise RuntimeError(f"the converted module is another network: outputs differ by {error:.1e} of the largest")
    made = torch_x86.quantize(network, [tensors(feeds) for feeds in samples])

    def run(feeds):
        with tool.no_grad():
            return made(*tensors(feeds)).numpy()

    return run, ""


def peer(name, task, samples, scratch, threads):
    """`(run, note)` of a peer by its name in `PEERS`."""
    if name.startswith("nncf"):
        return nncf(task, samples, scratch, threads, mixed=name == "nncf_mixed")
    if name == "torch":
        return torch(task, samples, threads)
    methods = {"ort_" + m.lower(): m for m in ORT_METHODS}
    return ort(task, samples, scratch, threads, methods.get(name))


# ---- Quantal


class Quantal:
    """The program, with the threads that it may use."""

    def __init__(self, program, threads):
        self.program, self.threads = program, threads

    def call(self, *arguments):
        command = [self.program, *map(str, arguments), "--threads", str(self.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"exit code {done.returncode}")
        return done.stdout

    def recipe(self, preset, task, samples, seed, scratch):
        """A built-in recipe whose seed is another: a file, as a user would write it."""
        if seed == 0:
            return preset
        # Any quantization tells what the preset says; two samples make it short.
        saved, first = scratch / f"{preset}.toml", scratch / "first.onnx"
        self.call("quantize", task.model, "--data", task.paths["calibration"], "--samples", 2, "--recipe", preset,
                  "--save-recipe", saved, "--output", first)
        text, count = re.subn(r"(?m)^seed = 0$", f"seed = {seed}", saved.read_text())
        text, counts = re.subn(r"(?m)^samples = 2$", f"samples = {samples}", text)
        if (count, counts) != (1, 1):
            raise RuntimeError("the saved recipe has no line `seed = 0` or `samples = 2` to change")
        saved.write_text(text)
        return saved

    def quantize(self, task, preset, samples, seed, scratch):
        """The path of the INT8 file. The program draws the samples itself."""
        made = scratch / f"{preset}.int8.onnx"
        self.call("quantize", task.model, "--data", task.paths["calibration"], "--samples", samples, "--recipe",
                  self.recipe(preset, task, samples, seed, scratch), "--output", made)
        return made

    def hits(self, model, task):
        labels = () if task.is_text else ("--labels", task.label_paths["evaluation"])
        answer = json.loads(self.call("eval", model, "--data", task.paths["evaluation"], *labels, "--json"))
        return np.array([c == "1" for c in answer["hits"]])


def one_line(problem):
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:200]
