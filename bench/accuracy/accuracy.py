#!/usr/bin/env python3
"""Measures what INT8 costs in accuracy: Quantal and its peers on the same models, samples and pixels.

  accuracy.py run ASSETS --work DIR --json OUT --only peers           the peers' rows
  accuracy.py run ASSETS --work DIR --json OUT --only quantal --quantal EXE
  accuracy.py verify ASSETS --work DIR --quantal EXE                  that Quantal draws the samples that peers are given
  accuracy.py table RESULT...                                         results as Markdown

Needs Python 3.10 with numpy, onnx, onnxruntime, openvino, nncf, pillow and tokenizers; torch and onnx2torch add a
contestant. Every finished row is kept in the working folder: a run that was stopped goes on where it was. ASSETS can be
given as QUANTAL_ASSETS. The README beside this file says how to read the tables.
"""

import argparse
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import contestants
import report
import tasks

# Beyond these, a quantizer that keeps all activations of all samples would push others out of memory.
MEMORY_GB = 14


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    names = lambda text: text.split(",")
    for name, job in (("run", run), ("verify", verify)):
        p = verbs.add_parser(name)
        p.set_defaults(job=job)
        p.add_argument("assets", type=Path, nargs="?", default=os.environ.get("QUANTAL_ASSETS"))
        p.add_argument("--work", type=Path, required=True, help="for samples, models and finished rows")
        p.add_argument("--quantal", type=Path)
        p.add_argument("--models", type=names, default=list(tasks.CLASSIFIERS))
        p.add_argument("--extra", type=Path, action="append", default=[], help="another folder with models")
        p.add_argument("--samples", type=int, default=256)
        p.add_argument("--threads", type=int, default=1)
        if name == "run":
            p.add_argument("--only", type=names, default=["peers", "quantal"], help="peers, quantal, or contestants")
            p.add_argument("--seeds", type=int, default=5)
            p.add_argument("--json", type=Path, help="all finished rows that were asked for")
            p.add_argument("--estimate", action="store_true", help="say how long it would take, and stop")
    p = verbs.add_parser("table")
    p.set_defaults(job=lambda args: print(report.markdown([json.loads(r.read_text()) for r in args.results])))
    p.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    if args.verb != "table" and not args.assets:
        parser.error("give the assets folder, or set QUANTAL_ASSETS")
    return args.job(args)


# ---- rows


def run(args):
    wanted = []
    for name in args.only:
        group = {"peers": ["fp32", *contestants.PEERS], "quantal": ["fp32", "quantal_fp32", *contestants.QUANTAL]}
        wanted += [c for c in group.get(name, [name]) if c not in wanted]
    if unknown := set(wanted) - {"fp32", "quantal_fp32", *contestants.PEERS, *contestants.QUANTAL}:
        sys.exit(f"no such contestants: {', '.join(sorted(unknown))}")
    if any(c.startswith("quantal") for c in wanted) and not args.quantal:
        sys.exit("give the program with --quantal")
    args.digest = hashlib.sha256(args.quantal.read_bytes()).hexdigest()[:12] if args.quantal else ""
    # Whole seeds first, so that a run that is stopped has a table; the rows that decide least last.
    jobs = [(c, seed, m) for seed in range(args.seeds) for c in wanted for m in args.models if seed == 0 or not c.endswith("fp32")]
    jobs.sort(key=lambda job: job[0] in contestants.LATE and job[1] > 0)
    if absent := {job for job in jobs if not contestants.installed(job[0]) and not cached(args, job).exists()}:
        print(f"left out, for what they need is not installed: {', '.join(sorted({c for c, _, _ in absent}))}")
        jobs = [job for job in jobs if job not in absent]
    pending = [job for job in jobs if not cached(args, job).exists()]
    print(f"{len(jobs) - len(pending)} of {len(jobs)} rows are there; {estimate(args, pending)}", flush=True)
    if not args.estimate:
        for at, job in enumerate(pending):
            measure(args, job)
            if at % 10 == 9:
                print(f"-- {estimate(args, pending[at + 1:])}", flush=True)
            save(args, jobs)
        save(args, jobs)


def cached(args, job):
    """The file that a job's rows are kept in. Quantal's are of one build."""
    contestant, seed, model = job
    build = f"-{args.digest}" if contestant.startswith("quantal") else ""
    return args.work / "rows" / f"{model}-{contestant}-{seed}-n{args.samples}{build}.json"


def estimate(args, jobs):
    """What is left, judged by the CPU time that like rows took."""
    total, unknown = 0.0, 0
    for contestant, _, model in jobs:
        like = sorted((args.work / "rows").glob(f"{model}-{contestant}-*.json"), key=lambda p: p.stat().st_mtime)
        seconds = json.loads(like[-1].read_text())["cpu_s"] if like else None
        total, unknown = total + (seconds or 0), unknown + (seconds is None)
    each = f", and {unknown} rows of unknown length" if unknown else ""
    return f"left: {len(jobs)} rows, about {total / 60 / args.threads:.0f} min on {args.threads} idle cores{each}"


def measure(args, job):
    """Runs a job in a process of its own, which may crash or run out of memory, and keeps its rows."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=compete, args=(args, job, send))
    start, used = time.perf_counter(), cpu_of_children()
    child.start()
    send.close()
    try:
        rows = receive.recv()
    except EOFError:
        rows = [dict(contestant=job[0], error="the process died")]
    child.join()
    contestant, seed, model = job
    rows = [dict(model=model, seed=seed, **row) for row in rows]
    path = cached(args, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = dict(cpu_s=round(cpu_of_children() - used, 1), wall_s=round(time.perf_counter() - start, 1), versions=versions(), rows=rows)
    path.with_suffix(".tmp").write_text(json.dumps(done))
    path.with_suffix(".tmp").rename(path)
    for row in rows:
        figure = row.get("error") or f"{100 * row['top1']:6.2f}"
        print(f"{model:24} seed {seed} {row['contestant']:22} {figure}   {done['cpu_s']:6.0f} s CPU  {row.get('note', '')}", flush=True)


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def compete(args, job, send):
    contestant, seed, model = job
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_GB << 30, MEMORY_GB << 30))
    # Tools talk; what they have to say about a failure is in its error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    try:
        task = open_task(args, model)
        with tempfile.TemporaryDirectory(dir=args.work) as scratch:
            send.send([rowed(name, hits, note) for name, hits, note in outcomes(args, task, contestant, seed, Path(scratch))])
    except BaseException as problem:
        send.send([dict(contestant=contestant, error=contestants.one_line(problem))])


def rowed(contestant, hits, note):
    row = dict(contestant=contestant, top1=float(hits.mean()), count=len(hits), hits=tasks.pack(hits))
    return row | dict(note=note) if note else row


def open_task(args, model):
    return tasks.Task([args.assets, *args.extra], args.work, model)


def outcomes(args, task, contestant, seed, scratch):
    """Contestant, hits and note for each row that a job makes."""
    if contestant == "fp32":
        yield contestant, task.hits(contestants.run_ort(task.model, args.threads)), ""
    elif contestant.startswith("quantal"):
        quantal = contestants.Quantal(args.quantal, args.threads)
        if contestant == "quantal_fp32":
            yield contestant, quantal.hits(task.model, task), ""
            return
        made = quantal.quantize(task, contestant.removeprefix("quantal_"), args.samples, seed, scratch)
        yield contestant, quantal.hits(made, task), ""
        try:
            yield contestant + "_in_ort", task.hits(contestants.run_ort(made, args.threads)), ""
        except Exception as problem:
            raise RuntimeError(f"the file does not run in ONNX Runtime: {problem}") from problem
    else:
        picked = tasks.picks(len(task.labels["calibration"]), args.samples, seed)
        samples = list(task.batches("calibration", picked))
        predict, note = contestants.peer(contestant, task, samples, scratch, args.threads)
        yield contestant, task.hits(predict), note


def save(args, jobs):
    if not args.json:
        return
    kept = [json.loads(cached(args, job).read_text()) for job in jobs if cached(args, job).exists()]
    rows = [row for job in kept for row in job["rows"]]
    # Rows may come of several environments; those of before they said so, of this one.
    packages = report.joined(job.get("versions", versions()) for job in kept)
    build = {"quantal build": args.digest} if args.digest else {}
    found = dict(machine=machine(), versions=packages | build, samples=args.samples, date=time.strftime("%Y-%m-%d"), rows=rows)
    # One row a line: the outcomes of thousands of samples are no reading matter.
    head = json.dumps(found | dict(rows=[]), indent=1)
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    args.json.write_text(head.replace('"rows": []', f'"rows": [\n  {lines}\n ]') + "\n")


def machine():
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", info)
    flags = [f for f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8") if re.search(rf"\b{f}\b", info)]
    return f"{name[1] if name else platform.processor()} ({' '.join(flags)})"


def versions():
    found = {}
    for package in ("onnx", "onnxruntime", "openvino", "nncf", "torch", "onnx2torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


# ---- the same samples


def verify(args):
    """Quantal's INT8 file from all samples and a seed equals the one from the samples that `picks` names, alone."""
    import numpy as np
    import onnx

    args.models = [m for m in args.models if m != "minilm_sst2"][:1]
    quantal = contestants.Quantal(args.quantal, args.threads)
    task = open_task(args, args.models[0])
    files = set()
    for seed in (0, 1, 4):
        with tempfile.TemporaryDirectory(dir=args.work) as scratch:
            scratch = Path(scratch)
            drawn = quantal.quantize(task, "fast", args.samples, seed, scratch)
            drawn = onnx.load(drawn).graph.SerializeToString(deterministic=True)
            stack = np.load(task.paths["calibration"], mmap_mode="r")
            alone = scratch / "alone.npy"
            np.save(alone, stack[tasks.picks(len(stack), args.samples, seed)])
            whole, task.paths["calibration"] = task.paths["calibration"], alone
            same = onnx.load(quantal.quantize(task, "fast", args.samples, seed, scratch)).graph.SerializeToString(deterministic=True)
            task.paths["calibration"] = whole
        if drawn != same:
            sys.exit(f"seed {seed}: Quantal draws other samples than the peers are given")
        files.add(drawn)
    if len(files) < 3:
        sys.exit("different samples make the same file: nothing is proved")
    print(f"{task.name}: the same samples for seeds 0, 1 and 4")


if __name__ == "__main__":
    sys.exit(main())
