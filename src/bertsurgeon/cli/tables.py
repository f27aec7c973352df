"""Tables that commands print; they fit 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bertsurgeon.plan import Dense, Dropped, Grouped, LayerPlan, LowRank, ModelPlan, Role, Structure, SubLayerName
from bertsurgeon.recovery import RefitReport
from bertsurgeon.tasks.retrieval import PairedDifference

_FORMATS: dict[str, tuple[str, float, str]] = {
    "encoder_weights": ("encoder weights", 1e6, "{:.2f} M"),
    "parameters": ("all parameters", 1e6, "{:.2f} M"),
    "file_bytes": ("file size", 1e6, "{:.1f} MB"),
    "flops": ("FLOPs", 1e9, "{:.2f} G"),
}

_ROLES = {"intermediate": "inter-\nmediate"}
"""Headers of matrices whose names are too wide for a column."""

_COUNTED: dict[SubLayerName, str] = {"attention": "heads", "feed_forward": "neurons"}
"""Units of each sub-layer."""


def print_summary(rows: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints models side by side; ratios are to the first one.

    Args:
        rows: What :func:`bertsurgeon.workflows.pipeline.summarize` returned.
        console: Where to print.
    """
    table = Table(title="Dense and pruned, PyTorch on this machine", title_justify="left")
    table.add_column("", overflow="fold")  # names of metrics have no spaces
    names = list(rows)
    for name in names:
        table.add_column(name, justify="right")
    if len(names) == 2:
        table.add_column("", justify="right")
    first = rows[names[0]]
    length = next(key for key in first if key.startswith("latency_ms_")).rpartition("x")[2]
    for key, value in first.items():
        timed = key.startswith("latency_ms_")
        title, unit, form = _FORMATS.get(key, (key, 1.0, "{:.1f}" if key.endswith("_threshold") else "{:.1f} %"))
        if key == "flops":
            title += f", {length} tokens"
        if timed:
            title, form = f"latency {key.removeprefix('latency_ms_').replace('x', '×')}", "{:.1f} ms"
        cells = [form.format(rows[name][key] / unit) for name in names]
        if len(names) == 2:
            other = rows[names[1]][key]
            if timed:
                cells.append(f"{value / other:.2f}x faster" if other < value else f"{other / value:.2f}x slower")
            elif key in _FORMATS:
                cells.append(_change(other / value))
            else:
                cells.append(f"{other - value:+.1f}")
        table.add_row(title, *cells)
    console.print(table)


def print_refit(refit: dict[str, Any] | None, console: Console) -> None:
    """Prints what a refit of embeddings did.

    Args:
        refit: Content of a :class:`bertsurgeon.RefitReport`; None if there was none.
        console: Where to print.
    """
    if refit is not None:
        console.print(RefitReport(**refit).sentence, highlight=False)


def print_metrics_before_recovery(metrics: dict[str, float] | None, console: Console) -> None:
    """Prints a pruned model's metrics before its recovery, whose metrics afterwards are in the summary.

    Args:
        metrics: The metrics, in percent; None if there was no recovery.
        console: Where to print.
    """
    if metrics is not None:
        console.print(f"Pruned, before the recovery: {format_metrics(metrics)}", highlight=False)


def format_metrics(metrics: dict[str, float]) -> str:
    """Formats metrics in one line."""
    return "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())


def print_differences(differences: Mapping[str, PairedDifference], console: Console) -> None:
    """Prints the differences of two models over queries, and the smallest one that so many queries show."""
    table = compact_table()
    table.add_column("metric")
    for heading in ("reference", "model", "difference", "95 % interval", "p"):
        table.add_column(heading, justify="right")
    for name, one in differences.items():
        table.add_row(
            name,
            f"{one.reference:.2f}",
            f"{one.model:.2f}",
            f"{one.difference:+.2f}",
            f"{one.low:+.2f} to {one.high:+.2f}",
            f"{one.p:.4f}",
        )
    console.print(table)
    name, first = next(iter(differences.items()))
    if first.detectable:
        console.print(
            f"{first.queries:,} queries with this spread show differences of {name} of about {first.detectable:.1f} "
            "points or more.",
            highlight=False,
        )


def print_plan(plan: ModelPlan, console: Console) -> None:
    """Prints a plan: one line per layer, one column per matrix."""
    roles = list(plan.layers[0].matrices)
    table = compact_table()
    console.print(f"{plan.architecture}: {_removed(plan.kept, plan.size)}", highlight=False)
    table.add_column("layer", justify="right")
    totals = {name: {layer.units[name].total for layer in plan.layers if name in layer.units} for name in _COUNTED}
    shown = [name for name in _COUNTED if totals[name]]
    for name in shown:
        of_total = f"\nof {max(totals[name])}" if len(totals[name]) == 1 else ""
        table.add_column(_COUNTED[name] + of_total, justify="right")
    for role in roles:
        table.add_column(_header(role), justify="center")
    for index, layer in enumerate(plan.layers):
        units = [_units(layer, name, with_total=len(totals[name]) > 1) for name in shown]
        table.add_row(str(index), *units, *(_describe(layer.matrices[role].structure) for role in roles))
    console.print(table)
    if legend := _legend(plan, shown):
        console.print(legend, highlight=False)


def print_sparsity(kept: list[dict[str, int]], plan: ModelPlan, block: int, console: Console) -> None:
    """Prints the remaining weights of a sparse model: one line per layer, one column per matrix.

    Args:
        kept: Remaining weights, by layer and role.
        plan: The model's plan, or the dense one, for the shapes.
        block: Weights that were pruned together.
        console: Where to print.
    """
    total = sum(sum(layer.values()) for layer in kept)
    unit = "single weights" if block == 1 else f"blocks of 1×{block}"
    table = compact_table()
    console.print(f"{plan.architecture}, {unit}: {_removed(total, plan.size)}", highlight=False)
    console.print("Percent kept of each matrix:")
    table.add_column("layer", justify="right")
    for role in plan.layers[0].matrices:
        table.add_column(_header(role), justify="right")
    for index, (counts, layer) in enumerate(zip(kept, plan.layers, strict=True)):
        shares = [f"{100 * counts.get(role, 0) / matrix.size:.1f}" for role, matrix in layer.matrices.items()]
        table.add_row(str(index), *shares)
    console.print(table)


def compact_table() -> Table:
    """Returns a table without vertical lines, whose words are never cut."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _header(role: Role) -> str:
    return _ROLES.get(role, role.replace("_", "\n"))


def _removed(kept: int, total: int) -> str:
    """The share of the encoder that was removed, in the words and numbers of ``--sparsity``."""
    return f"{100 * (1 - kept / total):.1f} % of {total:,} encoder weights removed, {100 * kept / total:.1f} % kept"


def _change(ratio: float) -> str:
    """How much smaller or larger than the dense model something is."""
    return f"{100 * (1 - ratio):.0f} % removed" if ratio <= 1 else f"{100 * (ratio - 1):.0f} % more"


def _units(layer: LayerPlan, name: SubLayerName, with_total: bool) -> str:
    if layer.is_dropped(name):
        return "–"
    if name not in layer.units:
        return "all"
    units = layer.units[name]
    return f"{units.kept}/{units.total}" if with_total else str(units.kept)


def _legend(plan: ModelPlan, units: Sequence[SubLayerName]) -> str:
    """Explains the short words of a plan's table; empty if it has none."""
    structures = {type(matrix.structure) for layer in plan.layers for matrix in layer.matrices.values()}
    words = {
        LowRank: "r: rank of two factors",
        Grouped: "G: number of groups",
        Dropped: "–: removed",
    }
    parts = [words[kind] for kind in words if kind in structures]
    if units:
        parts.insert(0, f"{' and '.join(_COUNTED[name] for name in units)}: kept")
    return "; ".join(parts)


def _describe(structure: Structure) -> str:
    match structure:
        case Dense():
            return "dense"
        case Dropped():
            return "–"
        case Grouped():
            return f"G={structure.groups}"
        case LowRank():
            return f"r={structure.rank}"
