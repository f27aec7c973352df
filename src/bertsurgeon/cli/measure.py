"""``bertsurgeon evaluate`` and ``inspect``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import folder_size, measure_sizes
from bertsurgeon.checkpoint import count_kept, get_plan, load_model, load_tokenizer, sparse_block
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.cli.tables import format_metrics, print_differences, print_plan, print_sparsity
from bertsurgeon.cli.train import show_metrics
from bertsurgeon.errors import OptionError
from bertsurgeon.evaluation import check_head, compare
from bertsurgeon.evaluation import evaluate as evaluate_model
from bertsurgeon.plan import dense_plan
from bertsurgeon.retrieval import RetrievalConfig, compare_results
from bertsurgeon.tasks import task_type_for_texts, tokenize
from bertsurgeon.tasks.retrieval import PairedDifference
from bertsurgeon.workflows.inputs import (
    DataConfig,
    check_same_vocabulary,
    load_validation,
    open_model,
    read_all_texts,
    resolve_model,
)
from bertsurgeon.workflows.retrieval import Searcher, is_retrieval


@app.command()
@guarded
@opt.expand
def evaluate(
    *,
    model: opt.Model,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Also compare with this model, for instance the dense one; enough with --text-file, without labels.",
        ),
    ] = None,
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_train_samples",))],
    retrieval: Annotated[RetrievalConfig, opt.Panel("Retrieval (--task retrieval)")],
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Scores a dense, pruned or exported model on a task's validation data, or against another model's outputs.

    --validation-file is enough: the model has the codes of the classes. A --train-file is read for its classes only.
    Texts of --text-file should be ones that nothing was pruned or recovered with; all of them are compared.
    --task retrieval searches the collection in --data-dir with an embedder, or sorts candidates with a reranker; with a
    --reference, the differences are tested over its queries.
    """
    if is_retrieval(data, retrieval):
        evaluate_search(model, reference, data, retrieval, seed, as_json)
        return
    if data.text_file is not None and (reference is None or not data.only_texts):
        raise OptionError("--text-file evaluates without labels: name a --reference with it, and no other data.")
    check_same_vocabulary(model, reference)
    network = open_model(model, data)
    tokenizer = load_tokenizer(resolve_model(model))
    metrics: dict[str, float] = {}
    name: str | None = None
    if data.text_file is not None:
        rows = tokenize(read_all_texts(data), tokenizer, data.max_length, task_type_for_texts(network))
    else:
        task, raw = load_validation(data, network, seed)
        check_head(network, task)
        rows = tokenize(raw, tokenizer, data.max_length, task.type)
        metrics, name = evaluate_model(network, task, rows, tokenizer), task.name
    if reference is not None:
        metrics |= compare(open_model(reference, data), network, rows, tokenizer)
    show_metrics({"model": model, "task": name, "metrics": metrics}, as_json)


def evaluate_search(
    model: str, reference: str | None, data: DataConfig, config: RetrievalConfig, seed: int, as_json: bool
) -> None:
    """Evaluates a model on a retrieval collection, beside another one if that is named."""
    if data.text_file is not None:
        raise OptionError("--text-file has no effect with --task retrieval, which reads a collection; leave it out.")
    searcher = Searcher(data, config)
    result, *others = searcher(*([model] if reference is None else [model, reference]))
    report = {"model": model, "task": data.task, "collection": searcher.collection.name, **result.to_dict()}
    differences: dict[str, PairedDifference] = {}
    for other in others:
        differences = compare_results(other, result, seed=seed)
        report |= {
            "reference": {"model": reference, **other.to_dict()},
            "differences": {name: difference.to_dict() for name, difference in differences.items()},
        }

    def show(console: Console) -> None:
        console.print(format_metrics(result.metrics), highlight=False)
        if result.first_stage is not None:
            console.print("first stage: " + format_metrics(result.first_stage), highlight=False)
        if differences:
            print_differences(differences, console)

    emit(report, as_json, show)


@app.command(runs_models=False)
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
            encoder = Encoder(network)
            print_sparsity(kept, plan or dense_plan(encoder.architecture.name, encoder.shapes), block, console)
        if plan is not None:
            print_plan(plan, console)
        elif kept is None:
            console.print("A dense model.")
        line = f"{sizes.encoder_weights:,} encoder weights, {sizes.parameters:,} parameters"
        console.print(line + ("" if size is None else f", {size / 1e6:.1f} MB on disk"), highlight=False)

    emit(result, as_json, show)
