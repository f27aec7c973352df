"""``bertsurgeon bench``."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertsurgeon.benchmark import BenchmarkConfig, split_modes
from bertsurgeon.benchmark import bench as compare
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.tables import compact_table
from bertsurgeon.errors import OptionError
from bertsurgeon.workflows.inputs import DataConfig, check_same_vocabulary, load_data, load_texts, resolve_model

BAR = 24
"""Characters of the longest bar."""


@app.command()
@guarded
@opt.expand
def bench(
    *,
    models: Annotated[
        list[str],
        typer.Argument(
            help="Model folders, exported folders or hub ids; ratios are to the first. FOLDER@bf16 and FOLDER@compile "
            "run a PyTorch model in bfloat16, or compiled."
        ),
    ],
    config: Annotated[BenchmarkConfig, opt.Panel("Benchmark", without=("seed", "memory"))],
    with_memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Peak memory, each model in a process of its own.")
    ] = True,
    chart: Annotated[Path | None, typer.Option("--chart", help="Also draw a bar chart (PNG, SVG or PDF).")] = None,
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_train_samples",))],
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Times models side by side, in PyTorch or exported: interleaved runs, medians, ratios first.

    With data, batches of its texts are timed, padded to the longest of each; without, random texts of --length tokens.
    """
    if chart is not None:
        _check_chart(chart)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = replace(config, memory=with_memory, seed=seed, max_length=data.max_length)
    names = list(dict.fromkeys(models))
    texts = tokenizer = None
    if not data.is_empty:
        check_same_vocabulary(*(split_modes(name)[0] for name in names))
        tokenizer = load_tokenizer(resolve_model(split_modes(names[0])[0]))
        texts = load_data(data, seed).train if data.text_file is None else load_texts(data)[0]
    result = compare({name: resolve_model(name) for name in names}, config, texts, tokenizer).to_dict()
    emit(result, as_json, lambda console: _show(result, console))
    if chart is not None:
        _draw(result, chart)


def _show(result: dict[str, Any], console: Console) -> None:
    sizes = result["batch_sizes"]
    what = "your texts" if result["drawn_from_data"] else f"texts of {result['length']} tokens"
    title = f"{what}, {result['environment']['threads']} threads: latency at batch {sizes[0]}, best of batches "
    console.print(title + ", ".join(map(str, sizes)), highlight=False)
    rows = list(result["models"].values())
    labels = list(result["models"])
    table = _table(labels, rows)
    unlimited = console.options.update(width=10_000)
    if console.measure(table, options=unlimited).maximum > console.width:  # numbers stand for the names in the table
        for number, name in enumerate(labels, 1):
            console.print(Text(f"{number}  {name}", overflow="fold"))
        labels = [str(number) for number in range(1, len(rows) + 1)]
        table = _table(labels, rows)
    console.print(table)
    most = max(row["texts_per_second"] for row in rows)
    for label, row in zip(labels, rows, strict=True):
        bar = "█" * max(1, round(BAR * row["texts_per_second"] / most))
        console.print(f"{bar:<{BAR}} {row['texts_per_second']:8.0f} texts/s  {label}", highlight=False)


def _table(labels: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    table = compact_table()
    table.add_column("model", overflow="fold")
    table.add_column("runs in")
    for column in ("faster", "p50\nms", "p95\nms", "more\ntexts", "texts/s", "memory\nMB", "file\nMB"):
        table.add_column(column, justify="right")
    for label, row in zip(labels, rows, strict=True):
        table.add_row(
            label,
            f"{row['runtime']} {row['precision']}",
            f"{row['speedup']:.2f}x",
            f"{row['p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['throughput_ratio']:.2f}x",
            f"{row['texts_per_second']:.0f}",
            _megabytes(row["memory_bytes"]),
            _megabytes(row["file_bytes"]),
        )
    return table


def _megabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.0f}"


def _check_chart(file: Path) -> None:
    """Checks, before anything is timed, that a chart can be drawn and written.

    Raises:
        OptionError: If it cannot.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise OptionError("--chart needs matplotlib; run: pip install matplotlib.") from None
    if file.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise OptionError(f"The suffix of --chart sets the format (.png, .svg or .pdf), and {file} has none of them.")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise OptionError(f"The chart cannot be written to {file}; name a file in a folder that exists and is yours.")


def _draw(result: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    rows = result["models"]
    figure = Figure(figsize=(8, 1 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = [f"{Path(name).name}\n{row['runtime']} {row['precision']}" for name, row in rows.items()]
    for ax, key, title in (
        (axes[0], "speedup", f"latency at batch {result['batch_sizes'][0]}: times faster"),
        (axes[1], "throughput_ratio", "throughput: times more texts"),
    ):
        bars = ax.barh(labels, [row[key] for row in rows.values()], color="#4477aa")
        ax.bar_label(bars, fmt="%.2fx", padding=3)
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.15)
    axes[0].invert_yaxis()
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise OptionError(f"The chart cannot be written to {file}: {error}.") from error
