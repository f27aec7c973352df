"""The tables of the base-size study in ``docs/results.md`` and the README."""

from dataclasses import dataclass
from statistics import mean
from typing import Any

from lib.results_store import read_rows
from lib.tables import MISSING, describe_kept, first_metric, format_divergence, format_metric, format_ratio, table

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


def _shares_of_dense(results: dict[str, dict[str, Any]], row: str, tasks: list[str]) -> list[float]:
    """Returns a model's metric as a share of the dense model's, for the tasks on which it was measured."""
    measured = [task for task in tasks if row in results[task]]
    return [first_metric(results[task][row]) / first_metric(results[task]["dense"]) for task in measured]


def base_study() -> str:
    """One row per model; a column per task, and the mean share of the dense model's metric."""
    results = _by_task("base_study")
    tasks = [task for task in TASKS if "dense" in results.get(task, {})]
    lines = []
    for row, title in ROWS.items():
        by_task = {task: results[task].get(row) for task in tasks}
        if not any(by_task.values()):
            continue
        shares = _shares_of_dense(results, row, tasks)
        cells = [MISSING if one is None else f"{first_metric(one):.1f}" for one in by_task.values()]
        measured = "" if len(shares) == len(tasks) else f" ({len(shares)} of {len(tasks)} tasks)"
        lines.append([title, *cells, f"{100 * mean(shares):.1f} %{measured}"])
    return table(["model", *(TASKS[task] for task in tasks), "of dense, mean"], lines)


PEERS = {
    "auto": "**`auto`**",
    "k-prune": "K-prune",
    "kwon": "Kwon et al.",
    "drone": "DRONE",
    "magnitude": "magnitude",
}
CHOICES = {
    "default": "default",
    "fisher-temperature-1": "`--fisher-temperature 1`",
    "fisher-temperature-4": "`--fisher-temperature 4`",
    "samples-512": "`--samples 512`",
    "samples-4096": "`--samples 4096`",
    "damping-1e-2": "`--damping 1e-2`",
    "token-weighting-0.9": "`--token-weighting 0.9`",
    "target-residual": "`--target residual`",
    "bf16": "`--calibration-precision bf16`",
    "two-passes": "a quarter first, everything measured again, then the rest",
}
TARGETS = (
    ("pytorch-fp32", "PyTorch fp32"),
    ("onnx-fp32", "ONNX Runtime fp32"),
    ("onnx-int8", "ONNX Runtime INT8"),
    ("openvino-bf16", "OpenVINO bf16"),
    ("openvino-int8", "OpenVINO INT8"),
)


def _by_task(experiment: str) -> dict[str, dict[str, Any]]:
    """Returns the results of an experiment by task and the rest of their rows' names."""
    results: dict[str, dict[str, Any]] = {}
    for name, row in read_rows(experiment).items():
        task, _, rest = name.partition("/")
        results.setdefault(task, {})[rest] = row["result"]
    return results


def base_peers() -> str:
    """One table per task: a row per method, a column per share, metrics one-shot."""
    study, peers, tables = _by_task("base_study"), _by_task("base_peers"), []
    for task, title in TASKS.items():
        results = {**study.get(task, {}), **peers.get(task, {})}
        shares = sorted({name.partition("-0.")[2] for name in peers.get(task, {})}, reverse=True)
        if not shares:
            continue
        lines = [
            [label, *(format_metric(results.get(f"{method}-0.{share}")) for share in shares)]
            for method, label in PEERS.items()
        ]
        header = [f"{title} (dense {format_metric(results['dense'])})"]
        tables.append(table([*header, *(describe_kept(f"0.{share}") for share in shares)], lines))
    return "\n\n".join(tables)


def base_choices() -> str:
    """One table per task: a row per choice, a column per share with the divergence and the metric."""
    tables = []
    for task, results in _by_task("base_choices").items():
        shares = ("0.25", "0.12")
        lines = [
            [label, *(format_divergence(results.get(f"{choice}-{share}")) for share in shares)]
            for choice, label in CHOICES.items()
            if any(f"{choice}-{share}" in results for share in shares)
        ]
        header = [f"{TASKS[task]}: divergence (metric)", *(describe_kept(share) for share in shares)]
        tables.append(table(header, lines))
    return "\n\n".join(tables)


def base_recovery() -> str:
    """A row per task, share and variant: metric and agreement with the dense model in fp32 and INT8, and minutes."""
    lines = []
    for name, row in read_rows("base_recovery").items():
        task, share, variant = name.split("/")
        result = row["result"]
        scores = [
            f"{first_metric(one):.1f} ({next(iter(one['agreement'].values())):.1f})" for one in (result, result["int8"])
        ]
        lines.append(
            [TASKS[task], f"{100 * float(share):.0f} %", variant, *scores, f"{result['recovery_seconds'] / 60:.0f}"]
        )
    return table(["task", "kept", "recovery", "metric (agreement) in fp32", "in OpenVINO INT8", "minutes"], lines)


@dataclass(frozen=True)
class Deployed:
    """A model of the study in one runtime and precision.

    Attributes:
        score: The task's metric; of fp32 that of PyTorch, which exports are checked to agree with.
        speed: Speed of the dense model in PyTorch fp32 as a multiple, at 8 x 128 tokens; None if it was not timed.
    """

    score: float | None
    speed: float | None

    def format(self) -> str:
        """Returns both."""
        if self.score is None:
            return MISSING
        return f"{self.score:.1f} · {MISSING if self.speed is None else format_ratio(self.speed)}"


def deployed_model(task: str, row: str, target: str) -> Deployed:
    """Returns quality and speed of a model in a runtime and precision, such as ``openvino-int8``."""
    rows = _by_task("base_deployed").get(task, {})
    result = rows.get(f"{row}/{target}")
    if target.endswith("-fp32"):
        result = result or _by_task("base_study")[task].get(row)
    # recovery changes no shapes, so the speed is that of the one-shot model
    timed = rows.get(f"speed/{target}-8x128", {}).get("models", {})
    latency = timed.get(row) or timed.get(row.removesuffix("-recovered"))
    return Deployed(first_metric(result), None if latency is None else latency["speedup_to_reference"])


def deployed_tasks() -> list[str]:
    """Returns the tasks whose models were timed."""
    results = _by_task("base_deployed")
    return [task for task in TASKS if any(name.startswith("speed/") for name in results.get(task, {}))]


def base_deployed() -> str:
    """One table per task: a row per model, and for each runtime and precision the metric and the speedup."""
    tables = []
    for task in deployed_tasks():
        lines, targets = [], [one for one in TARGETS if deployed_model(task, "dense", one[0]).speed is not None]
        for row, title in ROWS.items():
            models = [deployed_model(task, row, target) for target, _ in targets]
            if any(model.score is not None for model in models):
                lines.append([title, *(model.format() for model in models)])
        tables.append(table([TASKS[task], *(title for _, title in targets)], lines))
    return "\n\n".join(tables)


ASKED = {
    "auto-0.5": 99.5, "auto-0.25": 98.0, "auto-0.12": 93.0, "auto-0.06": 85.0,
    "auto-0.25-recovered": 99.0, "auto-0.12-recovered": 97.0, "auto-0.06-recovered": 93.0,
}  # fmt: skip
"""Mean over tasks that was asked for, in percent of dense."""

ASKED_OF_COLA = {"auto-0.12": 88.0, "auto-0.12-recovered": 95.0}


def base_targets() -> str:
    """What was asked for, and what is reached: a row per model, in percent of the dense model's metric."""
    results = _by_task("base_study")
    tasks = [task for task in TASKS if "dense" in results.get(task, {})]
    lines = []
    for name, asked, chosen in (
        *((name, asked, tasks) for name, asked in ASKED.items()),
        *((name, asked, ["cola"]) for name, asked in ASKED_OF_COLA.items()),
    ):
        shares = _shares_of_dense(results, name, chosen)
        reached = f"{100 * mean(shares):.1f} %" if shares else "not measured"
        verdict = MISSING if not shares else "yes" if 100 * mean(shares) >= asked else "no"
        scope = "CoLA" if chosen == ["cola"] else f"{len(shares)} of {len(tasks)} tasks"
        lines.append([ROWS[name], scope if shares else MISSING, f"{asked:g} %", reached, verdict])
    return table(["model", "on", "asked for", "reached", "met"], lines)


def base_int8() -> str:
    """Points that OpenVINO INT8 costs each model, and beyond those of the dense one; at most 0.5 were asked for."""
    deployed, study = _by_task("base_deployed"), _by_task("base_study")

    def cost(task: str, name: str) -> float | None:
        int8 = deployed.get(task, {}).get(f"{name}/openvino-int8")
        before = study[task].get(name)
        return None if int8 is None or before is None else first_metric(before) - first_metric(int8)

    def describe(task: str, name: str) -> str:
        value = cost(task, name)
        if value is None:
            return MISSING
        return f"{value:+.1f}" if name == "dense" else f"{value:+.1f} ({value - dense[task]:+.1f})"

    costs = {task: cost(task, "dense") for task in TASKS if task in deployed}
    dense = {task: value for task, value in costs.items() if value is not None}
    rows = {title: [describe(task, name) for task in dense] for name, title in ROWS.items()}
    lines = [[title, *cells] for title, cells in rows.items() if set(cells) != {MISSING}]
    return table(["points lost by INT8 (beyond the dense model's)", *(TASKS[task] for task in dense)], lines)


HEADLINE = {
    "dense": "dense",
    "auto-0.5": "**auto**, one-shot, no labels",
    "auto-0.25": "**auto**, one-shot, no labels",
    "auto-0.12": "**auto**, one-shot, no labels",
    "auto-0.12-recovered": "**auto**, recovered",
    "auto-0.06-recovered": "**auto**, recovered",
    "layers-4": "first 4 layers, fine-tuned instead",
    "minilm": "all-MiniLM-L6-v2, fine-tuned instead",
}


def base_headline() -> str:
    """The first table of the README: quality in fp32 and OpenVINO INT8, and the speed of the same models in INT8.

    It has columns for the tasks whose dense model was measured in INT8; means are those of models that were measured on
    all tasks.
    """
    study = _by_task("base_study")
    tasks = [task for task in TASKS if "dense" in study.get(task, {})]
    shown = [task for task in tasks if deployed_model(task, "dense", "openvino-int8").score is not None]
    lines = []
    for row, title in HEADLINE.items():
        results = {task: study[task][row] for task in tasks if row in study[task]}
        if not results:
            continue
        int8 = {task: deployed_model(task, row, "openvino-int8") for task in shown if task in results}
        cells = [f"{format_metric(results.get(task))}{_arrow(int8[task]) if task in int8 else ''}" for task in shown]
        before = {task: first_metric(result) for task, result in results.items()}
        after = {task: one.score for task, one in int8.items() if one.score is not None}
        shares = [_mean_share(before, study, tasks), _mean_share(after, study, shown)]
        speeds = [one.speed for one in int8.values() if one.speed is not None]
        speed = format_ratio(mean(speeds)) if speeds else MISSING
        weights = next(iter(results.values()))["encoder_weights"]
        kept = f"{100 * weights / study[tasks[0]]['dense']['encoder_weights']:.0f} %"
        lines.append([title, kept, *cells, *shares, speed])
    header = ["all-mpnet-base-v2", "encoder weights", *(f"{TASKS[task]}, fp32 → INT8" for task in shown)]
    means = [f"of dense, {len(tasks)} tasks, fp32", f"{len(shown)} tasks, INT8"]
    return table([*header, *means, "speed in INT8"], lines)


def _arrow(int8: Deployed) -> str:
    return "" if int8.score is None else f" → {int8.score:.1f}"


def _mean_share(scores: dict[str, float], study: dict[str, dict[str, Any]], tasks: list[str]) -> str:
    """Returns the mean share of the dense model's metric in fp32, if the model was measured on all tasks."""
    if set(scores) != set(tasks):
        return MISSING
    return f"{100 * mean(scores[task] / first_metric(study[task]['dense']) for task in tasks):.1f} %"
