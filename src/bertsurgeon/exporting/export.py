"""Export of a model to a folder that a runtime executes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import unfuse
from bertsurgeon.benchmark import measure_sizes
from bertsurgeon.calibration import PIXELS, Batch, make_batches
from bertsurgeon.checkpoint import check_output, get_ranges, locks_output, new_folder
from bertsurgeon.devices import on_cpu
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import OptionError
from bertsurgeon.exporting.bounds import describe_remedies, make_bound, require_quality
from bertsurgeon.exporting.config import ExportConfig
from bertsurgeon.exporting.invariance import measure_invariance
from bertsurgeon.exporting.outliers import find_outliers
from bertsurgeon.exporting.verify import Arrays, reference, require_agreement
from bertsurgeon.exporting.write import ExportJob, stock_config, trace_fastest, trace_model, write
from bertsurgeon.options import check_config
from bertsurgeon.prediction import evaluating, gradients_enabled, without_inference_tensors
from bertsurgeon.runtime import MODEL_FILES, Manifest, RuntimeModel, Session, require
from bertsurgeon.storage import temporary_folder
from bertsurgeon.tasks import TOKEN_TYPES, Data, Task, as_dataset, collect_data, is_batches, max_input_length
from bertsurgeon.tasks.types.embedding import EMBEDDING

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output", EMBEDDING)
"""Names of the outputs that are exported, if a model has them."""

INPUTS = ("input_ids", "attention_mask", TOKEN_TYPES, PIXELS)
"""Names of the inputs that are exported, if a tokenizer or image processor makes them."""

CHECKED_TEXTS = 64
"""Approximate number of texts on which an export is compared with PyTorch."""

BATCH_SIZE = 16


@gradients_enabled()
@locks_output
def export(
    model: PreTrainedModel,
    config: ExportConfig,
    data: Data,
    tokenizer: PreTrainedTokenizerBase | BaseImageProcessor,
    *,
    output: str | Path,
    overwrite: bool = False,
    validation: Data | None = None,
    task: Task | None = None,
) -> Manifest:
    """Exports a dense or pruned model, compares it with PyTorch, and writes a folder.

    Args:
        model: The model, also after :func:`bertsurgeon.prepare_for_inference`; left as it is.
        config: Options, such as runtime and precision.
        data: Texts or images on which outputs are compared and INT8 is calibrated, see :func:`bertsurgeon.prune`; they
            need no labels.
        tokenizer: Tokenizer, or image processor, of the model; it is saved in the folder.
        output: The folder; it is written completely or not at all.
        overwrite: Replace an existing folder.
        validation: Rows on which the loss is measured, with labels if there is a ``task``; raw or tokenized.
        task: Task of the validation rows. INT8 is then bounded by ``max_drop`` even if the options have no bound.

    Returns:
        Description of the exported model, which the folder holds as well.

    Raises:
        ExportError: If the model cannot be traced, a package is missing, the outputs differ too much, or a bound is
            exceeded.
        ModelError: If the model's head does not fit the task.
        OptionError: If trained quantization is requested and the model was not trained for INT8, or a bound has no data
            to be measured on.
        CheckpointError: If the folder exists or cannot be written.
        DataError: If there are no texts.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from bertsurgeon import ExportConfig, export, open_exported
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> with TemporaryDirectory() as folder:
        ...     output = Path(folder) / "onnx"
        ...     manifest = export(model, ExportConfig(), list(texts["text"]), tokenizer, output=output)
        ...     logits = open_exported(output)(**tokenizer("a warm film", return_tensors="pt")).logits
        >>> logits.shape
        torch.Size([1, 2])
    """
    check_config(config, ExportConfig, "export")
    output = Path(output)
    check_output(output, overwrite)
    config = _resolve_quantization(config, model)
    require("onnxscript", "onnx")
    require("onnxruntime" if config.runtime == "onnx" else "openvino", config.runtime)
    text_tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    data = collect_data(data)
    rows = data if is_batches(data) else as_dataset(data, text_tokenizer, model)
    calibration, checked = _split(
        make_batches(rows, text_tokenizer, CHECKED_TEXTS + config.samples, BATCH_SIZE, config.seed, model=model)
    )
    names = tokenizer.model_input_names
    if TOKEN_TYPES not in checked[0] and getattr(model.config, "type_vocab_size", None) == 1:
        names = [name for name in names if name != TOKEN_TYPES]
    inputs = tuple(name for name in INPUTS if name in names)
    model = on_cpu(unfuse(without_inference_tensors(model)))  # graphs are traced and compared there
    if model.dtype != torch.float32:  # graphs compute in fp32, whatever the stored precision
        model = nn.Module.float(deepcopy(model))  # transformers forbids model.float() for quantized models
    bound = make_bound(model, config, validation, task, tokenizer)
    limit = inf if bound is not None and config.precision == "int8" and config.tolerance is None else config.limit
    with progress.bar(f"Exporting to {config.runtime}", 4) as advance, evaluating(model):
        outputs, expected = _reference(model, checked)
        advance()
        outliers = find_outliers(model, calibration) if config.quantization == "static" else {}
        job = ExportJob(config, model, calibration, checked, inputs, outputs, expected, limit, bound, outliers)
        graph_model = trace_fastest(job)
        advance()
        with new_folder(output, overwrite, kind="export") as temporary:
            file = temporary / MODEL_FILES[config.runtime]
            kept_float = write(graph_model, file, job)
            advance()
            session = job.open(file, config.precision)
            check = job.check(session)
            require_agreement(check, config.precision, limit, describe_remedies(config, model))
            quality = None if bound is None else bound.measure(job.as_model(session))
            if quality is not None:
                require_quality(quality, config, model)
            manifest = Manifest(
                config.runtime,
                config.precision,
                inputs,
                job.compared,
                measure_sizes(model).encoder_weights,
                kept_float,
                check.to_dict(),
                config.quantization if config.precision == "int8" else None,
                quality=None if quality is None else quality.to_dict(),
                outlier_channels=sum(map(len, outliers.values())),
                invariance=_invariance(job, session, file) if config.invariance else None,
            )
            manifest.save(temporary)
            stock_config(model).save_pretrained(temporary)
            if isinstance(model, Embedder) and text_tokenizer is not None:
                model.save_settings(temporary)
                tokenizer = deepcopy(text_tokenizer)
                tokenizer.model_max_length = model.max_seq_length  # where other libraries cut texts
            tokenizer.save_pretrained(temporary)
            advance()
    return manifest


def _invariance(job: ExportJob, session: Session, file: Path) -> dict[str, Any]:
    return measure_invariance(
        session,
        file,
        job.config.runtime,
        job.config.precision,
        job.checked,
        job.inputs,
        job.head,
        pad_token_id=getattr(job.model.config, "pad_token_id", None) or 0,
        max_length=max_input_length(job.model.config),
    )


def open_for_timing(model: PreTrainedModel, config: ExportConfig, batch: Batch) -> RuntimeModel:
    """Opens a model in a runtime to be timed; outputs are not compared, and no file remains.

    Outlier channels depend on the weights, so INT8 is timed without the products that an export multiplies apart.

    Args:
        model: Dense or pruned; the values of its weights do not matter.
        config: Runtime and precision. INT8 is static.
        batch: Inputs of the shape to be timed; INT8 is calibrated on them.

    Raises:
        ExportError: If the model cannot be traced, or a package is missing.
    """
    config = replace(config, quantization="static" if config.precision == "int8" else None, tolerance=inf)
    inputs = tuple(batch)
    model = on_cpu(model)
    batch = {name: value.cpu() for name, value in batch.items()}
    with evaluating(model), temporary_folder() as folder:
        outputs, expected = _reference(model, [batch])
        job = ExportJob(config, model, [batch], [batch], inputs, outputs, expected)
        file = folder / MODEL_FILES[config.runtime]
        write(trace_model(job), file, job)
        session = job.open(file, config.precision)
    weights = measure_sizes(model).encoder_weights
    manifest = Manifest(config.runtime, config.precision, inputs, job.compared, weights)
    return RuntimeModel(session, manifest, model.config)


def _reference(model: PreTrainedModel, batches: Sequence[Batch]) -> tuple[tuple[str, ...], list[Arrays]]:
    """Returns the names of the graph's outputs, and those outputs of PyTorch that are compared, for each batch.

    The graph of an embedder also has the embeddings of the tokens, as first output, from which other libraries pool
    them themselves; the embedding of the text is made of them.
    """
    outputs, expected = reference(model, batches, OUTPUTS)
    if EMBEDDING in outputs:
        expected = [{EMBEDDING: arrays[EMBEDDING]} for arrays in expected]
    return outputs, expected


def _resolve_quantization(config: ExportConfig, model: PreTrainedModel) -> ExportConfig:
    """Returns the options with the model's default quantization, if INT8 is requested without one.

    Raises:
        OptionError: If trained quantization is requested and the model was not trained for INT8.
    """
    has_ranges = get_ranges(model) is not None
    if config.quantization == "trained" and not has_ranges:
        raise OptionError(
            "The model was not trained for int8; train it with a recipe that has a quantization section, or use static "
            "quantization."
        )
    if config.precision != "int8" or config.quantization is not None:
        return config
    return replace(config, quantization="trained" if has_ranges else "static")


def _split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Splits batches into those for calibration and every n-th for verification; a single batch serves for both."""
    step = max(2, len(batches) * BATCH_SIZE // CHECKED_TEXTS)
    checked = list(batches[::step])
    calibration = [batch for index, batch in enumerate(batches) if index % step]
    return calibration or checked, checked
