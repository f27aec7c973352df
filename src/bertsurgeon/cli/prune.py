"""``bertsurgeon prune`` and ``bertsurgeon calibrate``."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bertsurgeon.checkpoint import check_output, load_model, lock_outputs, locks_output
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import Command, app, emit, guarded_together
from bertsurgeon.cli.tables import (
    print_metrics_before_recovery,
    print_plan,
    print_refit,
    print_sparsity,
    print_summary,
)
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.config import CalibrationConfig
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.methods.auto.measurements import calibrate as calibrate_model
from bertsurgeon.methods.base import Method, PruneConfig
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.options import check_not_given
from bertsurgeon.recovery import TrainingConfig
from bertsurgeon.workflows.inputs import DataConfig, check_same_vocabulary, input_paths, resolve_model
from bertsurgeon.workflows.pipeline import PrunedModel, load_inputs, prune_to_budgets


def make_prune_command(methods: Mapping[str, Method]) -> Command:
    """Makes the command ``prune``, with the options of all methods.

    Args:
        methods: The methods by name; the first one is the default.
    """
    method_options = opt.MethodOptions(methods)
    summaries = "; ".join(f"{method.name}: {method.summary}" for method in methods.values())

    def prune(
        *,
        model: opt.Model,
        output: opt.Output,
        data: Annotated[DataConfig, opt.Panel("Data")],
        method: Annotated[str, typer.Option("--method", help=f"{summaries}.")] = next(iter(methods)),
        method_values: Any,
        calibration: Annotated[
            Path | None, typer.Option("--calibration", help="Calibration from 'bertsurgeon calibrate', for auto.")
        ] = None,
        teacher: Annotated[
            str | None, typer.Option("--teacher", help="Model whose distillation gives the gradients of obert.")
        ] = None,
        recover_epochs: Annotated[
            float, typer.Option("--recover-epochs", help="Epochs of recovery from the dense model; 0 for none.")
        ] = 0.0,
        training: Annotated[TrainingConfig, opt.Panel("Recovery", without=("epochs", "seed"))],
        trim_vocabulary: Annotated[
            bool, typer.Option("--trim-vocabulary", help="Remove the embeddings of tokens that the data never uses.")
        ] = False,
        refit: opt.Refit = None,
        seed: opt.Seed = 0,
        overwrite: opt.Overwrite = False,
        as_json: opt.Json = False,
    ) -> None:
        """Prunes a fine-tuned model in one shot, optionally recovers it, and compares it with the dense one."""
        configs = method_options.configs(method, method_values, seed)
        entry = methods[method]
        if calibration is not None and entry.calibrate is None:
            raise OptionError(f"--calibration has no effect with the method {method}; leave it out.")
        if teacher is not None and not entry.accepts_teacher:
            raise OptionError(
                f"--teacher has no effect with the method {method}; the teacher of the recovery is the dense model."
            )
        if not recover_epochs:
            check_not_given(training, "--recover-epochs")
        folders = [output] if len(configs) == 1 else [output / _folder_name(config) for config in configs]
        if len(set(folders)) < len(folders):
            raise OptionError("Two of the budgets are too close to have folders of their own; leave one out.")
        recovery = replace(training, epochs=recover_epochs, seed=seed) if recover_epochs else None
        inputs_on_disk = input_paths(resolve_model(model), teacher, calibration, data=data)
        with lock_outputs(*folders):
            for folder in folders:
                check_output(folder, overwrite, inputs_on_disk)
            loaded = None if calibration is None else Calibration.load(calibration)
            check_same_vocabulary(model, teacher)
            inputs = load_inputs(resolve_model(model), data, seed, recovery)
            pruned = prune_to_budgets(
                inputs,
                list(zip(configs, folders, strict=True)),
                recovery,
                overwrite=overwrite,
                calibration=loaded,
                teacher=None if teacher is None else load_model(resolve_model(teacher)),
                trim=trim_vocabulary,
                refit=refit,
            )
        results = [one.result for one in pruned]
        emit(results[0] if len(results) == 1 else {"models": results}, as_json, lambda console: _show(pruned, console))

    return opt.add_options(opt.expand(prune), method_options.parameters(), "method_values")


def _folder_name(config: PruneConfig) -> str:
    """The sub-folder of one of several models: ``sparsity-0.5``."""
    return f"{config.budget.name}-{config.budget.amount:.12g}"


def _show(pruned: list[PrunedModel], console: Console) -> None:
    for model in pruned:
        report = model.report
        if report.sparse is None:
            print_plan(report.plan, console)
        else:
            print_sparsity(report.sparse.kept, report.plan, report.sparse.block, console)
        print_refit(model.result["refit"], console)
        print_metrics_before_recovery(model.result["before_recovery"], console)
        print_summary(model.result["models"], console)
        console.print(
            f"Saved {model.folder}: load it with from_pretrained after 'import bertsurgeon'.", highlight=False
        )


app.command("prune")(guarded_together(make_prune_command(METHODS)))


@app.command()
@guarded_together
@locks_output
@opt.expand
def calibrate(
    *,
    model: opt.Model,
    output: opt.Output,
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_train_samples",))],
    config: Annotated[CalibrationConfig, opt.Panel("Calibration")],
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Measures once what every part of a dense model contributes, for 'prune --calibration' at any budget."""
    folder = resolve_model(model)
    check_output(output, overwrite, input_paths(folder, data=data))
    inputs = load_inputs(folder, data, seed)
    result = calibrate_model(inputs.model, replace(config, seed=seed), inputs.calibration, inputs.tokenizer)
    result.save(output, overwrite)
    summary = {"output": str(output), "settings": result.settings, "seconds": result.seconds}
    emit(
        summary, as_json, lambda console: console.print(f"Saved {output}: use it with 'prune --calibration {output}'.")
    )
