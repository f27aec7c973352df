"""Writes the tables of the README and of ``docs`` from the experiments' JSON and from the table of architectures.

    python experiments/make_docs.py

Text stays as it is; what stands between ``<!-- NAME: generated … -->`` and ``<!-- end NAME -->`` is replaced.
"""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from architecture_docs import architectures, decoder, names
from common import RESULTS
from obert_tables import fisher_engine, gradual, grouped_zeros, obert, obert_damping, sizes
from speed_tables import (
    compound,
    deployed,
    deployed_speed,
    grouped_layers,
    merged_products,
    skip_norm,
    speed,
    study_costs,
)
from study_tables import STUDIED, relative, score, seeds, study
from tables import read, table

ROOT = Path(__file__).parent.parent

ROWS = {
    "dense": "dense",
    "pgb-50": "**PGB 50 %**, one-shot",
    "pgb-assign-50": "PGB 50 %, balanced assignment, one-shot",
    "pgb-magnitude-50": "PGB 50 %, magnitude importance, one-shot",
    "pgb-no-permutation-50": "PGB 50 %, no permutation, one-shot",
    "torch-pruning-50": "half the heads and neurons (Torch-Pruning), one-shot",
    "pgb-50-recovered": "**PGB 50 %**, 1 epoch of recovery",
    "pgb-magnitude-50-recovered": "PGB 50 %, magnitude importance, 1 epoch of recovery",
    "pgb-no-permutation-50-recovered": "PGB 50 %, no permutation, 1 epoch of recovery",
    "torch-pruning-50-recovered": "half the heads and neurons (Torch-Pruning), 1 epoch of recovery",
    "pgb-88": "**PGB 88 %**, one-shot",
    "pgb-magnitude-88": "PGB 88 %, magnitude importance, one-shot",
    "pgb-no-permutation-88": "PGB 88 %, no permutation, one-shot",
    "pgb-88-recovered": "**PGB 88 %**, 3 epochs of recovery",
}


def accuracy(result: dict[str, Any] | None) -> str:
    return "–" if result is None else f"{next(iter(result['metrics'].values())):.1f}"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}x"


def comparison() -> str:
    rows = []
    for name, title in ROWS.items():
        result = read(f"compare-sst2/{name}")
        if result is not None:
            speed = read(f"compare-sst2/{result.get('start', name)}") or {}
            rows.append(
                [
                    title,
                    accuracy(result),
                    f"{100 * result['kept_share']:.1f} %",
                    f"{100 * result['flops_share']:.0f} %",
                    ratio(speed.get("pytorch_speedup_1x128")),
                    ratio(speed.get("pytorch_speedup_8x128")),
                ]
            )
    return table(["SST-2, MiniLM-L6", "accuracy", "encoder weights", "FLOPs", "PyTorch 1×128", "8×128"], rows)


def headline() -> str:
    wanted = {
        "compare-sst2/dense": ("dense", None),
        "study/sst2-0/auto-0.5": ("**auto**, one-shot, no labels", "auto-0.5"),
        "study/sst2-0/auto-0.25": ("**auto**, one-shot, no labels", "auto-0.25"),
        "study/sst2-0/auto-0.12": ("**auto**, one-shot, no labels", "auto-0.12"),
        "compare-sst2/pgb-50": ("PGB, our compensation, one-shot", "pgb-sequential-0.5"),
        "compare-sst2/pgb-50-recovered": ("PGB, 1 epoch of recovery", None),
        "compare-sst2/pgb-88-recovered": ("PGB, 3 epochs of recovery", None),
    }
    dense = {place: score(f"study/{place}/dense") for place in STUDIED}
    rows = []
    for name, (title, method) in wanted.items():
        result = read(name)
        if result is not None:
            kept = f"{100 * result['kept_share']:.0f} %"
            size = f"{100 * result['flops_share']:.0f} %"
            found = {place: score(f"study/{place}/{method}") for place in STUDIED}
            mean = relative(found, dense, dict.fromkeys(STUDIED))[0].split(" ± ")[0]
            share = "1" if title == "dense" else (method or "").removeprefix("auto-")
            speeds = [deployed_speed(share, runtime, "8x128") for runtime in ("onnx-fp32", "openvino-int8")]
            rows.append(
                [
                    title,
                    kept,
                    size,
                    accuracy(result),
                    "100" if title == "dense" else mean,
                    *("–" if speed is None else f"{speed:.1f}x" for speed in speeds),
                ]
            )
    header = ["all-MiniLM-L6-v2", "encoder weights", "FLOPs", "SST-2 accuracy", "five tasks, % of dense"]
    return table([*header, "ONNX Runtime fp32, 8 × 128", "OpenVINO INT8, 8 × 128"], rows)


def ablation() -> str:
    parts = []
    for budget, title in (("uniform", "G = 2 everywhere"), ("tau", "G per matrix by τ, 50 % removed")):
        rows = [
            [
                grouping,
                *(
                    accuracy(read(f"ablation-sst2/{budget}-{grouping}-{compensation}"))
                    for compensation in ("none", "independent", "sequential")
                ),
            ]
            for grouping in ("none", "random", "sort", "assign")
        ]
        parts.append(table([f"{title}: permutation", "no compensation", "independent", "sequential"], rows))
    steps = [[str(n), accuracy(read(f"ablation-sst2/nperm-{n}"))] for n in (1, 2, 12)]
    steps.insert(2, ["6", accuracy(read("ablation-sst2/tau-sort-sequential"))])
    parts.append(table(["N_perm (50 %, sort, sequential)", "accuracy"], steps))
    groups = [
        [str(g), *(accuracy(read(f"ablation-sst2/gmax-{sparsity}-{g}")) for sparsity in ("0.5", "0.88"))]
        for g in (2, 3, 6, 12)
    ]
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
    rows = []
    for name, title in CHOICES.items():
        found = [read(f"choices/cola/{name}-{share}") for share in ("0.25", "0.12")]
        cells = ["–" if result is None else f"{result['divergence']:.3f} ({accuracy(result)})" for result in found]
        if any(found):
            rows.append([title, *cells])
    return table(["divergence (metric)", "CoLA, 25 % kept", "CoLA, 12 % kept"], rows)


def recovery() -> str:
    """Metric and divergence after every learning rate, with and without dropout and the teacher's hidden states."""
    rows = []
    rates = ("1e-05", "2e-05", "5e-05", "0.0001")
    for share in ("0.5", "0.25", "0.12"):
        start = read(f"recovery/cola/start-{share}")
        if start is None:
            continue
        title = f"CoLA, {float(share):.0%} kept"
        rows.append([f"{title}, start", *(f"{start['divergence']:.3f} ({accuracy(start)})" for _ in rates)])
        for settings, how in (
            ("hidden-0-dropout-0", "without dropout"),
            ("hidden-0-dropout-0-hardness-1", "without dropout, teacher alone"),
            ("hidden-1-dropout-0", "without dropout, hidden states"),
            ("hidden-0-dropout-1", "with dropout"),
            ("hidden-1-dropout-1", "with dropout, hidden states"),
        ):
            results = [read(f"recovery/cola/rate-{rate}-{settings}-{share}") for rate in rates]
            if any(results):
                cells = ["–" if r is None else f"{r['divergence']:.3f} ({accuracy(r)})" for r in results]
                rows.append([f"{title}, {how}", *cells])
    return table(["divergence (metric)", "1e-5", "2e-5", "5e-5", "1e-4"], rows)


def structures() -> str:
    """Divergence with one sub-layer replaced, mean over the layers; and what single matrices lose."""
    parts = []
    for sub_layer, title in (("attention", "one attention"), ("feed_forward", "one feed-forward part")):
        found: dict[str, dict[str, float]] = {}
        for share in ("0.5", "0.25", "0.12"):
            for path in sorted((RESULTS / "structures" / "cola" / f"{sub_layer}-{share}").glob("*.json")):
                result = json.loads(path.read_text(encoding="utf-8"))
                found.setdefault(result["name"], {})[share] = 1000 * float(np.mean(result["divergences"]))
        if found:
            ordered = sorted(found.items(), key=lambda item: item[1].get("0.25", 0.0))
            rows = [
                [name, *(f"{values[share]:.1f}" if share in values else "–" for share in ("0.5", "0.25", "0.12"))]
                for name, values in ordered
            ]
            parts.append(table([f"{title} replaced, CoLA: 1000 · KL", "50 % kept", "25 %", "12 %"], rows))
    names = ["inputs removed", "low rank", "shuffled blocks", "groups (sort)", "groups (assign)"]
    rows = []
    for path in sorted((RESULTS / "structures" / "matrices").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        share = path.stem.rsplit("-", 1)[1]
        lost = result["lost"]
        best = min(lost.values())
        cells = [f"**{lost[n]:.3f}**" if lost[n] == best else f"{lost[n]:.3f}" for n in names]
        rows.append([f"{result['name']} ({result['size'][0]})", f"{float(share):.0%}", *cells])
    if rows:
        parts.append(table(["share of the output's variance lost", "kept", *names], rows))
    return "\n\n".join(parts)


def performance() -> str:
    rows = []
    for name, title in (
        ("minilm-sst2", "MiniLM-L6, 1024 SST-2 sentences, `pgb`"),
        ("minilm-sst2-auto", "MiniLM-L6, 1024 SST-2 sentences, `auto`"),
        ("bert-base-sort", "BERT-base size, 512 × 128 tokens, `pgb`"),
        ("bert-base-assign", "BERT-base size, 512 × 128 tokens, `pgb --grouping assign`"),
        ("bert-base-auto", "BERT-base size, 512 × 128 tokens, `auto`"),
        ("bert-large-auto-64", "BERT-large size, 64 × 128 tokens, `auto`"),
    ):
        result = read(f"performance/{name}")
        if result is not None:
            seconds = result["report"]["seconds"]
            middle = sum(seconds.get(step, 0) for step in ("importance", "plan", "curves", "allocation"))
            steps = [f"{value:.1f}" for value in (seconds["statistics"], middle, seconds["compensation"])]
            rows.append([title, *steps, f"**{result['total_seconds']:.0f}**", f"{result['peak_gib']:.1f}"])
    header = ["seconds, 2 cores", "statistics", "planning", "compensation", "total", "peak GiB"]
    parts = [table(header, rows)]
    rows = []
    for path in (RESULTS / "performance").glob("scaling-*.json"):
        layers, width, tokens = map(int, path.stem.split("-")[1:])
        result = json.loads(path.read_text(encoding="utf-8"))
        rows.append([layers, width, tokens, f"{result['total_seconds']:.0f}", f"{result['peak_gib']:.1f}"])
    if rows:
        texts = [[str(cell) for cell in row] for row in sorted(rows)]
        parts.append(table(["`auto`: layers", "width", "tokens", "seconds", "peak GiB"], texts))
    return "\n\n".join(parts)


def squad() -> str:
    """F1 and exact match of every method at every share, one-shot and recovered."""
    titles = {"auto": "**auto**, no labels", "pgb": "pgb", "obert": "obert, single weights"}
    dense = read("squad/dense")
    if dense is None:
        return "_No results yet: `python experiments/squad.py`._"
    rows = [["dense", "100 %", "100 %", *answered(dense), "–", "–"]]
    for share, method in product(("0.5", "0.25"), titles):
        one_shot, recovered = (read(f"squad/{method}-{share}{ending}") for ending in ("", "-recovered"))
        if one_shot is not None:
            kept = [f"{100 * one_shot[name]:.0f} %" for name in ("kept_share", "flops_share")]
            rows.append([titles[method], *kept, *answered(one_shot), *answered(recovered)])
    train, validation = dense["questions"]
    header = [f"SQuAD v1.1 format, {train} / {validation} questions, all-MiniLM-L6-v2", "encoder weights", "FLOPs"]
    return table([*header, "F1, one-shot", "exact match", "F1, recovered", "exact match"], rows)


def answered(result: dict[str, Any] | None) -> list[str]:
    names = ("f1", "exact_match")
    return ["–", "–"] if result is None else [f"{result['metrics'][name]:.1f}" for name in names]


EMBEDDER = {
    "dense": ("dense", "dense", "pytorch", "fp32"),
    "dense-int8": ("dense, INT8", "dense", "int8", "int8"),
    "auto-0.9": ("**auto**, one-shot", "auto-0.9", "pytorch", "fp32"),
    "auto-0.8": ("**auto**, one-shot", "auto-0.8", "pytorch", "fp32"),
    "auto-0.7": ("**auto**, one-shot", "auto-0.7", "pytorch", "fp32"),
    "auto-0.5": ("**auto**, one-shot", "auto-0.5", "pytorch", "fp32"),
    "auto-0.5-recovered": ("**auto**, recovered", "auto-0.5", "pytorch", "fp32"),
    "auto-0.5-int8": ("**auto**, one-shot, INT8", "auto-0.5", "int8", "int8"),
    "auto-0.25": ("**auto**, one-shot", "auto-0.25", "pytorch", "fp32"),
    "auto-0.25-recovered": ("**auto**, recovered", "auto-0.25", "pytorch", "fp32"),
    "auto-0.25-int8": ("**auto**, one-shot, INT8", "auto-0.25", "int8", "int8"),
}
"""Title, and the rows that have the size and the speeds; recovery changes neither."""


def embedder() -> str:
    """Quality and speed of the embedder at every share."""
    rows = []
    for name, (title, size, where, precision) in EMBEDDER.items():
        result, sized = read(f"embedder/{name}"), read(f"embedder/{size}")
        if result is not None:
            metrics = ("stsb_dev", "stsb_test", "recall_at_10", "rank_overlap")
            speeds = [
                (read(f"embedder/speed-{size}-{runtime}") or {}).get("speedup", {}).get(shape)
                for runtime in (where, precision)
                for shape in ("1x128", "8x128")
            ]
            kept = "–" if sized is None else f"{100 * sized['kept_share']:.0f} %"
            cells = [f"{result['metrics'][metric]:.1f}" for metric in metrics]
            pytorch = ["–", "–"] if where == "int8" else [ratio(speed) for speed in speeds[:2]]
            rows.append([title, kept, *cells, *pytorch, *(ratio(speed) for speed in speeds[2:])])
    if not rows:
        return "_No results yet: `python experiments/embedder.py`._"
    header = ["all-MiniLM-L6-v2, no labels", "encoder weights", "STS-B dev, Spearman", "test", "recall@10"]
    return table([*header, "rank overlap", "PyTorch 1×128", "8×128", "ONNX Runtime 1×128", "8×128"], rows)


def embedder_recovery() -> str:
    """What the embedder's recovery gains by its learning rate, the teacher's hidden states, and its length."""
    rows = []
    for place in sorted(RESULTS.glob("embedder*/auto-0.5-recovered.json"), key=lambda path: path.parent.name[::-1]):
        result = json.loads(place.read_text(encoding="utf-8"))
        options, metrics = result["training"], result["metrics"]
        length = f"{options['max_steps']} steps" if options["max_steps"] > 0 else f"{options['epochs']:g} epochs"
        hidden = "yes" if options["hidden_weight"] else "no"
        found = [f"{metrics[name]:.1f}" for name in ("stsb_dev", "recall_at_10", "cosine")]
        rows.append([length, f"{options['learning_rate']:g}", hidden, *found, f"{result['seconds'] / 60:.0f}"])
    header = ["auto 50 %, recovered for", "learning rate", "hidden states as well", "STS-B dev", "recall@10", "cosine"]
    return table([*header, "minutes, one core"], rows)


def fill(path: Path, **sections: str) -> None:
    text = path.read_text(encoding="utf-8")
    for name, content in sections.items():
        pattern = rf"(<!-- {name}: generated[^>]*-->\n).*?(<!-- end {name} -->)"
        text, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.DOTALL)
        assert count == 1, f"{path} has no section {name}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    fill(ROOT / "README.md", headline=headline())
    fill(ROOT / "docs" / "tasks.md", squad=squad())
    fill(ROOT / "docs" / "embeddings.md", embedder=embedder(), embedder_recovery=embedder_recovery())
    fill(
        ROOT / "docs" / "results.md",
        study=study(),
        seeds=seeds(),
        choices=choices(),
        recovery=recovery(),
        structures=structures(),
        comparison=comparison(),
        ablation=ablation(),
        decoder=decoder(),
        obert=obert(),
        obert_damping=obert_damping(),
        study_costs=study_costs(),
        gradual=gradual(),
        grouped_zeros=grouped_zeros(),
    )
    fill(ROOT / "docs" / "adding-an-architecture.md", architectures=architectures())
    fill(ROOT / "docs" / "format.md", names=names())
    fill(
        ROOT / "docs" / "performance.md",
        performance=performance(),
        speed=speed(),
        grouped_layers=grouped_layers(),
        deployed=deployed(),
        compound=compound(),
        merged_products=merged_products(),
        skip_norm=skip_norm(),
    )
    fill(ROOT / "docs" / "obert.md", sizes=sizes(), fisher_engine=fisher_engine())


if __name__ == "__main__":
    main()
