"""Tables of the study: every method at every share on every task, and the spread over seeds."""

from itertools import product
from typing import Any

import numpy as np

from lib.results_store import read_result
from lib.tables import MISSING, describe_kept, first_metric, table

METHODS = {
    "auto": "**auto**",
    "auto-groups": "auto, aligned groups allowed",
    "removal": "removal alone",
    "low_rank": "low rank alone",
    "groups": "aligned groups alone",
    "pgb-sequential": "pgb, our compensation",
    "pgb": "pgb, compensated matrix by matrix",
    "magnitude": "pgb by magnitude, our compensation",
    "first-layers": "the first layers",
    "torch-pruning": "Torch-Pruning",
}
AGAIN = "again/"
"""Prefix of the rows of ``study.py --again``, which compares with other dense models."""
ENDINGS = {"": "one-shot", "-recovered": "recovered", "-recovered-2e-05": "recovered at 2e-5"}
"""Endings of the rows' names, and their titles."""
STUDY_TASKS = {"sst2-0": "SST-2", "cola-0": "CoLA", "mrpc-0": "MRPC", "rte-0": "RTE", "stsb-0": "STS-B"}


def study() -> str:
    """Makes one table per share: the deciding metric of each task, and its mean relative to the dense model."""
    tasks = {task: title for task, title in STUDY_TASKS.items() if read_result("study", f"{task}/dense")}
    parts = []
    for share, ending in product(("0.5", "0.25", "0.12", "0.06"), ENDINGS):
        again = all(read_result("study", f"{AGAIN}{task}/auto-{share}{ending}") for task in tasks)
        prefix = AGAIN if again else ""
        dense = {task: score(f"{prefix}{task}/dense") for task in tasks}
        floor = {task: score(f"{prefix}{task}/floor") for task in tasks}
        rows = [
            ["dense", *(f"{value:.1f}" for value in dense.values()), "100 %", "100 %"],
            ["no layer at all, head trained", *map(_format_score, floor.values()), MISSING, "0 %"],
        ]
        for method, title in METHODS.items():
            scores = {task: score(f"{prefix}{task}/{method}-{share}{ending}") for task in tasks}
            if set(scores.values()) != {None}:
                rows.append([title, *map(_format_score, scores.values()), *relative(scores, dense, floor)])
        if len(rows) > 2:
            header = [f"{describe_kept(share)}, {ENDINGS[ending]}", *tasks.values()]
            parts.append(table([*header, "of dense", "of dense above the floor"], rows))
    return "\n\n".join(parts)


def relative(scores: dict[str, Any], dense: dict[str, Any], floor: dict[str, Any]) -> list[str]:
    """Averages over the tasks, with standard errors, the shares of the dense score and of its part above the floor."""
    if None in scores.values():
        return [MISSING, MISSING]
    of_dense = [value / dense[task] for task, value in scores.items()]
    above_floor = []
    if None not in floor.values():  # otherwise the mean would not be over all tasks
        above_floor = [(value - floor[task]) / (dense[task] - floor[task]) for task, value in scores.items()]
    return [with_error(of_dense), with_error(above_floor)]


def with_error(shares: list[float]) -> str:
    """Returns the mean and its standard error, in percent."""
    if len(shares) < 2:
        return MISSING
    return f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1) / len(shares) ** 0.5:.1f} %"


def score(name: str) -> Any:
    """Returns the deciding metric of a row of the study, or None."""
    return first_metric(read_result("study", name))


def _format_score(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f}"


def seeds() -> str:
    """Tabulates mean and standard deviation over the seeds; each seed has another dense model."""
    tasks = {"cola": "CoLA", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}
    names = {
        "dense": "dense",
        **{f"auto-{share}": f"**auto**, {describe_kept(share)}" for share in ("0.5", "0.25", "0.12")},
    }
    rows = []
    for name, title in names.items():
        cells = []
        for task in tasks:
            scores = [value for seed in range(3) if (value := score(f"{task}-{seed}/{name}")) is not None]
            spread = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
            cells.append(f"{np.mean(scores):.1f}{spread} ({len(scores)})" if scores else MISSING)
        of_dense = []
        for task, seed in product(tasks, range(3)):
            value, dense = (score(f"{task}-{seed}/{row}") for row in (name, "dense"))
            if value is not None:
                of_dense.append(value / dense)
        rows.append([title, *cells, with_error(of_dense)])
    return table(["one-shot: mean ± deviation (seeds)", *tasks.values(), "of dense, mean ± standard error"], rows)
