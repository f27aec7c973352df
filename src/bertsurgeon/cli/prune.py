"""``bertsurgeon prune`` and ``bertsurgeon calibrate``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from bertsurgeon.checkpoint import check_output, load_model
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded_together
from bertsurgeon.cli.groups import Without, grouped
from bertsurgeon.cli.methods import AutoOptions, BudgetOptions, ObertOptions, PgbOptions
from bertsurgeon.cli.pipeline import load_inputs, run_prune
from bertsurgeon.cli.sources import DataOptions, LossOptions, check_same_vocabulary, resolve_model
from bertsurgeon.cli.summary import print_plan, print_sparsity, print_summary
from bertsurgeon.config import Method, PruneConfig
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.methods.auto.measurements import calibrate as calibrate_model

Samples = Annotated[
    int | None, typer.Option("--samples", help="Calibration texts; default: enough (auto), or 1024 (pgb, obert).")
]
Damping = Annotated[float, typer.Option("--damping", help="Relative damping of the compensation.")]


@app.command()
@guarded_together
@grouped
def prune(
    *,
    model: opt.Model,
    output: opt.Output,
    data_options: DataOptions,
    budget: BudgetOptions,
    method: Annotated[str, typer.Option("--method", help="auto, pgb or obert")] = PruneConfig.method,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="auto: what 'bertsurgeon calibrate' wrote."),
    ] = None,
    auto: AutoOptions,
    pgb: PgbOptions,
    obert: ObertOptions,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="obert: take gradients of the distillation from this model."),
    ] = None,
    damping: Damping = PruneConfig.damping,
    samples: Samples = PruneConfig.samples,
    recover_epochs: Annotated[
        float, typer.Option("--recover-epochs", help="Epochs of re-finetuning; 0 stays one-shot (the paper: 3).")
    ] = 0.0,
    loss_options: LossOptions,
    trim_vocabulary: Annotated[
        bool,
        typer.Option("--trim-vocabulary", help="Drop embeddings of tokens that the data never uses (trim-vocabulary)."),
    ] = False,
    seed: opt.Seed = PruneConfig.seed,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Prunes a fine-tuned model in one shot, optionally recovers it, and compares it with the dense one."""
    settings = auto.settings() | asdict(pgb) | asdict(obert)
    settings |= {"damping": damping, "samples": samples, "seed": seed}
    configs = [PruneConfig(method=cast(Method, method), **one, **settings) for one in budget.each()]
    if calibration is not None and method != "auto":
        raise OptionError("--calibration serves the method auto only.")
    if teacher is not None and method != "obert":
        raise OptionError("--teacher serves the method obert only; recovery's teacher is the dense model.")
    training = None
    if recover_epochs:
        training = loss_options.training(recover_epochs, seed, taught=True)
    folders = [output] if len(configs) == 1 else [output / f"sparsity-{config.sparsity:g}" for config in configs]
    for folder in folders:
        check_output(folder, overwrite)
    known = None if calibration is None else Calibration.load(calibration)
    check_same_vocabulary(model, teacher)
    inputs = load_inputs(resolve_model(model), data_options, seed)
    teacher_network = None if teacher is None else load_model(resolve_model(teacher))
    jobs = list(zip(configs, folders, strict=True))
    results = run_prune(inputs, jobs, training, overwrite, known, teacher_network, trim_vocabulary)

    def show(console: Any) -> None:
        for (result, report), folder in zip(results, folders, strict=True):
            if report.sparse is None:
                print_plan(report.plan, console)
            else:
                block = report.config.step_options().pattern.width
                print_sparsity(report.sparse.kept, report.plan, block, console)
            print_summary(result["models"], console)
            console.print(f"Saved {folder}: load it with from_pretrained after 'import bertsurgeon'.", highlight=False)

    found = [result for result, _ in results]
    emit(found[0] if len(found) == 1 else {"models": found}, as_json, show)


@app.command()
@guarded_together
@grouped
def calibrate(
    *,
    model: opt.Model,
    output: opt.Output,
    data_options: Annotated[DataOptions, Without("max_train_samples")],
    auto: Annotated[AutoOptions, Without("target")],
    damping: Damping = PruneConfig.damping,
    samples: Samples = PruneConfig.samples,
    seed: opt.Seed = PruneConfig.seed,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Finds out once what every part of a dense model is worth, for 'prune --calibration' at any budget."""
    check_output(output, overwrite)
    # the budget is not used here, but a configuration has one
    config = PruneConfig(sparsity=0.5, damping=damping, samples=samples, seed=seed, **auto.settings())
    inputs = load_inputs(resolve_model(model), data_options, seed)
    result = calibrate_model(inputs.model, inputs.calibration, config, inputs.tokenizer)
    result.save(output, overwrite)
    summary = {"output": str(output), "settings": result.settings, "seconds": result.seconds}
    emit(
        summary, as_json, lambda console: console.print(f"Saved {output}: use it with 'prune --calibration {output}'.")
    )
