"""Tables of the study: every method at every share on every task, and the spread over seeds."""

from itertools import product
from typing import Any

import numpy as np

from tables import read, table

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
AGAIN = "study-again"
"""Rows of ``study.py --again``, which has dense models of its own."""
ENDINGS = {"": "one-shot", "-recovered": "recovered", "-recovered-2e-05": "recovered at 2e-5"}
"""Of the rows' names, and what they stand for."""
STUDIED = {"sst2-0": "SST-2", "cola-0": "CoLA", "mrpc-0": "MRPC", "rte-0": "RTE", "stsb-0": "STS-B"}


def study() -> str:
    """One table per share: the deciding metric of each task, and its mean relative to the dense model."""
    tasks = {place: title for place, title in STUDIED.items() if read(f"study/{place}/dense")}
    parts = []
    for share, ending in product(("0.5", "0.25", "0.12", "0.06"), ENDINGS):
        again = all(read(f"{AGAIN}/{place}/auto-{share}{ending}") for place in tasks)
        folder = AGAIN if again else "study"
        dense = {place: score(f"{folder}/{place}/dense") for place in tasks}
        floor = {place: score(f"{folder}/{place}/floor") for place in tasks}
        rows = [
            ["dense", *(f"{value:.1f}" for value in dense.values()), "100 %", "100 %"],
            ["no layer at all, head trained", *("–" if v is None else f"{v:.1f}" for v in floor.values()), "–", "0 %"],
        ]
        for method, title in METHODS.items():
            found = {place: score(f"{folder}/{place}/{method}-{share}{ending}") for place in tasks}
            if set(found.values()) != {None}:
                cells = ["–" if value is None else f"{value:.1f}" for value in found.values()]
                rows.append([title, *cells, *relative(found, dense, floor)])
        if len(rows) > 2:
            header = [
                f"{float(share):.0%} kept, {ENDINGS[ending]}",
                *tasks.values(),
                "of dense",
                "of dense above the floor",
            ]
            parts.append(table(header, rows))
    return "\n\n".join(parts)


def relative(found: dict[str, Any], dense: dict[str, Any], floor: dict[str, Any]) -> list[str]:
    """Mean over the tasks and its standard error, of the score and of what it is above the floor's."""
    if None in found.values():
        return ["–", "–"]
    shares = [value / dense[place] for place, value in found.items()]
    above = [
        (value - floor[place]) / (dense[place] - floor[place])
        for place, value in found.items()
        if floor[place] is not None
    ]
    # fewer floors than tasks say nothing of all tasks
    above = above if len(above) == len(shares) else []
    return [with_error(values) for values in (shares, above)]


def with_error(shares: list[float]) -> str:
    """Mean and its standard error, in percent."""
    if len(shares) < 2:
        return "–"
    return f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1) / len(shares) ** 0.5:.1f} %"


def score(name: str) -> Any:
    result = read(name)
    return None if result is None else next(iter(result["metrics"].values()))


def seeds() -> str:
    """Mean and standard deviation over the seeds, each of which has a dense model of its own."""
    tasks = {"cola": "CoLA", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}
    names = {
        "dense": "dense",
        **{f"auto-{share}": f"**auto**, {float(share):.0%}" for share in ("0.5", "0.25", "0.12")},
    }
    rows = []
    for name, title in names.items():
        cells = []
        for task in tasks:
            found = [value for seed in range(3) if (value := score(f"study/{task}-{seed}/{name}")) is not None]
            spread = f" ± {np.std(found, ddof=1):.1f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.1f}{spread} ({len(found)})" if found else "–")
        kept = []
        for task, seed in product(tasks, range(3)):
            value, dense = (score(f"study/{task}-{seed}/{one}") for one in (name, "dense"))
            if value is not None:
                kept.append(value / dense)
        rows.append([title, *cells, with_error(kept)])
    return table(["one-shot: mean ± deviation (seeds)", *tasks.values(), "of dense, mean ± standard error"], rows)
