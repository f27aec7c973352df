"""``bertsurgeon export``."""

from typing import Annotated, Any, cast

import typer
from rich.console import Console

from bertsurgeon.benchmark import environment, folder_size
from bertsurgeon.checkpoint import check_output, load_tokenizer
from bertsurgeon.cli import options as opt
from bertsurgeon.cli.app import app, emit, guarded
from bertsurgeon.exporting import OPSET, ExportConfig, Quantization
from bertsurgeon.exporting import export as export_model
from bertsurgeon.runtime import Precision, Runtime
from bertsurgeon.tasks import task_type_for_texts, tokenize
from bertsurgeon.workflows.inputs import DataConfig, input_paths, load_data, load_network, load_texts, resolve_model


@app.command()
@guarded
@opt.expand
def export(
    *,
    model: opt.Model,
    output: opt.Output,
    to: Annotated[str, typer.Option("--to", help="Runtime: onnx or openvino.")],
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 (openvino) or int8.")] = "fp32",
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            help="For int8: trained (default where the model was trained for it), static (default elsewhere), or "
            "dynamic (onnx) without calibration.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", help="Version of the ONNX operators.")] = OPSET,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="Largest error of the outputs, as a share of their spread."),
    ] = None,
    data: Annotated[DataConfig, opt.Panel("Data", without=("max_train_samples",))],
    samples: Annotated[int, typer.Option("--samples", help="Texts to calibrate int8 on.")] = 256,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
) -> None:
    """Writes a model for ONNX Runtime or OpenVINO, and checks that it says what PyTorch says.

    Without data it is checked (and int8 calibrated) on docstrings of installed packages; name your own for int8.
    """
    config = ExportConfig(
        cast(Runtime, to),
        cast(Precision, precision),
        opset,
        cast(Quantization | None, quantization),
        samples,
        tolerance,
        seed,
    )
    check_output(output, overwrite, input_paths(resolve_model(model), data=data))
    network, tokenizer = load_network(model, data), load_tokenizer(resolve_model(model))
    if data.is_empty:
        data = DataConfig("docstrings", max_length=data.max_length)
    texts = load_texts(data, seed)[0] if data.text_file else load_data(data, seed).train
    rows = tokenize(texts, tokenizer, data.max_length, task_type_for_texts(network))
    manifest = export_model(network, output, config, rows, tokenizer, overwrite)
    result: dict[str, Any] = {
        "output": str(output),
        "runtime": to,
        "precision": precision,
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
            f"{output}: {to} {precision}, {result['file_bytes'] / 1e6:.1f} MB. Against PyTorch on {check['texts']} "
            f"texts: error {check['relative_error']:.1e} of the outputs' spread{agreement}.",
            highlight=False,
            soft_wrap=True,
        )
        if manifest.kept_float:
            console.print(f"Left in floating point: {', '.join(manifest.kept_float)}.", highlight=False)

    emit(result, as_json, show)
