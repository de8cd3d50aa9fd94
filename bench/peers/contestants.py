"""The peers: how each makes its INT8 file, and how each runs a model.

Run as a program, this is one contestant in a process of its own: it loads a model, says so in a line of JSON, and then
for each number of seconds on a line of stdin answers with the times of its runs.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import feeds

sys.path.append(str(Path(__file__).resolve().parents[1]))
import torch_x86  # noqa: E402, for both benches

# ---- INT8 files


def quantize_ort(model, output, folder, method="MinMax"):
    """QDQ, u8 activations, s8 weights with a scale for each channel: what ONNX Runtime advises for a CPU."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(q.CalibrationDataReader):
        def __init__(self):
            self.rest = feeds.read_samples(folder)

        def get_next(self):
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as scratch:
        prepared = os.path.join(scratch, "prepared.onnx")
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        q.quantize_static(prepared, output, Samples(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                          activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
                          calibrate_method=q.CalibrationMethod[method])


def quantize_nncf(model, output, folder):
    """NNCF's defaults; transformers are named as such, which its guide asks for."""
    import nncf
    import openvino

    network = openvino.Core().read_model(model)
    samples = list(feeds.read_samples(folder))
    attends = any(op.get_type_name() == "Softmax" and len(op.output(0).get_partial_shape()) == 4 for op in network.get_ops())
    kind = nncf.ModelType.TRANSFORMER if attends else None
    made = nncf.quantize(network, nncf.Dataset(samples), subset_size=len(samples), model_type=kind)
    openvino.save_model(made, output, compress_to_fp16=False)


# ---- one inference


def load_ort(path, threads, exact=False):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda sample: session.run(None, sample)


def load_openvino(path, threads):
    import openvino

    # Without the hint, bf16 would stand in for f32 where the CPU has it.
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda sample: request.infer(sample, share_inputs=True, share_outputs=True)


def load_torch(path, threads, int8=False):
    """The module that the file is converted to, traced and optimized for inference; for INT8 quantized here, for x86."""
    import torch

    torch.set_num_threads(threads)
    inputs, random = feeds.inputs_of(path), np.random.default_rng(3)
    tensors = lambda sample: tuple(map(torch.from_numpy, sample.values()))
    samples = [tensors(feeds.draw(inputs, random)) for _ in range(8)]
    network = torch_x86.load(path)
    with torch.no_grad():
        if int8:
            network = torch_x86.quantize(network, samples)
        traced = torch.jit.optimize_for_inference(torch.jit.trace(network, samples[0]))

    def run(sample):
        with torch.no_grad():
            return traced(*tensors(sample))

    return run


LOADERS = {
    "ort_fp32": load_ort,
    "ort_int8": load_ort,
    "ort_int8_exact": lambda path, threads: load_ort(path, threads, exact=True),
    "openvino_fp32": load_openvino,
    "openvino_int8": load_openvino,
    "torch_fp32": load_torch,
    "torch_int8": lambda path, threads: load_torch(path, threads, int8=True),
}


def versions():
    """Version of each package that is here."""
    found = {}
    for package in ("onnx", "onnxruntime", "openvino", "nncf", "torch", "onnx2torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def serve(kind, path, threads, fp32):
    """Answers turns until stdin ends."""
    run = LOADERS[kind](path, threads)
    sample = feeds.draw(feeds.inputs_of(fp32), np.random.default_rng(1))
    for _ in range(2):
        run(sample)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        end, wall, cpu = time.perf_counter() + float(line), [], []
        while len(wall) < 3 or time.perf_counter() < end:
            start, start_cpu = time.perf_counter(), time.process_time()
            run(sample)
            wall.append(1e3 * (time.perf_counter() - start))
            cpu.append(1e3 * (time.process_time() - start_cpu))
        print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    if job == "serve":
        serve(rest[0], rest[1], int(rest[2]), rest[3])
    elif job == "quantize_ort":
        quantize_ort(*rest)
    elif job == "quantize_nncf":
        quantize_nncf(*rest)
