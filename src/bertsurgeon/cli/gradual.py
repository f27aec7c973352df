"""``bertsurgeon gradual``."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import (
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from bertsurgeon import progress
from bertsurgeon.checkpoint import check_masked_lm, load_model, load_tokenizer, read_config
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded_together
from bertsurgeon.cli.groups import grouped
from bertsurgeon.cli.sources import DataOptions, check_same_vocabulary, load_data, load_texts, resolve_model
from bertsurgeon.cli.train import Job, fit_and_save, labelled_job, load_for_finetuning, may_replace, unlabelled_job
from bertsurgeon.errors import OptionError
from bertsurgeon.evaluation import check_head, evaluate_masked_lm
from bertsurgeon.gradual.recipes import MaskedLanguageModeling, Recipe, load_recipe
from bertsurgeon.gradual.training import train_gradually
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.tasks import align_to_model, recode_labels, tokenize

_RECIPE = "Recipe"


@app.command()
@guarded_together
@grouped
def gradual(
    *,
    model: opt.Model,
    output: opt.Output,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="downstream-10, downstream-30, upstream, sparse-transfer, or a YAML file.",
            rich_help_panel=_RECIPE,
        ),
    ],
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Folder or hub id of a fine-tuned dense model, to distil from.")
    ] = None,
    data_options: DataOptions,
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", help="Stretches or shortens all times of the recipe.", rich_help_panel=_RECIPE),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Share that is zero in the end.", rich_help_panel=_RECIPE),
    ] = None,
    first_sparsity: Annotated[
        float | None,
        typer.Option("--first-sparsity", help="Share after the first pruning.", rich_help_panel=_RECIPE),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="unstructured, block (1x4), 1xN, or N:M such as 2:4.", rich_help_panel=_RECIPE),
    ] = None,
    memory_gb: Annotated[
        float, typer.Option("--memory-gb", help="For Fisher blocks; if too little, the data is read again.")
    ] = 4.0,
    bf16: opt.Bf16 = False,
    resume: opt.Resume = False,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Prunes a model while it learns a task, as a recipe says (oBERT), or trains a sparse one with its zeros fixed.

    The recipe upstream learns no task, but to guess hidden words of raw texts: --text-file, or the texts of a --task.
    What --epochs, --sparsity, --first-sparsity and --pattern name replaces what the recipe says.
    """
    check_same_vocabulary(model, teacher)
    chosen = _adapt(load_recipe(recipe), epochs, sparsity, first_sparsity, pattern)
    may_overwrite = may_replace(output, overwrite, resume)
    set_seed(seed)
    head = AutoModelForMaskedLM if chosen.masked_lm else None
    teacher_network = None if teacher is None else load_model(resolve_model(teacher), head)
    if teacher_network is None and chosen.distillation.distillation_weight > 0:
        progress.note(f"No --teacher is named: only the {'hidden words' if chosen.masked_lm else 'labels'} are learnt.")
    if chosen.masked_lm:
        network, tokenizer, job = _load_masked_lm(
            resolve_model(model), data_options, teacher_network, chosen.masked_lm, seed
        )
    else:
        network, tokenizer, job = _load(resolve_model(model), data_options, teacher_network, seed)
    if job.name is None and not chosen.masked_lm:
        chosen = replace(
            chosen, distillation=replace(chosen.distillation, distillation_weight=1.0)
        )  # only the teacher speaks

    def fit(work_dir: Path) -> None:
        train_gradually(
            network,
            job.training,
            tokenizer,
            chosen,
            work_dir,
            teacher=teacher_network,
            resume=resume,
            memory_gb=memory_gb,
            bf16=bf16,
            seed=seed,
            description="Pruning" if chosen.pruning else "Training",
        )

    metrics = fit_and_save(network, tokenizer, job, fit, {"recipe": asdict(chosen)}, output, resume, may_overwrite)
    share = sparsity_of(masks_of(network))
    line = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    result = {"output": str(output), "sparsity": share, "recipe": asdict(chosen), "metrics": metrics}
    emit(
        result,
        as_json,
        lambda console: console.print(f"{share:.2%} of the encoder is zero  {line}", highlight=False),
    )


def _adapt(
    recipe: Recipe, epochs: float | None, sparsity: float | None, first_sparsity: float | None, pattern: str | None
) -> Recipe:
    """A recipe with what the options replace.

    Raises:
        OptionError: If it then contradicts itself, or prunes nothing that could be changed.
    """
    given = {"sparsity": sparsity, "first_sparsity": first_sparsity, "pattern": pattern}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if changes:
        recipe = recipe.with_pruning(**changes)
    return recipe if epochs is None else recipe.scaled(epochs)


def _load_masked_lm(
    name: str,
    options: DataOptions,
    teacher: PreTrainedModel | None,
    guessing: MaskedLanguageModeling,
    seed: int,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Job]:
    """The model, dense or sparse, and the texts that it guesses hidden words of.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    if (options.text_file is None) == options.only_texts:
        raise OptionError(
            "Name the texts to guess words of: --text-file, or a --task for the texts of it, one of them."
        )
    network, tokenizer = load_model(name, AutoModelForMaskedLM), load_tokenizer(name)
    for one in (network, teacher):
        if one is not None:
            check_masked_lm(one)
    if options.text_file is not None:
        texts = load_texts(options, seed)
    else:
        data = load_data(options, seed)
        texts = data.train.remove_columns("label"), data.validation.remove_columns("label")
    training, held_out = (tokenize(part, tokenizer, options.max_length) for part in texts)

    def score(model: PreTrainedModel) -> dict[str, float]:
        return evaluate_masked_lm(model, held_out, tokenizer, probability=guessing.probability, seed=seed)

    return network, tokenizer, Job(None, training, score)


def _load(
    name: str, options: DataOptions, teacher: PreTrainedModel | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Job]:
    """The model, dense or sparse, with a head for the task, and what it is trained on.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or does not fit together.
    """
    if options.text_file is not None:
        if not options.only_texts or teacher is None:
            raise OptionError("--text-file trains without labels: name a --teacher with it, and no other data.")
        network, tokenizer = load_model(name), load_tokenizer(name)
        return network, tokenizer, unlabelled_job(load_texts(options, seed), tokenizer, options.max_length, teacher)
    own, data = read_config(name), load_data(options, seed)
    # a new head numbers its classes as the teacher does; one that is there already does so itself
    data = recode_labels(data if teacher is None else align_to_model(data, teacher), own, new_head=True)
    network, tokenizer = load_for_finetuning(name, data, sparse=True)
    check_head(network, data.task)
    if teacher is not None:
        check_head(teacher, data.task)
    return network, tokenizer, labelled_job(data, tokenizer, options.max_length)
