#!/usr/bin/env python3
"""Times Quantal and its peers side by side on the same ONNX files.

  peers.py make MODELS                          the networks to time, random weights (no download)
  peers.py prepare MODELS --quantal EXE         each contestant's INT8 file of every FP32 model in the folder
  peers.py run MODELS --quantal EXE             the times, in turns, as a table; --json keeps them
  peers.py pipeline MODEL --quantal EXE         what quantizing costs: wall time, CPU time, peak memory
  peers.py table RESULT...                      results kept with --json, as Markdown

Needs Python 3.10 with numpy, onnx, onnxruntime, openvino and nncf; torch and onnx2torch add a contestant. A contestant
that is not installed or fails to start is named and left out. The README beside this file says how to read the tables.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contestants
import feeds

HERE = Path(__file__).resolve().parent
WORKER = str(HERE / "contestants.py")
NETWORKS = ["resnet50", "resnet18", "mobilenetv2", "efficientnet_b0", "vit_b16", "bert_base"]
EIGHT = ["resnet50", "mobilenetv2"]
# What each cap of Quantal is called by oneDNN, which OpenVINO and torch multiply with.
ONEDNN_CAPS = {"avx2": "AVX2", "avxvnni": "AVX2_VNNI", "avx512vnni": "AVX512_CORE_VNNI", "amx": "AVX512_CORE_AMX"}
# Made before timing: ending and the job that makes it.
INT8_FILES = {"ort": ".ort_int8.onnx", "openvino": ".ov_int8.xml", "quantal": ".quantal_int8.onnx"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name, subject, job):
        p = verbs.add_parser(name)
        p.add_argument(subject, type=Path, nargs="+" if name == "table" else None)
        p.set_defaults(job=job)
        return p

    names = lambda text: text.split(",")
    p = verb("make", "models", make)
    p.add_argument("--only", type=names, default=NETWORKS)
    p = verb("prepare", "models", prepare)
    p.add_argument("--quantal", type=Path, required=True)
    p.add_argument("--samples", type=int, default=32)
    p = verb("run", "models", run)
    p.add_argument("--quantal", type=Path, required=True)
    p.add_argument("--only", type=names, default=NETWORKS, help="networks, by the name of their files before _b1")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.0, help="of each contestant in each round")
    p.add_argument("--isa", choices=list(ONEDNN_CAPS), help="stand in for a smaller machine: caps all but ONNX Runtime")
    p.add_argument("--json", type=Path)
    p = verb("pipeline", "model", pipeline)
    p.add_argument("--quantal", type=Path, required=True)
    p.add_argument("--samples", type=int, default=256)
    p.add_argument("--methods", type=names, default=["MinMax"], help="of ONNX Runtime: MinMax,Entropy,Percentile")
    p.add_argument("--json", type=Path)
    verb("table", "results", table)
    args = parser.parse_args()
    return args.job(args)


# ---- models


def make(args):
    import onnx

    import networks

    args.models.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        for batch in (1, 8) if name in EIGHT else (1,):
            path = args.models / f"{name}_b{batch}.onnx"
            if not path.exists():
                onnx.save(networks.NETWORKS[name](batch), path)
            print(path, flush=True)


def float_models(folder):
    return [p for p in sorted(folder.glob("*.onnx")) if not re.search(r"\.(ort|quantal)_int8\.onnx$", p.name)]


def prepare(args):
    failed = False
    for model in float_models(args.models):
        wanted = {peer: model.with_suffix(ending) for peer, ending in INT8_FILES.items()}
        wanted = {peer: path for peer, path in wanted.items() if not path.exists()}
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            feeds.write_samples(model, args.samples, folder)
            for peer, output in wanted.items():
                start = time.monotonic()
                ended = subprocess.run(quantize_command(peer, args.quantal, model, output, folder), capture_output=True, text=True)
                took = f"{time.monotonic() - start:.0f} s"
                failed |= ended.returncode != 0
                print(f"{output.name}: {took if ended.returncode == 0 else last_line(ended.stderr)}", flush=True)
    return int(failed)


def quantize_command(peer, quantal, model, output, folder, method="MinMax"):
    if peer == "quantal":
        return [str(quantal), "quantize", str(model), "--data", str(folder), "--samples", "1000000", "--output", str(output)]
    job = [sys.executable, WORKER]
    if peer == "ort":
        return [*job, "quantize_ort", str(model), str(output), str(folder), method]
    return [*job, "quantize_nncf", str(model), str(output), str(folder)]


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return f"failed: {lines[-1][:200]}" if lines else "failed without a word"


# ---- times


class Peer:
    """A contestant in a process of its own, waiting for its turns."""

    def __init__(self, kind, path, threads, fp32, environment):
        command = [sys.executable, WORKER, "serve", kind, str(path), str(threads), str(fp32)]
        environment = {**environment, "OMP_NUM_THREADS": str(threads)}
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=environment)
        if not self.process.stdout.readline():
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(last_line(self.log.read()))

    def turn(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        times = json.loads(self.process.stdout.readline())
        return {clock: (min(list_of), statistics.median(list_of), len(list_of)) for clock, list_of in times.items()}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Quantal:
    """The command, started anew for each turn; its own clock leaves out loading."""

    def __init__(self, exe, path, threads, environment):
        self.command = [str(exe), "bench", str(path), "--threads", str(threads), "--json", "--seconds"]
        self.environment, self.isa = environment, None

    def turn(self, seconds):
        ended = subprocess.run([*self.command, str(seconds)], capture_output=True, text=True, env=self.environment)
        if ended.returncode != 0:
            raise RuntimeError(last_line(ended.stderr))
        report = json.loads(ended.stdout)
        self.isa, result = report["isa"], report["results"][0]
        clocks = {"wall": result["wall_ms"], "cpu": result["cpu_ms"]}
        return {clock: (t["min"], t["median"], result["runs"]) for clock, t in clocks.items()}

    def close(self):
        pass


def run(args):
    environment = dict(os.environ)
    if args.isa:
        environment.update(QUANTAL_ISA=args.isa, ONEDNN_MAX_CPU_ISA=ONEDNN_CAPS[args.isa], DNNL_MAX_CPU_ISA=ONEDNN_CAPS[args.isa])
    report = {"machine": machine(args.quantal), "cap": args.isa, "rows": []}
    print(headline(report), flush=True)
    for name in args.only:
        for batch in args.batch:
            fp32 = args.models / f"{name}_b{batch}.onnx"
            for threads in args.threads if fp32.exists() else ():
                row = {"model": name, "batch": batch, "threads": threads}
                row["times"], row["failed"] = race(args, name, fp32, threads, environment, report)
                report["rows"].append(row)
                print(text_of(report, row), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["rows"] else f"no model of {','.join(args.only)} in {args.models}: `peers.py make` writes them"


def race(args, name, fp32, threads, environment, report):
    """All contestants at one model, in turns: what each took, and why others could not start."""
    stem = fp32.with_suffix("")
    int8 = {peer: Path(f"{stem}{ending}") for peer, ending in INT8_FILES.items()}
    files = {"ort_fp32": fp32, "ort_int8": int8["ort"], "openvino_fp32": fp32, "openvino_int8": int8["openvino"],
             "quantal_fp32": fp32, "quantal_int8": int8["quantal"]}
    if not report["machine"]["vnni"]:
        files["ort_int8_exact"] = int8["ort"]
    if {"torch", "onnx2torch"} <= report["machine"]["versions"].keys():
        files |= {"torch_fp32": fp32, "torch_int8": fp32}
    entrants, failed = {}, {}
    for kind, path in files.items():
        if not path.exists():
            failed[kind] = f"there is no {path.name}"
            continue
        try:
            if kind.startswith("quantal"):
                entrants[kind] = Quantal(args.quantal, path, threads, environment)
            else:
                entrants[kind] = Peer(kind, path, threads, fp32, environment)
        except RuntimeError as reason:
            failed[kind] = str(reason)
    turns = {kind: [] for kind in entrants}
    for _ in range(args.rounds):
        for kind, entrant in entrants.items():
            turns[kind].append(entrant.turn(args.seconds))
    for kind, entrant in entrants.items():
        entrant.close()
        if isinstance(entrant, Quantal):
            report["machine"]["quantal_isa"] = entrant.isa
    return {kind: summary(list_of) for kind, list_of in turns.items()}, failed


def summary(turns):
    """Least and median over all turns, in milliseconds."""
    of = lambda clock, i: [turn[clock][i] for turn in turns]
    return {"wall_min": round(min(of("wall", 0)), 3), "wall_median": round(statistics.median(of("wall", 1)), 3),
            "cpu_min": round(min(of("cpu", 0)), 3), "cpu_median": round(statistics.median(of("cpu", 1)), 3),
            "runs": sum(of("wall", 2))}


def machine(quantal):
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    flags = set((re.search(r"^flags\s*:\s*(.*)$", info, re.M) or [" ", " "])[1].split())
    isa = [flag for flag in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    version = subprocess.run([str(quantal), "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    return {"cpu": name[1] if name else platform.processor() or platform.machine(), "isa": isa,
            "vnni": bool({"avx_vnni", "avx512_vnni"} & flags), "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1), "system": platform.platform(terse=True),
            "date": time.strftime("%Y-%m-%d", time.gmtime()), "versions": {"quantal": version, **contestants.versions()}}


# ---- reading them


def headline(report):
    m = report["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in m["versions"].items())
    cap = f"; capped to {report['cap']}, all but ONNX Runtime (marked *)" if report["cap"] else ""
    return f"{m['cpu']} ({' '.join(m['isa'])}), {m['cores']} cores, load {m['load']}{cap}; {versions}; {m['date']}"


def judged(report, row):
    """Which time is compared, the fastest peer's for each precision, and whether a contestant counts as one."""
    clock = "cpu_min" if row["threads"] == 1 else "wall_min"
    counts = lambda kind: not kind.startswith("quantal") and not (report["cap"] and kind.startswith("ort"))
    fastest = {}
    for precision in ("fp32", "int8"):
        times = [t[clock] for kind, t in row["times"].items() if precision in kind and counts(kind)]
        fastest[precision] = min(times, default=None)
    return clock, fastest, counts


def ratios(report, row, kind):
    """A contestant's time over the fastest peer's of its precision, and over the fastest peer's FP32."""
    clock, fastest, _ = judged(report, row)
    over = lambda best: row["times"][kind][clock] / best if best else None
    return over(fastest["int8" if "int8" in kind else "fp32"]), over(fastest["fp32"])


def text_of(report, row):
    clock, _, counts = judged(report, row)
    lines = [f"\n{row['model']} batch {row['batch']}, {row['threads']} threads; ratios of {clock} to the fastest peer's"]
    lines.append(f"  {'':17}  wall min  median   cpu min  median   runs   own precision   peer FP32")
    for kind, t in sorted(row["times"].items(), key=lambda item: item[1][clock]):
        star = " " if counts(kind) or kind.startswith("quantal") else "*"
        own, gain = (f"{r:.2f}" if r else "-" for r in ratios(report, row, kind))
        lines.append(f"  {kind + star:17} {t['wall_min']:9.2f} {t['wall_median']:7.2f} {t['cpu_min']:9.2f} {t['cpu_median']:7.2f}"
                     f" {t['runs']:6} {own:>15} {gain:>11}")
    lines += [f"  {kind}: {reason}" for kind, reason in row["failed"].items()]
    return "\n".join(lines)


def table(args):
    """Markdown of results: one table a file; milliseconds, the median wall time in brackets."""
    for path in args.results:
        report = json.loads(path.read_text())
        print(f"### {headline(report)}\n")
        if "pipeline" in report:
            print(pipeline_table(report))
            continue
        kinds = [k for k in ("ort_fp32", "openvino_fp32", "torch_fp32", "quantal_fp32", "ort_int8", "ort_int8_exact",
                             "openvino_int8", "torch_int8", "quantal_int8") if any(k in row["times"] for row in report["rows"])]
        heads = ["model", "batch", "threads", *(k.replace("_", " ") for k in kinds), "FP32 ratio", "INT8 ratio", "INT8 / peer FP32"]
        print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
        for row in report["rows"]:
            clock, _, _ = judged(report, row)
            cell = lambda k: f"{row['times'][k][clock]:.1f} ({row['times'][k]['wall_median']:.1f})" if k in row["times"] else "–"
            ratio = lambda k, i: f"**{ratios(report, row, k)[i]:.2f}**" if k in row["times"] and ratios(report, row, k)[i] else "–"
            tail = [ratio("quantal_fp32", 0), ratio("quantal_int8", 0), ratio("quantal_int8", 1)]
            print("| " + " | ".join([row["model"], str(row["batch"]), str(row["threads"]), *map(cell, kinds), *tail]) + " |")
        print()


# ---- what quantizing costs


def pipeline(args):
    report = {"machine": machine(args.quantal), "cap": None, "model": args.model.stem, "samples": args.samples, "pipeline": []}
    print(headline(report), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "samples"
        folder.mkdir()
        feeds.write_samples(args.model, args.samples, folder)
        jobs = {"quantal": ("quantal", "")} | {f"ort {m}": ("ort", m) for m in args.methods} | {"nncf": ("openvino", "")}
        for name, (peer, method) in jobs.items():
            output = Path(scratch) / f"made{INT8_FILES[peer]}"
            row = {"name": name, **measured(quantize_command(peer, args.quantal, args.model, output, folder, method))}
            report["pipeline"].append(row)
            print(f"{name:16} wall {row['wall_s']:7.1f} s  cpu {row['cpu_s']:7.1f} s  peak {row['peak_mb']:7.0f} MB"
                  f"  exit {row['exit']}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(row["exit"] for row in report["pipeline"]))


def measured(command):
    """Wall and CPU seconds and the peak of resident memory of a command, which runs by itself."""
    null = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    start = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, used = os.wait4(child, 0)
    os.close(null)
    # Linux counts in KiB, macOS in bytes.
    peak = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    return {"wall_s": round(time.monotonic() - start, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2),
            "peak_mb": round(peak), "exit": os.waitstatus_to_exitcode(status)}


def pipeline_table(report):
    head = f"{report['model']}, {report['samples']} samples\n\n| | wall s | CPU s | peak MB |\n| --- | --- | --- | --- |\n"
    return head + "".join(f"| {r['name']} | {r['wall_s']:.1f} | {r['cpu_s']:.1f} | {r['peak_mb']} |\n" for r in report["pipeline"])


if __name__ == "__main__":
    sys.exit(main())
