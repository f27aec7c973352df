"""The table at the end of a command: models side by side, the first one dense."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from bertsurgeon.benchmark import compare_latency, count_flops, fitting_length, folder_size, measure_sizes
from bertsurgeon.plan import Dense, Dropped, Grouped, LayerPlan, LowRank, ModelPlan, Structure, SubLayerName

LENGTH = 128
"""Tokens per text for FLOPs and latency, where the models take so many."""


def summarise(
    models: dict[str, PreTrainedModel], folders: dict[str, Path], metrics: dict[str, dict[str, float]], runs: int = 10
) -> dict[str, dict[str, Any]]:
    """Quality, size, FLOPs and latency of models by name.

    Args:
        models: The models.
        folders: Where each is stored.
        metrics: The task's metrics of each, in percent; may be empty.
        runs: Timed forward passes per model and batch size.
    """
    length = fitting_length(models.values(), LENGTH)
    single = compare_latency(models, batch_size=1, length=length, runs=runs)
    batch = compare_latency(models, batch_size=8, length=length, runs=runs)
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        sizes = measure_sizes(model)
        rows[name] = {
            **metrics.get(name, {}),
            "encoder_weights": sizes.encoder_weights,
            "parameters": sizes.parameters,
            "file_bytes": folder_size(folders[name]),
            "flops": count_flops(model, 1, length),
            f"latency_ms_1x{length}": single[name].p50_ms,
            f"latency_ms_8x{length}": batch[name].p50_ms,
        }
    return rows


_FORMATS: dict[str, tuple[str, float, str]] = {
    "encoder_weights": ("encoder weights", 1e6, "{:.2f} M"),
    "parameters": ("all parameters", 1e6, "{:.2f} M"),
    "file_bytes": ("file size", 1e6, "{:.1f} MB"),
    "flops": ("FLOPs", 1e9, "{:.2f} G"),
}


def print_summary(rows: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints what :func:`summarise` returned; ratios are to the first model."""
    table = Table(title="Dense and pruned, PyTorch on this machine", title_justify="left")
    table.add_column("")
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
                cells.append(f"{100 * other / value:.0f} % kept")
            else:
                cells.append(f"{other - value:+.1f}")
        table.add_row(title, *cells)
    console.print(table)


def print_plan(plan: ModelPlan, console: Console) -> None:
    """Prints a plan: one line per layer, one column per matrix."""
    roles = list(plan.layers[0].matrices)
    table = Table(title=f"{plan.architecture}: {100 * (1 - plan.sparsity):.1f} % of {plan.size:,} encoder weights kept")
    table.add_column("layer", justify="right")
    counted: dict[SubLayerName, str] = {"attention": "heads", "feed_forward": "neurons"}
    shown = [name for name in counted if any(name in layer.units for layer in plan.layers)]
    for name in shown:
        table.add_column(counted[name], justify="right")
    for role in roles:
        table.add_column(role.replace("_", "\n"), justify="center")
    for index, layer in enumerate(plan.layers):
        units = [_units(layer, name) for name in shown]
        table.add_row(str(index), *units, *(_word(layer.matrices[role].structure) for role in roles))
    console.print(table)


def print_sparsity(kept: list[dict[str, int]], plan: ModelPlan, block: int, console: Console) -> None:
    """Prints what is left of a sparse model: one line per layer, one column per matrix.

    Args:
        kept: Weights that are left, by layer and role.
        plan: The model's plan, or the dense one, for the shapes.
        block: Weights that were pruned together.
        console: Where to.
    """
    total = sum(sum(layer.values()) for layer in kept)
    unit = "single weights" if block == 1 else f"blocks of 1×{block}"
    table = Table(
        title=f"{plan.architecture}, {unit}: {100 * total / plan.size:.1f} % of {plan.size:,} encoder weights kept"
    )
    table.add_column("layer", justify="right")
    for role in plan.layers[0].matrices:
        table.add_column(role.replace("_", "\n"), justify="right")
    for index, (counts, layer) in enumerate(zip(kept, plan.layers, strict=True)):
        shares = [f"{100 * counts.get(role, 0) / matrix.size:.1f} %" for role, matrix in layer.matrices.items()]
        table.add_row(str(index), *shares)
    console.print(table)


def _units(layer: LayerPlan, name: SubLayerName) -> str:
    if layer.is_dropped(name):
        return "–"
    return f"{layer.units[name].kept} of {layer.units[name].total}" if name in layer.units else "all"


def _word(structure: Structure) -> str:
    match structure:
        case Dense():
            return "dense"
        case Dropped():
            return "–"
        case Grouped():
            return f"G = {structure.groups}"
        case LowRank():
            return f"rank {structure.rank}"
