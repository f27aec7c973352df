"""Writes the tables of ``docs/results.md``, ``docs/performance.md`` and the README from the experiments' JSON.

    python experiments/make_docs.py

Text stays as it is; what stands between ``<!-- NAME: generated … -->`` and ``<!-- end NAME -->`` is replaced.
"""

import json
import re
from pathlib import Path
from typing import Any

from common import RESULTS

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


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
    wanted = ("dense", "pgb-50", "pgb-50-recovered", "pgb-88-recovered")
    rows = []
    for name in wanted:
        result = read(f"compare-sst2/{name}")
        if result is not None:
            kept = f"{100 * result['kept_share']:.0f} %"
            size = f"{100 * result['flops_share']:.0f} %"
            rows.append([ROWS[name], accuracy(result), kept, size])
    return table(["all-MiniLM-L6-v2 on SST-2", "accuracy", "encoder weights", "FLOPs"], rows)


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


def performance() -> str:
    rows = []
    for name, title in (
        ("minilm-sst2", "MiniLM-L6, 1024 SST-2 sentences"),
        ("bert-base-sort", "BERT-base size, 512 × 128 tokens"),
        ("bert-base-assign", "BERT-base size, 512 × 128 tokens, `--grouping assign`"),
    ):
        result = read(f"performance/{name}")
        if result is not None:
            seconds = result["report"]["seconds"]
            steps = [f"{seconds[step]:.1f}" for step in ("statistics", "importance", "plan", "compensation")]
            rows.append([title, *steps, f"**{result['total_seconds']:.0f}**", f"{result['peak_gib']:.1f}"])
    return table(["seconds, 2 cores", "statistics", "importance", "plan", "compensation", "total", "peak GiB"], rows)


def fill(path: Path, **sections: str) -> None:
    text = path.read_text(encoding="utf-8")
    for name, content in sections.items():
        pattern = rf"(<!-- {name}: generated[^>]*-->\n).*?(<!-- end {name} -->)"
        text, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.DOTALL)
        assert count == 1, f"{path} has no section {name}"
    path.write_text(text, encoding="utf-8")


def main() -> None:
    fill(ROOT / "README.md", headline=headline())
    fill(ROOT / "docs" / "results.md", comparison=comparison(), ablation=ablation())
    fill(ROOT / "docs" / "performance.md", performance=performance())


if __name__ == "__main__":
    main()
