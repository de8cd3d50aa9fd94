"""The classifiers and their samples: every contestant is given these arrays, made once.

An assets folder holds `models/NAME/NAME.onnx` and `data/SET/{calibration,evaluation}`: `images/` with a `labels.csv` of
file and label, or for sentences a `.tsv` of sentence and label. Images of a set are cropped around their centre.
"""

import csv
from dataclasses import dataclass

import numpy as np

PARTS = ("calibration", "evaluation")
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Classifier:
    """Where samples come from and how pixels become values: (pixel - mean) / deviation, of RGB or BGR."""

    data: str
    size: int = 0
    mean: tuple = (0, 0, 0)
    deviation: tuple = (1, 1, 1)
    bgr: bool = False


CLASSIFIERS = {
    "cifar10_resnet20": Classifier("cifar10", 32, *IMAGENET),
    "mobilenet_v1_025": Classifier("imagenet", 224, (127.5,) * 3, (127.5,) * 3),
    "minilm_sst2": Classifier("sst2"),
    "squeezenet1_1_gluon": Classifier("imagenet", 224, *IMAGENET),
    "efficientnet_lite0": Classifier("imagenet", 224, (127,) * 3, (128,) * 3),
    "squeezenet1_0_deepcomp": Classifier("imagenet", 227, (104, 117, 123), bgr=True),
    "mobilenetv2_deq": Classifier("imagenet", 224, *IMAGENET),
    "cifar10_resnet56": Classifier("cifar10", 32, *IMAGENET),
}


def picks(count, wanted, seed):
    """The samples that `quantal quantize` draws for a seed: `Dataset::pick`. `accuracy.py verify` holds it to that."""
    if wanted >= count:
        return list(range(count))
    if seed == 0:
        return [i * count // wanted for i in range(wanted)]
    word = (1 << 64) - 1
    order, state = list(range(count)), seed
    for i in range(wanted):
        state = (state + 0x9E3779B97F4A7C15) & word
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        j = i + ((z ^ (z >> 31)) * (count - i) >> 64)
        order[i], order[j] = order[j], order[i]
    return sorted(order[:wanted])


class Task:
    """A classifier with its samples, kept under `work` in the form that Quantal reads: one stack, or a file each."""

    def __init__(self, folders, work, name):
        self.name, self.about = name, CLASSIFIERS[name]
        places = [p for a in folders for p in (a / "models" / name / f"{name}.onnx", a / name / f"{name}.onnx")]
        self.model = next((p for p in places if p.exists()), None)
        if self.model is None:
            raise FileNotFoundError(f"no model among {', '.join(map(str, places))}")
        self.is_text = self.about.data == "sst2"
        key = self.about.data if self.is_text else f"{self.about.data}-{name}"
        self.paths = {part: work / "samples" / (f"{key}-{part}" + ("" if self.is_text else ".npy")) for part in PARTS}
        self.label_paths = {part: work / "samples" / f"{key}-{part}-labels.npy" for part in PARTS}
        for part in PARTS:
            if not self.label_paths[part].exists():
                self._write(folders[0] / "data" / self.about.data, part)
        self.labels = {part: np.load(self.label_paths[part]) for part in PARTS}

    def _write(self, folder, part):
        self.paths[part].parent.mkdir(parents=True, exist_ok=True)
        labels = self._write_text(folder, part) if self.is_text else self._write_images(folder, part)
        # Last: its presence says that the samples are complete.
        np.save(self.label_paths[part], np.array(labels, np.int64))

    def _write_images(self, folder, part):
        from PIL import Image

        with open(folder / part / "labels.csv", newline="") as file:
            rows = sorted((row["file"], int(row["label"])) for row in csv.DictReader(file))
        size, mean, deviation = self.about.size, np.float32(self.about.mean), np.float32(self.about.deviation)
        stack = np.lib.format.open_memmap(self.paths[part], "w+", np.float32, (len(rows), 3, size, size))
        for i, (name, _) in enumerate(rows):
            with Image.open(folder / part / "images" / name) as image:
                left, top = (image.width - size) // 2, (image.height - size) // 2
                pixels = np.asarray(image.convert("RGB").crop((left, top, left + size, top + size)), np.float32)
            if self.about.bgr:
                pixels = pixels[:, :, ::-1]
            stack[i] = ((pixels - mean) / deviation).transpose(2, 0, 1)
        stack.flush()
        return [label for _, label in rows]

    def _write_text(self, folder, part):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.model.with_name("tokenizer.json")))
        tokenizer.no_padding()
        tokenizer.enable_truncation(128)
        self.paths[part].mkdir(exist_ok=True)
        lines = (folder / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
        labels = []
        for i, line in enumerate(lines):
            sentence, label = line.rsplit("\t", 1)
            ids = np.array([tokenizer.encode(sentence).ids], np.int64)
            labels.append(int(label))
            path = self.paths[part] / f"{i:05}.npz"
            np.savez(path, input_ids=ids, attention_mask=np.ones_like(ids), label=np.array([labels[-1]]))
        return labels

    def batches(self, part, indices=None, batch=1):
        """Feeds by the inputs' names: of these samples (all, if None), so many at a time; sentences one by one."""
        indices = range(len(self.labels[part])) if indices is None else indices
        if self.is_text:
            for i in indices:
                with np.load(self.paths[part] / f"{i:05}.npz") as arrays:
                    yield {k: arrays[k] for k in ("input_ids", "attention_mask")}
            return
        import onnx

        graph = onnx.load(self.model).graph
        constants = {c.name for c in graph.initializer}
        [name] = [i.name for i in graph.input if i.name not in constants]
        stack = np.load(self.paths[part], mmap_mode="r")
        for at in range(0, len(indices), batch):
            yield {name: np.ascontiguousarray(stack[list(indices[at : at + batch])])}

    def hits(self, run, batch=32):
        """For each evaluation sample, whether `run` (feeds to scores) ranks its label first: an array of bools."""
        guesses = []
        for feeds in self.batches("evaluation", batch=batch):
            scores = np.asarray(run(feeds))
            guesses.append(np.argmax(scores.reshape(len(next(iter(feeds.values()))), -1), 1))
        return np.concatenate(guesses) == self.labels["evaluation"]


def pack(hits):
    """Outcomes as hexadecimal, eight samples in two digits."""
    return np.packbits(hits).tobytes().hex()


def unpack(text, count):
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:count].astype(bool)
