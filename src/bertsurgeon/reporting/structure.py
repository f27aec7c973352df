"""What each sub-layer of a model kept: the rows of a plan, and their drawings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertsurgeon.errors import PlanError
from bertsurgeon.files import read_json
from bertsurgeon.plan import Dense, Dropped, Grouped, LowRank, ModelPlan, Structure
from bertsurgeon.reporting import figures
from bertsurgeon.reporting import formats as fmt
from bertsurgeon.reporting.blocks import Block, Table, figure


def plan_rows(plan: ModelPlan) -> list[dict[str, Any]]:
    """Describes a plan for reports.

    Args:
        plan: The plan.

    Returns:
        For each layer: ``layer``, ``heads`` and ``neurons`` ([kept, all], or None if all are kept), ``matrices``
        (structure by role, in words) and ``kept`` (share of the weights by sub-layer).
    """
    rows = []
    for index, layer in enumerate(plan.layers):
        row: dict[str, Any] = {"layer": index}
        for name, sub_layer in (("heads", "attention"), ("neurons", "feed_forward")):
            units = next((units for key, units in layer.units.items() if key == sub_layer), None)
            row[name] = None if units is None else [units.kept, units.total]
        row["matrices"] = {role: _describe(matrix.structure) for role, matrix in layer.matrices.items()}
        row["kept"] = {
            sub_layer: sum(layer.matrices[role].kept for role in roles)
            / sum(layer.matrices[role].size for role in roles)
            for sub_layer, roles in layer.sub_layers.items()
        }
        rows.append(row)
    return rows


def _describe(structure: Structure) -> str:
    match structure:
        case Dense():
            return "dense"
        case Dropped():
            return "–"
        case Grouped():
            return f"{structure.groups} groups"
        case LowRank():
            return f"rank {structure.rank}"


def read_plan(folder: Path) -> list[dict[str, Any]] | None:
    """Returns the plan in the configuration of a pruned model; None if there is none that can be read."""
    try:
        content = read_json(folder / "config.json")
        return plan_rows(ModelPlan.from_dict(content["quantization_config"]["plan"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, PlanError):
        return None


def plan_blocks(plan: Sequence[Mapping[str, Any]] | None) -> list[Block | None]:
    """Returns the figures of a plan.

    Args:
        plan: Its rows, see ``docs/report.md``; None if there is none.
    """
    if not plan:
        return []

    def counted(pair: Sequence[int] | None) -> str:
        return f"{fmt.integer(pair[0])} of {fmt.integer(pair[1])}" if pair else ""

    kept = Table(
        ("Layer", "Heads", "Neurons", "Attention weights", "Feed-forward weights"),
        [
            (
                str(row["layer"]),
                counted(row.get("heads")),
                counted(row.get("neurons")),
                fmt.share((row.get("kept") or {}).get("attention")),
                fmt.share((row.get("kept") or {}).get("feed_forward")),
            )
            for row in plan
        ],
        "What each layer keeps",
    )
    roles = list(dict.fromkeys(role for row in plan for role in row.get("matrices") or {}))
    matrices = Table(
        ("Layer", *(role.replace("_", " ") for role in roles)),
        [(str(row["layer"]), *((row.get("matrices") or {}).get(role, "") for role in roles)) for row in plan],
        "Structure of each matrix",
        numbers=frozenset(),
    )
    kept_caption = "Share of the weights that each sub-layer keeps, with its heads and neurons."
    caption = "Structure of each matrix: its rank or number of groups, dense, or – if it is removed."
    structure = figures.draw_matrices(plan, caption)
    return [
        figure(figures.draw_kept(plan, kept_caption), kept_caption, kept),
        None if structure is None else figure(structure, caption, matrices),
    ]


def predicted_block(report: Mapping[str, Any]) -> Block | None:
    """Returns the figure of predicted against measured loss; None if there are no predictions."""
    rows = report.get("predicted") or []
    caption = "Measured loss against the error that the search predicted, for each one-shot budget (share removed)."
    table = Table(
        ("Removed", "Predicted error", "Measured loss"),
        [(fmt.share(r["removed"]), fmt.significant(r["predicted_error"]), fmt.points(r["loss"])) for r in rows],
        "Predicted and measured",
    )
    return figure(figures.draw_predicted(rows, caption), caption, table)
