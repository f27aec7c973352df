"""Tables of one-shot pruning and recovery: comparison, headline, ablation, choices, recovery, structures, mutation."""

import numpy as np

from lib.results_store import read_result, read_rows
from lib.speed_tables import deployed_speed
from lib.study_tables import STUDY_TASKS, relative, score
from lib.tables import (
    FLOPS_KEPT,
    MISSING,
    WEIGHTS_KEPT,
    describe_kept,
    format_divergence,
    format_kept,
    format_metric,
    format_speedup,
    table,
)

COMPARISON = {
    "dense": "dense",
    "pgb-50": "**PGB, 50 % removed**, one-shot",
    "pgb-assign-50": "PGB, 50 % removed, balanced assignment, one-shot",
    "pgb-magnitude-50": "PGB, 50 % removed, magnitude importance, one-shot",
    "pgb-no-permutation-50": "PGB, 50 % removed, no permutation, one-shot",
    "torch-pruning-50": "half the heads and neurons removed (Torch-Pruning), one-shot",
    "pgb-50-recovered": "**PGB, 50 % removed**, 1 epoch of recovery",
    "pgb-magnitude-50-recovered": "PGB, 50 % removed, magnitude importance, 1 epoch of recovery",
    "pgb-no-permutation-50-recovered": "PGB, 50 % removed, no permutation, 1 epoch of recovery",
    "torch-pruning-50-recovered": "half the heads and neurons removed (Torch-Pruning), 1 epoch of recovery",
    "pgb-88": "**PGB, 88 % removed**, one-shot",
    "pgb-magnitude-88": "PGB, 88 % removed, magnitude importance, one-shot",
    "pgb-no-permutation-88": "PGB, 88 % removed, no permutation, one-shot",
    "pgb-88-recovered": "**PGB, 88 % removed**, 3 epochs of recovery",
}


def comparison() -> str:
    """Tabulates PGB against its peers on SST-2; a recovered row has the speed of its one-shot start."""
    rows = []
    stored_rows = read_rows("compare", "sst2/")
    for name, title in COMPARISON.items():
        row = stored_rows.get(f"sst2/{name}")
        if row is not None:
            result = row["result"]
            start = row["configuration"].get("start", name)
            speed = read_result("compare", f"sst2/{start}") or {}
            rows.append(
                [
                    title,
                    format_metric(result),
                    format_kept(result["kept_share"], 1),
                    format_kept(result["flops_share"]),
                    format_speedup(speed.get("pytorch_speedup_1x128")),
                    format_speedup(speed.get("pytorch_speedup_8x128")),
                ]
            )
    return table(["SST-2, MiniLM-L6", "accuracy", WEIGHTS_KEPT, FLOPS_KEPT, "PyTorch 1×128", "8×128"], rows)


HEADLINE = (
    ("compare", "sst2/dense", "dense", None),
    ("study", "sst2-0/auto-0.5", "**auto**, one-shot, no labels", "auto-0.5"),
    ("study", "sst2-0/auto-0.25", "**auto**, one-shot, no labels", "auto-0.25"),
    ("study", "sst2-0/auto-0.12", "**auto**, one-shot, no labels", "auto-0.12"),
    ("compare", "sst2/pgb-50", "PGB, our compensation, one-shot", "pgb-sequential-0.5"),
    ("compare", "sst2/pgb-50-recovered", "PGB, 1 epoch of recovery", None),
    ("compare", "sst2/pgb-88-recovered", "PGB, 3 epochs of recovery", None),
)
"""Experiment and row of SST-2, title, and the row's name in the study."""


def headline() -> str:
    """Makes the table at the top of the README."""
    dense_scores = {task: score(f"{task}/dense") for task in STUDY_TASKS}
    rows = []
    for experiment, name, title, study_row in HEADLINE:
        result = read_result(experiment, name)
        if result is not None:
            scores = {task: score(f"{task}/{study_row}") for task in STUDY_TASKS}
            mean = relative(scores, dense_scores, dict.fromkeys(STUDY_TASKS))[0].split(" ± ")[0]
            share = "1" if title == "dense" else (study_row or "").removeprefix("auto-")
            speeds = [deployed_speed(share, runtime, "8x128") for runtime in ("onnx-fp32", "openvino-int8")]
            rows.append(
                [
                    title,
                    format_kept(result["kept_share"]),
                    format_kept(result["flops_share"]),
                    format_metric(result),
                    "100" if title == "dense" else mean,
                    *(MISSING if speed is None else f"{speed:.1f}x" for speed in speeds),
                ]
            )
    header = ["all-MiniLM-L6-v2", WEIGHTS_KEPT, FLOPS_KEPT, "SST-2 accuracy", "five tasks, % of dense"]
    return table([*header, "ONNX Runtime fp32, 8 × 128", "OpenVINO INT8, 8 × 128"], rows)


def ablation() -> str:
    """Tabulates permutation by compensation for both budgets, then the numbers of permutation steps and groups."""

    def cell(name: str) -> str:
        return format_metric(read_result("ablation", f"sst2/{name}"))

    compensations = ("none", "independent", "sequential")
    parts = []
    for budget, title in (("uniform", "G = 2 everywhere"), ("tau", "G per matrix by τ, 50 % removed")):
        rows = [
            [grouping, *(cell(f"{budget}-{grouping}-{compensation}") for compensation in compensations)]
            for grouping in ("none", "random", "sort", "assign")
        ]
        parts.append(table([f"{title}: permutation", "no compensation", "independent", "sequential"], rows))
    steps = [[str(n), cell(f"nperm-{n}")] for n in (1, 2, 12)]
    steps.insert(2, ["6", cell("tau-sort-sequential")])
    parts.append(table(["N_perm (50 %, sort, sequential)", "accuracy"], steps))
    groups = [[str(g), *(cell(f"gmax-{sparsity}-{g}") for sparsity in ("0.5", "0.88"))] for g in (2, 3, 6, 12)]
    parts.append(table(["G_max (sort, sequential)", "50 % removed", "88 % removed"], groups))
    return "\n\n".join(parts)


CHOICES = {
    "default": "default",
    "metric-plain": "`--metric plain`: all errors weigh the same",
    "no-token-weighting": "`--token-weighting 0`",
    "token-weighting-0.9": "`--token-weighting 0.9`",
    "target-residual": "`--target residual`",
    "labels": "`--use-labels`",
    "samples-512": "`--samples 512`",
    "samples-1024": "`--samples 1024`",
    "damping-1e-4": "`--damping 1e-4`",
    "damping-1e-2": "`--damping 1e-2`",
}


def choices() -> str:
    """Tabulates divergence and metric with one option of ``auto`` changed at a time."""
    rows = []
    shares = ("0.25", "0.12")
    for name, title in CHOICES.items():
        results = [read_result("choices", f"cola/{name}-{share}") for share in shares]
        if any(results):
            rows.append([title, *map(format_divergence, results)])
    return table(["divergence (metric)", *(f"CoLA, {describe_kept(share)}" for share in shares)], rows)


RECOVERY = {
    "hidden-0-dropout-0": "without dropout",
    "hidden-0-dropout-0-hardness-1": "without dropout, teacher alone",
    "hidden-1-dropout-0": "without dropout, hidden states",
    "hidden-0-dropout-1": "with dropout",
    "hidden-1-dropout-1": "with dropout, hidden states",
}


def recovery() -> str:
    """Tabulates metric and divergence by learning rate, with and without dropout and the teacher's hidden states."""
    rows = []
    rates = ("1e-05", "2e-05", "5e-05", "0.0001")
    for share in ("0.5", "0.25", "0.12"):
        start = read_result("recovery", f"cola/start-{share}")
        if start is None:
            continue
        title = f"CoLA, {describe_kept(share)}"
        rows.append([f"{title}, start", *(format_divergence(start) for _ in rates)])
        for settings, description in RECOVERY.items():
            results = [read_result("recovery", f"cola/rate-{rate}-{settings}-{share}") for rate in rates]
            if any(results):
                rows.append([f"{title}, {description}", *map(format_divergence, results)])
    return table(["divergence (metric)", "1e-5", "2e-5", "5e-5", "1e-4"], rows)


def structures() -> str:
    """Tabulates the mean divergence with one sub-layer replaced, then the error of each structure on matrices."""
    parts = []
    shares = ("0.5", "0.25", "0.12")
    for sub_layer, title in (("attention", "one attention"), ("feed_forward", "one feed-forward part")):
        divergences: dict[str, dict[str, float]] = {}
        for share in shares:
            for row in read_rows("structures", f"cola/{sub_layer}-{share}/").values():
                mean = 1000 * float(np.mean(row["result"]["divergences"]))
                divergences.setdefault(row["configuration"]["structure"], {})[share] = mean
        if divergences:
            ordered = sorted(divergences.items(), key=lambda item: item[1].get("0.25", 0.0))
            rows = [
                [name, *(f"{by_share[share]:.1f}" if share in by_share else MISSING for share in shares)]
                for name, by_share in ordered
            ]
            parts.append(table([f"{title} replaced, CoLA: 1000 · KL", *map(describe_kept, shares)], rows))
    names = ["inputs removed", "low rank", "shuffled blocks", "groups (sort)", "groups (assign)"]
    rows = []
    for row in read_rows("structures", "matrices/").values():
        configuration, lost = row["configuration"], row["result"]["lost"]
        best = min(lost.values())
        cells = [f"**{lost[n]:.3f}**" if lost[n] == best else f"{lost[n]:.3f}" for n in names]
        rows.append(
            [f"{configuration['matrix']} ({configuration['size'][0]})", format_kept(configuration["share"]), *cells]
        )
    if rows:
        parts.append(table(["share of the output's variance lost", "weights kept (removed)", *names], rows))
    return "\n\n".join(parts)


def mutation() -> str:
    """Mutants that the tests do not notice, by package and state of the code."""
    packages = {"methods/auto": "auto", "compensation": "compensation", "methods/obert": "obert"}
    measurements = read_rows("mutation")
    rows = []
    for package, title in (*packages.items(), ("", "**all**")):
        cells = []
        for label in ("before", "after"):
            row = measurements.get(label)
            modules = {} if row is None else row["result"]["modules"]
            chosen = [entry for module, entry in modules.items() if f"/{package}" in module]
            survived, mutants = (sum(entry[key] for entry in chosen) for key in ("survived", "mutants"))
            cells.append(f"{survived} of {mutants} ({survived / mutants:.0%})" if mutants else MISSING)
        rows.append([title, *cells])
    return table(["mutants that survive", "before", "after"], rows)


def baseline() -> str:
    """Tabulates the hash of the plan, the sparsity and the metric of every method, by version of the code."""
    rows = []
    for name, row in sorted(read_rows("baseline").items(), key=lambda item: item[0].split("/")[::-1]):
        version, task, run = name.split("/")
        result = row["result"]
        plan = result.get("plan_sha256", MISSING)[:12]
        sparsity = f"{result['sparsity']:.4%}" if "sparsity" in result else MISSING
        rows.append([task, run, version, plan, sparsity, format_metric(result)])
    return table(["task", "method and sparsity", "version", "plan", "removed", "metric"], rows)
