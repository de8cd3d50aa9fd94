"""Results as tables: what INT8 costs each contestant, and whether Quantal's `balanced` is ahead of each peer's best."""

import math
from collections import defaultdict

import numpy as np

import contestants
import tasks

OURS = "quantal_balanced"
COLUMNS = {
    "quantal_fast": "quantal fast", "quantal_balanced": "quantal balanced", "quantal_best": "quantal best",
    "quantal_balanced_in_ort": "balanced, in ORT", "ort_default": "ORT default call", "ort_minmax": "ORT MinMax",
    "ort_entropy": "ORT Entropy", "ort_percentile": "ORT Percentile", "nncf": "NNCF", "nncf_mixed": "NNCF mixed",
    "torch": "torch x86",
}


def markdown(results):
    """All tables of results that complete one another."""
    rows = {(r["model"], r["contestant"], r["seed"]): r for result in results for r in result["rows"]}
    models = [m for m in tasks.CLASSIFIERS if (m, "fp32", 0) in rows]
    runs, failed = defaultdict(dict), {}
    for (model, contestant, seed), row in rows.items():
        if "hits" in row:
            runs[model, contestant][seed] = tasks.unpack(row["hits"], row["count"])
        else:
            failed.setdefault((model, contestant), row["error"])
    float_hits = {m: runs[m, "fp32"][0] for m in models}
    notes = [f"{m}, {COLUMNS[c]}: {r['note']}" for (m, c, seed), r in sorted(rows.items()) if r.get("note") and seed == 0]
    notes += [f"{m}, {COLUMNS.get(c, c)} fails: {error}" for (m, c), error in sorted(failed.items())]
    where = {r["machine"] for r in results}
    packages = joined(r["versions"] for r in results)
    about = f"{'; '.join(sorted(where))}; {', '.join(f'{k} {v}' for k, v in packages.items())}; {max(r['date'] for r in results)}"
    parts = [f"### {about}", losses(models, float_hits, runs, failed), against(models, runs, failed)]
    return "\n\n".join([*[p for p in parts if p], "\n".join(f"- {n.replace('|', '/')}" for n in notes)])


def joined(versions):
    """What several environments had, by package; of a package that differs, all versions."""
    found = defaultdict(list)
    for package, version in (item for each in versions for item in each.items()):
        if version not in found[package]:
            found[package].append(version)
    return {package: " and ".join(each) for package, each in found.items()}


def losses(models, float_hits, runs, failed):
    """Points of top-1 from FP32: mean over seeds, and their standard deviation."""
    shown = [c for c in COLUMNS if any((m, c) in runs or (m, c) in failed for m in models)]
    lines, means = [], defaultdict(list)
    for model in models:
        base = float_hits[model].mean()
        cells = [model, f"{100 * base:.2f}"]
        for c in shown:
            drops = [100 * (h.mean() - base) for h in runs.get((model, c), {}).values()]
            cells.append(cell(drops) if drops else ("fails" if (model, c) in failed else ""))
            if drops:
                means[c].append(np.mean(drops))
        lines.append(cells)
    # A mean over fewer models than the others' says nothing beside them.
    over_all = lambda f, c: f"{f(means[c]):+.2f}" if len(means[c]) == len(models) else f"{f(means[c]):+.2f} of {len(means[c])}" if means[c] else ""
    lines.append(["**mean**", "", *(over_all(np.mean, c) for c in shown)])
    lines.append(["**worst**", "", *(over_all(np.min, c) for c in shown)])
    return table(["model", "FP32", *(COLUMNS[c] for c in shown)], lines)


def cell(drops):
    spread = f" ± {np.std(drops, ddof=1):.2f}" if len(drops) > 1 else ""
    return f"{np.mean(drops):+.2f}{spread} ({len(drops)})"


def against(models, runs, failed):
    """Quantal's `balanced` less the best of each family, on the same samples."""
    lines = []
    for model in models:
        ours = runs.get((model, OURS))
        if not ours:
            continue
        for family, members in contestants.FAMILIES.items():
            there = [c for c in members if runs.get((model, c))]
            if not there:
                if any((model, c) in failed for c in members):
                    lines.append([model, f"{family} fails", "", "", "", "**ahead**"])
                continue
            best = max(there, key=lambda c: np.mean([h.mean() for h in runs[model, c].values()]))
            seeds = sorted(ours.keys() & runs[model, best].keys())
            if not seeds:
                continue
            difference, error, chance = paired([ours[s] for s in seeds], [runs[model, best][s] for s in seeds])
            verdict = "level" if chance >= 0.05 else "**ahead**" if difference > 0 else "**behind**"
            lines.append([model, f"{COLUMNS[best]} ({len(seeds)})", f"{difference:+.2f}", f"± {1.96 * error:.2f}", f"{chance:.3f}", verdict])
    return table(["model", "peer's best (seeds)", "balanced − peer, points", "95 %", "p", "verdict"], lines) if lines else ""


def paired(ours, theirs):
    """Difference in points, its standard error, and the chance of one as large if there were none.

    A sample's difference is its mean over seeds: the same image five times is one observation, not five. Over images the
    differences are independent, and t of hundreds of them is normal.
    """
    each = 100 * (np.mean(ours, axis=0, dtype=float) - np.mean(theirs, axis=0, dtype=float))
    difference, error = each.mean(), each.std(ddof=1) / math.sqrt(len(each))
    return difference, error, math.erfc(abs(difference) / error / math.sqrt(2)) if error else 1.0


def table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(r) + " |" for r in rows)
