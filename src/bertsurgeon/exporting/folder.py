"""From a model to a folder that a runtime executes."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import unfuse
from bertsurgeon.benchmark import fitting_length, measure_sizes, random_inputs, time_batches
from bertsurgeon.calibration import PIXELS, Batch, make_batches
from bertsurgeon.checkpoint import check_output, get_ranges, new_folder
from bertsurgeon.errors import OptionError
from bertsurgeon.exporting.config import ExportConfig
from bertsurgeon.exporting.lowering import Graph, has_groups, lower
from bertsurgeon.exporting.onnx_edit import save_graph
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.verify import demand, reference, to_arrays
from bertsurgeon.exporting.write import Job, write
from bertsurgeon.prediction import evaluating
from bertsurgeon.runtime import MODEL_FILES, Manifest, Precision, open_session, require
from bertsurgeon.tasks.types.embedding import EMBEDDING

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output", EMBEDDING)
"""Outputs of the models that can be exported; a graph has those that its model has."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids", PIXELS)

CHECKED = 64
"""Texts, about, on which an export is compared with PyTorch."""

BATCH = 16

TIMED = (8, 128)
"""Texts and tokens of the batch on which grouped layers are compared with dense ones."""


def export(
    model: PreTrainedModel,
    folder: Path,
    config: ExportConfig,
    data: Dataset | Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | BaseImageProcessor,
    overwrite: bool = False,
) -> Manifest:
    """Exports a dense or pruned model, checks it against PyTorch, and writes a folder.

    Args:
        model: What to export.
        folder: Where to; there completely or not at all.
        config: Runtime and precision.
        data: Texts or images to compare on (and to calibrate INT8 on), see :func:`bertsurgeon.prune`; labels are not
            needed.
        tokenizer: Written beside the model; pads the texts. For images, the image processor.
        overwrite: Replace an existing folder.

    Raises:
        ExportError: If the model cannot be traced, a package is missing, or the outputs differ too much.
        OptionError: If trained ranges are asked for, and there are none.
        CheckpointError: If the folder exists or cannot be written.
        DataError: If there are no texts.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from bertsurgeon import ExportConfig, export, open_exported
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> with TemporaryDirectory() as folder:
        ...     _ = export(model, Path(folder) / "onnx", ExportConfig(), tokenize(texts, tokenizer), tokenizer)
        ...     logits = open_exported(Path(folder) / "onnx")(**tokenizer("a warm film", return_tensors="pt")).logits
        >>> logits.shape
        torch.Size([1, 2])
    """
    check_output(folder, overwrite)
    config = _settle(config, model)
    require("onnxscript", "onnx")
    require("onnxruntime" if config.runtime == "onnx" else "openvino", config.runtime)
    pads = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    batches = _split(make_batches(data, pads, CHECKED + config.samples, BATCH, config.seed))
    inputs = tuple(name for name in INPUTS if name in tokenizer.model_input_names)
    model = unfuse(model)
    if model.dtype != torch.float32:  # graphs compute in single precision from whatever is stored
        model = nn.Module.float(deepcopy(model))  # transformers forbids its own for models that know of a quantizer
    with progress.bar(f"Exporting to {config.runtime}", 4) as advance, evaluating(model):
        outputs, wanted = reference(model, batches[1], OUTPUTS)
        advance()
        traced = _trace_fastest(model, config, inputs, outputs)
        advance()

        job = Job(config, model, *batches, inputs, wanted)
        with new_folder(folder, overwrite, kind="export") as temporary:
            file = temporary / MODEL_FILES[config.runtime]
            kept_float = write(traced, file, job)
            advance()
            result = job.check(open_session(config.runtime, file, config.precision))
            demand(result, config.precision, config.limit)
            weights = measure_sizes(model).encoder_weights
            manifest = Manifest(
                config.runtime,
                config.precision,
                inputs,
                outputs,
                weights,
                kept_float,
                result.to_dict(),
                config.quantization if config.precision == "int8" else None,
            )
            manifest.save(temporary)
            _stock_config(model).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            advance()
    return manifest


def _settle(config: ExportConfig, model: PreTrainedModel) -> ExportConfig:
    """The options with the way to INT8 that suits the model.

    Raises:
        OptionError: If it shall be the trained one, and the model was not trained for it.
    """
    has_ranges = get_ranges(model) is not None
    if config.quantization == "trained" and not has_ranges:
        raise OptionError(
            "The model was not trained for int8: train it by a recipe with the section quantization, or choose static."
        )
    if config.precision != "int8" or config.quantization is not None:
        return config
    return replace(config, quantization="trained" if has_ranges else "static")


def _trace_fastest(
    model: PreTrainedModel, config: ExportConfig, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Any:
    """The model's graph; one with grouped layers is also tried with dense products, and the faster one is taken."""
    traced = trace(Graph(lower(model), inputs, outputs), config.opset)
    if not has_groups(model):
        return traced
    filled = trace(Graph(lower(model, fill_groups=True), inputs, outputs), config.opset)
    batch = random_inputs([model], TIMED[0], fitting_length([model], TIMED[1]))
    with TemporaryDirectory() as folder:
        sessions: dict[str, Any] = {}
        for name, graph in (("grouped", traced), ("filled", filled)):
            file = Path(folder) / f"{name}.onnx"
            save_graph(graph, file)
            precision: Precision = "bf16" if config.precision == "bf16" else "fp32"
            session = open_session(config.runtime, file, precision)
            sessions[name] = lambda s=session, **batch: s.run(to_arrays(batch, inputs))
        found = time_batches(sessions, [batch], runs=5, warmup=2)
    if found["grouped"].p50_ms <= found["filled"].p50_ms:
        return traced
    progress.note(
        "Grouped layers are written as dense products: in this runtime their gathers cost more than they save."
    )
    return filled


def _split(batches: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Texts to calibrate on, and every so manieth batch to check on (all of them for both where there are few)."""
    step = max(2, len(batches) * BATCH // CHECKED)
    checked = batches[::step]
    rest = [batch for number, batch in enumerate(batches) if number % step]
    return rest or checked, checked


def _stock_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration with the model's class, which tells its kind, and without the plan, which the graph has."""
    config: PretrainedConfig = deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config
