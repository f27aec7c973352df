"""The pages of all other commands: before and after, the plan if there is one, options and environment."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertsurgeon.reporting import formats as fmt
from bertsurgeon.reporting.blocks import Block, Change, Page, Section, Table, facts
from bertsurgeon.reporting.compress_page import make_compress_page
from bertsurgeon.reporting.schema import Kind
from bertsurgeon.reporting.structure import plan_blocks
from bertsurgeon.runtime import RUNTIME_NAMES

Report = Mapping[str, Any]
Plan = Sequence[Mapping[str, Any]]

_QUANTITIES: dict[str, tuple[str, Callable[[Any], str], str]] = {
    "file_bytes": ("File size", fmt.size, "smaller"),
    "flops": ("FLOPs", fmt.scaled, "fewer"),
    "encoder_weights": ("Encoder weights", fmt.scaled, "fewer"),
    "parameters": ("All parameters", fmt.scaled, "fewer"),
}
"""Title, form and word of the numbers in a report of ``prune`` that are no metrics."""


def make_page(kind: Kind, report: Report, plan: Plan | None = None) -> Page:
    """Returns the page of a checked report.

    Args:
        kind: Its kind.
        report: Its content.
        plan: Rows of the model's plan, for reports that hold none.
    """
    if kind == "compress":
        return make_compress_page(report)
    makers = {
        "prune": _prune,
        "training": _training,
        "layer_drop": _layer_drop,
        "vocabulary": _vocabulary,
        "export": _export,
        "calibration": _calibration,
    }
    return makers[kind](report, plan or ())


def before_and_after(models: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """Returns what changed from the first to the last model of a report of ``prune``."""
    before, after = models[next(iter(models))], models[list(models)[-1]]
    changes = []
    for key, value in before.items():
        title, form, word = quantity(key)
        factor = fmt.ratio(value, after.get(key))
        if word:
            note = f"{fmt.times(factor)} {word}" if factor else ""
        else:
            both = fmt.is_number(value) and fmt.is_number(after.get(key))
            note = f"{fmt.signed(after[key] - value)} points" if both else ""
        changes.append(Change(title, form(value), form(after.get(key)), note))
    return changes


def quantity(key: str) -> tuple[str, Callable[[Any], str], str]:
    """Returns title, form and comparing word of a number in a report of ``prune``; metrics have no word."""
    if key in _QUANTITIES:
        return _QUANTITIES[key]
    if key.startswith("latency_ms_"):
        batch, _, length = key.removeprefix("latency_ms_").partition("x")
        return f"Latency, {batch} × {length} tokens", fmt.milliseconds, "faster"
    name = fmt.metric_name(key)
    return name[0].upper() + name[1:], fmt.percent, ""


def _change_table(changes: Sequence[Change], caption: str) -> Table | None:
    rows = [(change.name, change.before, change.after, change.note) for change in changes]
    return Table(("", "Dense", "Pruned", "Change"), rows, caption) if rows else None


def _environment(report: Report) -> list[Block | None]:
    return [facts(report.get("environment"), "Measured on", is_half=True)]


def _prune(report: Report, plan: Plan) -> Page:
    pruning = report["pruning"]
    changes = before_and_after(report["models"])
    tiles = [
        change for change in changes if change.name in ("File size", "FLOPs") or change.name.startswith("Latency, 8")
    ]
    metrics = [change for change in changes if change.note.endswith("points")]
    sparsity = pruning.get("sparsity")
    method = (pruning.get("config") or {}).get("method")
    sentence = f"{fmt.share(sparsity, 1)} of the encoder's weights are removed" if fmt.is_number(sparsity) else "Pruned"
    sentence += f", by the method {method}" if method else ""
    sentence += ", then recovered by training." if report.get("recovery") else "."
    return Page(
        kicker="Pruning report",
        title="Pruned model",
        subtitle=f"Task {report['task']}" if report["task"] else "Unlabeled texts: agreement with the dense model",
        sentence=sentence,
        changes=[*tiles, *metrics[:1]],
        sections=[
            Section("change", "Dense and pruned", [_change_table(changes, "PyTorch on this machine")]),
            Section("structure", "What each sub-layer kept", [*plan_blocks(plan), _sparse(pruning.get("sparse"))]),
            Section(
                "options",
                "Options",
                [
                    facts(pruning.get("config"), "Pruning", is_half=True),
                    facts(report.get("recovery"), "Recovery", is_half=True),
                    facts(report.get("vocabulary"), "Vocabulary", is_half=True),
                    facts(
                        {key: pruning.get(key) for key in ("samples", "tokens", "seconds")}, "Calibration", is_half=True
                    ),
                ],
            ),
            Section("environment", "Environment", _environment(report)),
        ],
    )


def _sparse(sparse: Any) -> Table | None:
    """Returns the remaining weights of a sparse model by layer and matrix."""
    kept = sparse.get("kept") if isinstance(sparse, dict) else None
    if not isinstance(kept, list) or not kept or not all(isinstance(row, dict) for row in kept):
        return None
    roles = list(dict.fromkeys(role for row in kept for role in row))
    rows = [(str(layer), *(fmt.scaled(row.get(role)) for role in roles)) for layer, row in enumerate(kept)]
    return Table(("Layer", *(role.replace("_", " ") for role in roles)), rows, "Remaining weights by matrix")


def _training(report: Report, plan: Plan) -> Page:
    recipe, command = report.get("recipe"), report.get("command")
    kinds = {"finetune": "Fine-tuning", "recover": "Recovery", "gradual": "Gradual pruning"}
    kicker = kinds.get(str(command), "Gradual pruning" if recipe is not None else "Training")
    rows = [(fmt.metric_name(name), fmt.percent(value, 2)) for name, value in report["metrics"].items()]
    changes = [Change(quantity(name)[0], "", fmt.percent(value, 2)) for name, value in report["metrics"].items()]
    return Page(
        kicker=f"{kicker} report",
        title="Trained model",
        subtitle=f"Task {report['task']}" if report["task"] else "Unlabeled texts",
        changes=changes[:4],
        sections=[
            Section("quality", "Quality", [Table(("Metric", "Value"), rows, "Validation data") if rows else None]),
            Section("structure", "What each sub-layer kept", plan_blocks(plan)),
            Section("options", "Options", [facts(report.get("training"), "Training"), facts(recipe, "Recipe")]),
            Section("environment", "Environment", _environment(report)),
        ],
    )


def _layer_drop(report: Report, plan: Plan) -> Page:
    weights = report["encoder_weights"]
    before, after = weights.get("before"), weights.get("after")
    factor = fmt.ratio(before, after)
    note = f"{fmt.times(factor)} fewer" if factor else ""
    layers = Change("Layers", str(report["of"]), str(len(report["layers"])))
    return Page(
        kicker="Layer removal report",
        title="Model with fewer layers",
        sentence=f"Layers {fmt.listed(map(str, report['layers']))} of {report['of']} are kept; it needs training.",
        changes=[layers, Change("Encoder weights", fmt.scaled(before), fmt.scaled(after), note)],
        sections=[Section("structure", "What each sub-layer kept", plan_blocks(plan))],
    )


def _vocabulary(report: Report, plan: Plan) -> Page:
    parameters = report["parameters"]
    changes = [Change("Tokens", fmt.integer(report["of"]), fmt.integer(report["kept"]))]
    if len(parameters) == 2:
        factor = fmt.ratio(*parameters)
        note = f"{fmt.times(factor)} fewer" if factor else ""
        changes.append(Change("All parameters", fmt.scaled(parameters[0]), fmt.scaled(parameters[1]), note))
    return Page(
        kicker="Vocabulary report",
        title="Model with a trimmed vocabulary",
        sentence=f"Tokens that {fmt.integer(report['texts'])} texts never use are removed.",
        changes=changes,
        sections=[Section("structure", "What each sub-layer kept", plan_blocks(plan))],
    )


def _export(report: Report, plan: Plan) -> Page:
    check = report.get("check") or {}
    precision = {"fp32": "fp32", "bf16": "bfloat16", "int8": "INT8"}.get(report["precision"], report["precision"])
    rows = [
        ("Texts compared", fmt.integer(check.get("texts"))),
        ("Relative error of the outputs", fmt.significant(check.get("relative_error"))),
        ("Largest error of one output", fmt.significant(check.get("largest_error"))),
        ("Equal answers", fmt.percent(check.get("agreement"))),
    ]
    keys = ("inputs", "outputs", "quantization", "encoder_weights", "kept_float")
    return Page(
        kicker="Export report",
        title=f"{RUNTIME_NAMES[report['runtime']]}, {precision}",
        sentence="The exported graph was compared with the PyTorch model on the same texts." if check else "",
        changes=[Change(name, "", value) for name, value in rows[:2] + rows[3:] if value != fmt.DASH],
        sections=[
            Section("check", "Exported against PyTorch", [Table(("", "Value"), rows, "Comparison")] if check else []),
            Section("structure", "What each sub-layer kept", plan_blocks(plan)),
            Section("options", "The graph", [facts({key: report.get(key) for key in keys}, "Graph")]),
        ],
    )


def _calibration(report: Report, plan: Plan) -> Page:
    return Page(
        kicker="Calibration report",
        title="Calibration",
        sentence="Measurements of a dense model, for 'bertsurgeon prune --calibration' at any budget.",
        sections=[
            Section("options", "Options", [facts(report["settings"], "Calibration")]),
            Section("seconds", "Duration", [facts(report["seconds"], "Seconds of each step")]),
            Section("structure", "What each sub-layer kept", plan_blocks(plan)),
        ],
    )
