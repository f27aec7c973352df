"""Tables of `docs/compress.md`: what `compress` finds, and how often its bounds hold."""

from statistics import geometric_mean, mean
from typing import Any

from lib.results_store import read_rows
from lib.tables import table

SHAPES = ((8, 128), (1, 128))
"""Texts and tokens of the batches of which mean speeds are given."""
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def compress_found() -> str:
    """One row per task and runtime: dense INT8 and the chosen model."""
    rows = []
    for row in read_rows("compress").values():
        result = row["result"]
        by_name = {one["name"]: one for one in result["candidates"]}
        chosen, int8 = by_name[result["chosen"]], by_name.get("dense int8")
        metric = result["bound"]["metric"]
        rows.append(
            [
                row["configuration"]["task"],
                RUNTIMES[row["configuration"]["runtime"]],
                f"{metric} {result['reference'][metric]:.1f}",
                _loss(int8),
                _speed(int8),
                chosen["name"],
                _loss(chosen),
                chosen["quality"]["verdict"],
                _speed(chosen),
                "–" if chosen["speedup_int8"] is None else f"{chosen['speedup_int8']:.2f}x",
                f"{chosen['file_bytes'] / 1e6:.1f} of {by_name['dense']['file_bytes'] / 1e6:.1f} MB",
                str(len(result["candidates"])),
                f"{result['minutes']:.1f}",
            ]
        )
    headings = [
        "task", "runtime", "dense", "INT8 alone: loss (limit)", "speed", "chosen", "loss (limit)", "bound of 1",
        "speed", "of INT8 alone", "file", "models tried", "minutes",
    ]  # fmt: skip
    return table(headings, rows)


def compress_means() -> str:
    """One row per runtime: mean speed of what was chosen over that of dense INT8 in the same runtime."""
    rows = []
    for runtime, title in RUNTIMES.items():
        results = [
            row["result"] for row in read_rows("compress").values() if row["configuration"]["runtime"] == runtime
        ]
        if not results:
            continue
        cells = []
        for batch_size, length in SHAPES:
            ratios = [_ratio(result, batch_size, length) for result in results]
            cells += [f"{mean(ratios):.2f}x", f"{geometric_mean(ratios):.2f}x"]
        faster = sum(_ratio(result, *SHAPES[0]) > 1.05 for result in results)
        rows.append([title, str(len(results)), *cells, f"{faster} of {len(results)}"])
    headings = ["runtime", "tasks"]
    headings += [f"{a} × {b}: {kind}" for a, b in SHAPES for kind in ("mean", "geometric mean")]
    return table([*headings, "pruning adds something"], rows)


def _ratio(result: dict[str, Any], batch_size: int, length: int) -> float:
    """Returns the median time of dense INT8 over that of the chosen model, which may be a dense one."""
    if result["chosen"] == "dense int8":
        return 1.0
    times = {
        one["model"]: one["p50_ms"]
        for one in result["speed"]
        if (one["batch_size"], one["length"]) == (batch_size, length)
    }
    chosen = "chosen" if "chosen" in times else result["chosen"]
    return float(times["dense int8"] / times[chosen])


def _loss(candidate: dict[str, Any] | None) -> str:
    if candidate is None or candidate["quality"] is None:
        return "–"
    return f"{candidate['quality']['loss']:+.2f} ({candidate['quality']['limit']:.2f})"


def _speed(candidate: dict[str, Any] | None) -> str:
    return "–" if candidate is None or candidate["speedup"] is None else f"{candidate['speedup']:.2f}x"


def coverage() -> str:
    """One row per bound: verdicts of all searches, and how many of them all texts, or the unseen half, contradict."""
    rows = []
    by_bound: dict[float, list[dict[str, Any]]] = {}
    tasks = set()
    for row in read_rows("coverage").values():
        tasks.add(row["configuration"]["task"])
        by_bound.setdefault(row["configuration"]["bound"], []).extend(row["result"]["runs"])
    for bound, runs in sorted(by_bound.items()):
        for accept in ("measured", "shown"):
            chosen = [run for run in runs if run["accept"] == accept and run["share"] is not None]
            cells = [f"{bound:g}", accept, str(sum(run["accept"] == accept for run in runs))]
            for verdict in ("holds", "not shown"):
                some = [run for run in chosen if run["verdict"] == verdict]
                cells.append(str(len(some)))
                for loss in ("whole_loss", "unseen_loss"):
                    exceeded = sum(run[loss] > bound for run in some)
                    share = f" ({100 * exceeded / len(some):.0f} %)" if some else ""
                    cells.append(f"{exceeded}{share}")
            rows.append(cells)
    headings = [
        "bound, points", "--accept", f"searches, {len(tasks)} tasks",
        "pruned, holds", "exceeded on all texts", "on the unseen half",
        "pruned, not shown", "exceeded on all texts", "on the unseen half",
    ]  # fmt: skip
    return table(headings, rows)


def kill_compress() -> str:
    """One row per round of kills."""
    rows = []
    for row in read_rows("kill_compress").values():
        result = row["result"]
        rows.append(
            [
                ", ".join(f"{moment:g}" for moment in result["moments"]),
                "yes" if result["same"] else "**no**",
                str(result["calibrations"]),
                str(result["remade"]),
                str(result["leftovers"]),
            ]
        )
    return table(["killed after, seconds", "same result", "calibrations made", "entries made twice", "leftovers"], rows)
