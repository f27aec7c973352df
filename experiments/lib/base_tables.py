"""The table of the base-size study in ``docs/results.md``."""

from statistics import mean
from typing import Any

from lib.results_store import read_rows
from lib.tables import MISSING, first_metric, table

TASKS = {
    "sst2": "SST-2, accuracy", "cola": "CoLA, Matthews", "mrpc": "MRPC, F1", "rte": "RTE, accuracy",
    "stsb": "STS-B, Spearman", "banking77": "Banking77, accuracy",
}  # fmt: skip
ROWS = {
    "dense": "dense, 84.9 M encoder weights",
    **{f"auto-{share}": f"`auto`, {percent} % kept" for share, percent in (
        ("0.5", 50), ("0.25", 25), ("0.12", 12), ("0.06", 6), ("0.03", 3),
    )},
    **{f"auto-{share}-recovered": f"`auto`, {percent} % kept, recovered" for share, percent in (
        ("0.5", 50), ("0.25", 25), ("0.12", 12), ("0.06", 6), ("0.03", 3),
    )},
    **{f"layers-{count}": f"first {count} layers, fine-tuned with the dense model as teacher" for count in (6, 4, 3)},
    "minilm": "all-MiniLM-L6-v2, fine-tuned, 10.6 M encoder weights",
    "pgb-0.5": "`pgb`, 50 % kept, recovered",
    "pgb-0.12": "`pgb`, 12 % kept, recovered",
    "pgb-published-0.5": "`pgb` as published, 50 % kept, three epochs",
    "pgb-published-0.12": "`pgb` as published, 12 % kept, three epochs",
    "obert-0.8": "oBERT, 80 % zeros, recovered",
    "obert-0.9": "oBERT, 90 % zeros, recovered",
}  # fmt: skip


def base_study() -> str:
    """One row per model; a column per task, and the mean share of the dense model's metric."""
    results: dict[str, dict[str, Any]] = {}
    for name, row in read_rows("base_study").items():
        task, _, rest = name.partition("/")
        results.setdefault(task, {})[rest] = row["result"]
    tasks = [task for task in TASKS if "dense" in results.get(task, {})]
    lines = []
    for row, title in ROWS.items():
        by_task = {task: results[task].get(row) for task in tasks}
        if not any(by_task.values()):
            continue
        shares = [first_metric(one) / first_metric(results[task]["dense"]) for task, one in by_task.items() if one]
        cells = [MISSING if one is None else f"{first_metric(one):.1f}" for one in by_task.values()]
        lines.append([title, *cells, f"{100 * mean(shares):.1f} %"])
    return table(["model", *(TASKS[task] for task in tasks), "of dense, mean"], lines)
