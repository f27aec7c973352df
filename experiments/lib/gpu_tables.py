"""The tables of ``docs/gpu.md``: what pruning takes on a GPU, and how fast pruned models run there."""

from typing import Any

from lib.results_store import read_rows
from lib.tables import format_ratio, table

SIZES = {"base": "BERT-base size", "large": "BERT-large size"}


def _rows(part: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the results of one part by card and by the rest of the name."""
    rows = {}
    for name, row in read_rows("gpu").items():
        card, _, rest = name.partition("/")
        if rest.startswith(part):
            rows[card.replace("-", " "), rest] = row["result"]
    return rows


def gpu_pruning() -> str:
    """One row per card, size and calibration set."""
    rows = []
    for (card, name), result in _rows("prune").items():
        _, size, method, _ = name.split("-")
        cells = [f"{value:.1f}" for value in result["seconds"].values()]
        steps = cells if method == "auto" else [cells[0], f"{result['seconds']['plan']:.1f}", "–", cells[-1]]
        rows.append(
            [
                card, f"{SIZES[size]}, {result['tokens']:,} tokens, `{method}`", *steps,
                f"**{result['total_seconds']:.0f}**", f"{result['peak_gib']:.1f}",
            ]
        )  # fmt: skip
    headings = [
        "GPU",
        "seconds",
        "statistics",
        "curves or plan",
        "search",
        "compensation",
        "total",
        "peak GiB on the GPU",
    ]
    return table(headings, rows)


def gpu_speed() -> str:
    """One row per card, precision and batch: the dense model's milliseconds, and ratios to it."""
    rows = []
    names: list[str] = []
    for (card, name), result in _rows("speed").items():
        for shape, times in result.items():
            names = names or [each for each in times if each != "dense"]
            ratios = [format_ratio(times["dense"] / times[each]) for each in names]
            title = f"{name.removeprefix('speed-')}, {shape.replace('x', ' × ')}"
            rows.append([card, title, f"{times['dense']:.1f}", *ratios])
    return table(["GPU", "precision, batch", "dense, ms", *(each.replace("-", " ") for each in names)], rows)


def gpu_equality() -> str:
    """One row per model: its accuracy after pruning on the CPU and on the GPU."""
    rows = []
    for (card, _), result in _rows("equality").items():
        for name, one in result.items():
            if not isinstance(one, dict) or name == "dense":
                continue
            scores = [f"{one[f'metrics_{device}']['accuracy']:.2f}" for device in ("cpu", "cuda")]
            rows.append([card, name.replace("-", ", removed: "), *scores])
    return table(["GPU", "method", "accuracy, pruned on the CPU", "accuracy, pruned on the GPU"], rows)
