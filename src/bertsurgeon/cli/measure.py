"""``bertsurgeon evaluate``, ``bench`` and ``inspect``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bertsurgeon.benchmark import compare_latency, count_flops, environment, folder_size
from bertsurgeon.checkpoint import get_plan, load_model, load_tokenizer
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.sources import DataOptions, load_data, resolve_model
from bertsurgeon.cli.summary import print_plan
from bertsurgeon.cli.train import show_metrics
from bertsurgeon.evaluation import check_head, measure_sizes
from bertsurgeon.evaluation import evaluate as evaluate_model
from bertsurgeon.tasks import tokenize


@app.command()
@guarded
def evaluate(
    model: opt.Model,
    task: opt.TaskName = None,
    data_dir: opt.DataDir = None,
    train_file: opt.TrainFile = None,
    validation_file: opt.ValidationFile = None,
    text_column: opt.TextColumn = "text",
    text_pair_column: opt.TextPairColumn = None,
    label_column: opt.LabelColumn = "label",
    max_length: opt.MaxLength = 128,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Scores a dense or pruned model on a task's validation data."""
    network = load_model(resolve_model(model))
    data = load_data(
        DataOptions(
            task, data_dir, train_file, validation_file, text_column, text_pair_column, label_column, max_length
        ),
        seed,
    )
    check_head(network, data.task)
    tokenizer = load_tokenizer(resolve_model(model))
    metrics = evaluate_model(network, tokenize(data.validation, tokenizer, max_length), tokenizer, data.task)
    show_metrics({"model": model, "task": data.task.name, "metrics": metrics}, as_json)


@app.command()
@guarded
def bench(
    models: Annotated[list[str], typer.Argument(help="Model folders or hub ids; ratios are to the first.")],
    batch_size: Annotated[int, typer.Option("--batch-size", help="Texts per forward pass.")] = 8,
    length: Annotated[int, typer.Option("--length", help="Tokens per text.")] = 128,
    runs: Annotated[int, typer.Option("--runs", help="Timed forward passes per model.")] = 20,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Times models side by side in PyTorch: interleaved forward passes, medians, ratios first."""
    networks = {name: load_model(resolve_model(name)) for name in models}
    latencies = compare_latency(networks, batch_size, length, runs, seed=seed)
    first = latencies[models[0]].p50_ms
    result: dict[str, Any] = {
        "environment": environment(),
        "batch_size": batch_size,
        "length": length,
        "models": {
            name: {
                "speedup": first / latencies[name].p50_ms,
                "p50_ms": latencies[name].p50_ms,
                "p95_ms": latencies[name].p95_ms,
                "texts_per_second": latencies[name].throughput,
                "flops": count_flops(network, batch_size, length),
                "encoder_weights": measure_sizes(network).encoder_weights,
            }
            for name, network in networks.items()
        },
    }

    def show(console: Console) -> None:
        table = Table(title=f"PyTorch, {batch_size}×{length} tokens, {result['environment']['threads']} threads")
        table.add_column("model")
        for column in ("speed-up", "p50", "p95", "texts/s", "GFLOPs", "encoder weights"):
            table.add_column(column, justify="right")
        for name, row in result["models"].items():
            table.add_row(
                name,
                f"{row['speedup']:.2f}x",
                f"{row['p50_ms']:.1f} ms",
                f"{row['p95_ms']:.1f} ms",
                f"{row['texts_per_second']:.0f}",
                f"{row['flops'] / 1e9:.2f}",
                f"{row['encoder_weights']:,}",
            )
        console.print(table)

    emit(result, as_json, show)


@app.command()
@guarded
def inspect(model: opt.Model, as_json: opt.Json = False) -> None:
    """Shows what a model consists of: its plan, weights and file size."""
    folder = resolve_model(model)
    network = load_model(folder)
    plan = get_plan(network)
    sizes = measure_sizes(network)
    size = folder_size(Path(folder)) if Path(folder).is_dir() else None
    result = {
        "model": model,
        "encoder_weights": sizes.encoder_weights,
        "parameters": sizes.parameters,
        "file_bytes": size,
        "plan": None if plan is None else plan.to_dict(),
    }

    def show(console: Console) -> None:
        if plan is None:
            console.print("A dense model.")
        else:
            print_plan(plan, console)
        line = f"{sizes.encoder_weights:,} encoder weights, {sizes.parameters:,} parameters"
        console.print(line + ("" if size is None else f", {size / 1e6:.1f} MB on disk"), highlight=False)

    emit(result, as_json, show)
