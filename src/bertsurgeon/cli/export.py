"""``bertsurgeon export``."""

from dataclasses import replace
from typing import Annotated, Any

from rich.console import Console

from bertsurgeon.benchmark import environment, folder_size
from bertsurgeon.checkpoint import check_output, load_tokenizer, locks_output
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.exporting import ExportConfig
from bertsurgeon.exporting import export as export_model
from bertsurgeon.tasks import task_type_for_texts, tokenize
from bertsurgeon.workflows.inputs import (
    DataConfig,
    input_paths,
    load_data,
    load_network,
    load_texts,
    resolve_model,
)


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

    Without data it is checked (and int8 calibrated) on docstrings of installed packages; name your own for int8.
    """
    config = replace(config, seed=seed)
    folder = resolve_model(model)
    check_output(output, overwrite, input_paths(folder, data=data))
    network, tokenizer = load_network(model, data), load_tokenizer(folder)
    if data.is_empty:
        data = DataConfig("docstrings", max_length=data.max_length)
    texts = load_texts(data, seed)[0] if data.text_file else load_data(data, seed).train
    rows = tokenize(texts, tokenizer, data.max_length, task_type_for_texts(network))
    manifest = export_model(network, config, rows, tokenizer, output=output, overwrite=overwrite)
    result: dict[str, Any] = {
        "output": str(output),
        "runtime": config.runtime,
        "precision": config.precision,
        "quantization": manifest.quantization,
        "file_bytes": folder_size(output),
        "check": manifest.check,
        "kept_float": manifest.kept_float,
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
        if manifest.kept_float:
            console.print(f"Kept in floating point: {', '.join(manifest.kept_float)}.", highlight=False)

    emit(result, as_json, show)
