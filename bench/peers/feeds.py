"""Made-up inputs of a model: for timing, and as calibration samples that every peer is given alike."""

import os

import numpy as np


def draw(inputs, random):
    """One sample for inputs given as (name, numpy type, shape): floats of a normal distribution, ids, masks of ones."""
    sample = {}
    for name, kind, shape in inputs:
        if np.issubdtype(kind, np.floating):
            sample[name] = random.standard_normal(shape).astype(kind)
        elif "mask" in name:
            sample[name] = np.ones(shape, kind)
        else:
            sample[name] = random.integers(0, 1000, shape).astype(kind)
    return sample


def inputs_of(path):
    """Name, numpy type and shape of each input of an ONNX file; free sizes are 1."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = {c.name for c in graph.initializer}
    found = []
    for value in graph.input:
        if value.name not in constants:
            tensor = value.type.tensor_type
            shape = [d.dim_value or 1 for d in tensor.shape.dim]
            found.append((value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape))
    return found


def write_samples(path, count, folder):
    """Writes so many samples for a model as .npz files."""
    inputs, random = inputs_of(path), np.random.default_rng(3)
    for i in range(count):
        np.savez(os.path.join(folder, f"{i:04}.npz"), **draw(inputs, random))


def read_samples(folder):
    """The samples of a folder, in order, one at a time."""
    for name in sorted(os.listdir(folder)):
        with np.load(os.path.join(folder, name)) as arrays:
            yield {key: arrays[key] for key in arrays.files}
