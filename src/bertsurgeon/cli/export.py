"""``bertsurgeon export``."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from rich.console import Console
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.benchmark import environment, folder_size
from bertsurgeon.checkpoint import check_output, load_tokenizer, locks_output
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.evaluation import check_head
from bertsurgeon.exporting import ExportConfig, worst
from bertsurgeon.exporting import export as export_model
from bertsurgeon.runtime import Manifest
from bertsurgeon.tasks import Task, align_to_model, task_type_for_texts, tokenize
from bertsurgeon.workflows.inputs import (
    DataConfig,
    input_paths,
    load_data,
    load_network,
    load_texts,
    load_validation,
    resolve_model,
)

if TYPE_CHECKING:
    from datasets import Dataset


@app.command(runs_models=False)
@guarded
@locks_output
@opt.expand
def export(
    *,
    model: opt.Model,
    output: opt.Output,
    config: Annotated[ExportConfig, opt.Panel("Export", without=("seed",))],
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_train_samples",))],
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Writes a model for ONNX Runtime or OpenVINO, and checks that its outputs agree with PyTorch's.

    Without data it is checked (and int8 calibrated) on docstrings of installed packages; name your own for int8. With
    validation data int8 is refused if it loses more than --max-drop or --min-agreement allow.
    """
    config = replace(config, seed=seed)
    folder = resolve_model(model)
    check_output(output, overwrite, input_paths(folder, data=data))
    network, tokenizer = load_network(model, data), load_tokenizer(folder)
    parts = _load(data, config, network, seed)
    rows = tokenize(parts.calibration, tokenizer, data.max_length, task_type_for_texts(network))
    validation = None
    if parts.validation is not None:
        task_type = task_type_for_texts(network) if parts.task is None else parts.task.type
        validation = tokenize(parts.validation, tokenizer, data.max_length, task_type)
    manifest = export_model(
        network, config, rows, tokenizer, output=output, overwrite=overwrite, validation=validation, task=parts.task
    )
    result: dict[str, Any] = {
        "output": str(output),
        "runtime": config.runtime,
        "precision": config.precision,
        "quantization": manifest.quantization,
        "file_bytes": folder_size(output),
        "check": manifest.check,
        "quality": manifest.quality,
        "invariance": manifest.invariance,
        "kept_float": manifest.kept_float,
        "outlier_channels": manifest.outlier_channels,
        "environment": environment(),
    }

    def show(console: Console) -> None:
        check = manifest.check
        agreement = "" if check["agreement"] is None else f", agreement {check['agreement']:.1f} %"
        console.print(
            f"{output}: {config.runtime} {config.precision}, {result['file_bytes'] / 1e6:.1f} MB. Against PyTorch on "
            f"{check['texts']} texts: error {check['relative_error']:.1e} of the outputs' spread{agreement}.",
            highlight=False,
            soft_wrap=True,
        )
        for line in (_quality_line(manifest), *_invariance_lines(manifest)):
            if line:
                console.print(line, highlight=False, soft_wrap=True)
        if manifest.outlier_channels:
            console.print(
                f"Channels with outliers, multiplied in floating point: {manifest.outlier_channels}.", highlight=False
            )
        if manifest.kept_float:
            console.print(f"Kept in floating point: {', '.join(manifest.kept_float)}.", highlight=False)

    emit(result, as_json, show)


class _Parts(NamedTuple):
    """The data of an export.

    Attributes:
        calibration: Texts on which outputs are compared and int8 is calibrated.
        validation: Rows on which the loss is measured; None if it is not.
        task: Task of the validation rows; None if only answers are compared.
    """

    calibration: "Dataset"
    validation: "Dataset | None" = None
    task: Task | None = None


def _load(data: DataConfig, config: ExportConfig, network: PreTrainedModel, seed: int) -> _Parts:
    """Reads the data of an export; validation data is used where a bound is measured on it.

    Raises:
        OptionError: If a bound is named, and no data to measure it on.
        DataError: If the data cannot be read.
    """
    if data.is_empty:
        if config.has_bound:
            raise OptionError(
                "--max-drop and --min-agreement are measured on data: name --task, or --train-file and "
                "--validation-file; --text-file is enough for --min-agreement."
            )
        data = DataConfig("docstrings", max_length=data.max_length)
        return _Parts(load_data(data, seed).train)
    calibration = None
    if data.text_file is not None:
        calibration, held_out = load_texts(data)
        if data.only_texts:
            return _Parts(calibration, held_out if config.min_agreement is not None else None)
    is_measured = config.has_bound or (config.precision == "int8" and config.tolerance is None)
    if calibration is not None:
        if not is_measured:
            return _Parts(calibration)
        task, validation = load_validation(data, network, seed)
        return _Parts(calibration, validation, task)
    loaded = load_data(data, seed)
    if not is_measured:
        return _Parts(loaded.train)
    try:
        aligned = align_to_model(loaded, network)
        check_head(network, aligned.task)
    except (DataError, ModelError):
        if config.max_drop is not None:
            raise
        if config.min_agreement is not None:
            return _Parts(loaded.train, loaded.validation)
        progress.note_once("The labels of the data do not fit the model, so only its outputs are compared.")
        return _Parts(loaded.train)
    return _Parts(aligned.train, aligned.validation, aligned.task)


def _quality_line(manifest: Manifest) -> str:
    quality = manifest.quality
    if quality is None:
        return ""
    if quality["pytorch"] is None:
        return (
            f"{quality['metric']} with PyTorch on {quality['texts']:,} texts: {quality['exported']:.1f} % "
            f"(required: {quality['limit']:.4g} %)."
        )
    return (
        f"{quality['metric']} on {quality['texts']:,} texts: {quality['pytorch']:.2f} in PyTorch, "
        f"{quality['exported']:.2f} exported (allowed loss: {quality['limit']:.4g})."
    )


_CHANGES = {
    "alone": "alone",
    "padded": "with more padding",
    "order": "in another order",
    "threads": "with one thread and two",
}


def _invariance_lines(manifest: Manifest) -> Iterator[str]:
    invariance = manifest.invariance or {}
    changes = [name for name in _CHANGES if invariance.get(name) is not None]
    for label, names in (
        (f"The same texts {', '.join(_CHANGES[name] for name in changes)}", changes),
        ("On a processor without VNNI", ["without_vnni"]),
        ("There with OpenVINO's own settings", ["saturated"]),
    ):
        measured = worst(invariance, names)
        if measured is not None:
            agreement = "" if measured["agreement"] is None else f", agreement {measured['agreement']:.1f} %"
            yield f"{label}: answers differ by at most {measured['relative_error']:.1e} of the spread{agreement}."
