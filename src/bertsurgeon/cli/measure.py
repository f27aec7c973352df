"""``bertsurgeon evaluate`` and ``inspect``."""

from pathlib import Path
from typing import Annotated

from rich.console import Console

from bertsurgeon.architectures import get_architecture
from bertsurgeon.benchmark import folder_size, measure_sizes
from bertsurgeon.checkpoint import count_kept, get_plan, load_model, load_tokenizer, sparse_block
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.groups import Without, grouped
from bertsurgeon.cli.sources import DataOptions, load_data, resolve_model
from bertsurgeon.cli.summary import print_plan, print_sparsity
from bertsurgeon.cli.train import show_metrics
from bertsurgeon.evaluation import check_head
from bertsurgeon.evaluation import evaluate as evaluate_model
from bertsurgeon.plan import dense_plan
from bertsurgeon.runtime import is_exported, open_exported
from bertsurgeon.tasks import tokenize


@app.command()
@guarded
@grouped
def evaluate(
    *,
    model: opt.Model,
    data_options: Annotated[DataOptions, Without("max_train_samples", "text_file")],
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Scores a dense, pruned or exported model on a task's validation data."""
    network = open_exported(model) if is_exported(model) else load_model(resolve_model(model))
    data = load_data(data_options, seed)
    check_head(network, data.task)
    tokenizer = load_tokenizer(resolve_model(model))
    metrics = evaluate_model(
        network, tokenize(data.validation, tokenizer, data_options.max_length, data.task.kind), tokenizer, data.task
    )
    show_metrics({"model": model, "task": data.task.name, "metrics": metrics}, as_json)


@app.command()
@guarded
def inspect(model: opt.Model, as_json: opt.Json = False) -> None:
    """Shows what a model consists of: its plan or its sparsity, weights and file size."""
    folder = resolve_model(model)
    network = load_model(folder)
    plan = get_plan(network)
    block = sparse_block(network)
    kept = None if block is None else count_kept(network)
    sizes = measure_sizes(network)
    size = folder_size(Path(folder)) if Path(folder).is_dir() else None
    result = {
        "model": model,
        "encoder_weights": sizes.encoder_weights,
        "parameters": sizes.parameters,
        "file_bytes": size,
        "plan": None if plan is None else plan.to_dict(),
        "sparse": None if kept is None else {"block": block, "kept": kept},
    }

    def show(console: Console) -> None:
        if kept is not None and block is not None:
            architecture = get_architecture(network.config.model_type)
            print_sparsity(kept, plan or dense_plan(architecture.name, architecture.shapes(network)), block, console)
        if plan is not None:
            print_plan(plan, console)
        elif kept is None:
            console.print("A dense model.")
        line = f"{sizes.encoder_weights:,} encoder weights, {sizes.parameters:,} parameters"
        console.print(line + ("" if size is None else f", {size / 1e6:.1f} MB on disk"), highlight=False)

    emit(result, as_json, show)
