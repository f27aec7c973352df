"""``bertsurgeon gradual``."""

from typing import Annotated, Any

import typer

from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded_together
from bertsurgeon.cli.tables import format_metrics
from bertsurgeon.gradual import load_recipe, packaged_recipes
from bertsurgeon.workflows.inputs import DataConfig
from bertsurgeon.workflows.train_and_save import prune_gradually_and_save
from bertsurgeon.workflows.training_output import TrainingOutput

_RECIPE = "Recipe"


@app.command()
@guarded_together
@opt.expand
def gradual(
    *,
    model: opt.Model,
    output: opt.Output,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help=f"{', '.join(packaged_recipes())}, or a YAML file.",
            rich_help_panel=_RECIPE,
        ),
    ],
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Folder or hub id of a fine-tuned dense model, to distill from.")
    ] = None,
    data: Annotated[DataConfig, opt.Panel("Data")],
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", help="Rescales all times of the recipe to this many epochs.", rich_help_panel=_RECIPE),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Share of the weights that is zero at the end.", rich_help_panel=_RECIPE),
    ] = None,
    first_sparsity: Annotated[
        float | None,
        typer.Option("--first-sparsity", help="Share of zeros after the first pruning.", rich_help_panel=_RECIPE),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="unstructured, block (1x4), 1xN, or N:M such as 2:4.", rich_help_panel=_RECIPE),
    ] = None,
    memory_gb: Annotated[
        float,
        typer.Option(
            "--memory-gb",
            help="Memory for Fisher blocks in 10⁹ bytes; if they need more, the data is passed over several times.",
        ),
    ] = 4.0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Multiply in bfloat16 and keep the weights in float32.")] = False,
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Prunes a model while it is trained by a recipe (oBERT), or trains a sparse one and keeps its zeros.

    The recipe upstream trains no task but masked language modeling on texts: --text-file, or those of a --task.
    --epochs, --sparsity, --first-sparsity and --pattern replace what the recipe sets.
    """
    chosen = load_recipe(recipe)
    options = {"sparsity": sparsity, "first_sparsity": first_sparsity, "pattern": pattern}
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if changes:
        chosen = chosen.with_pruning(**changes)
    if epochs is not None:
        chosen = chosen.scaled(epochs)
    target = TrainingOutput(output, resume, overwrite)
    _, result = prune_gradually_and_save(
        model, chosen, data, target, teacher, memory_gb=memory_gb, bf16=bf16, seed=seed
    )
    line = format_metrics(result["metrics"])
    emit(
        {"output": str(output), **result},
        as_json,
        lambda console: console.print(f"{result['sparsity']:.2%} of the encoder is zero  {line}", highlight=False),
    )
