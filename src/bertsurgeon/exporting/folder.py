"""From a model to a folder that a runtime executes."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from datasets import Dataset
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import unfuse
from bertsurgeon.benchmark import measure_sizes, random_inputs, time_batches
from bertsurgeon.calibration import PIXELS, Batch, make_batches
from bertsurgeon.checkpoint import check_output, get_ranges, new_folder
from bertsurgeon.errors import OptionError
from bertsurgeon.exporting import int8
from bertsurgeon.exporting.lowering import Graph, has_groups, lower
from bertsurgeon.exporting.onnx_graph import OPSET, merge_products, trace
from bertsurgeon.exporting.onnx_tuning import tune
from bertsurgeon.exporting.sensitivity import encoder_matrices, rank_sub_layers
from bertsurgeon.exporting.trained_int8 import quantize_as_trained
from bertsurgeon.exporting.verify import TOLERANCES, Arrays, Check, answers_of, compare, demand, reference, to_arrays
from bertsurgeon.prediction import evaluating
from bertsurgeon.runtime import MODEL_FILES, Manifest, Precision, Runtime, Session, open_session, require
from bertsurgeon.tasks import class_names, find_head
from bertsurgeon.tasks.kinds.embedding import EMBEDDING

Quantization = Literal["static", "dynamic", "trained"]

OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output", EMBEDDING)
"""Outputs of the models that can be exported; a graph has those that its model has."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids", PIXELS)

CHECKED = 64
"""Texts, about, on which an export is compared with PyTorch."""

BATCH = 16

TIMED = (8, 128)
"""Texts and tokens of the batch on which grouped layers are compared with dense ones."""


@dataclass(frozen=True)
class ExportConfig:
    """How to export.

    Attributes:
        runtime: ``onnx`` (ONNX Runtime) or ``openvino``.
        precision: ``fp32``, ``bf16`` (OpenVINO) or ``int8``.
        opset: Of the ONNX operators.
        quantization: INT8 with the ranges a model was ``trained`` with, or with ranges found beforehand (``static``) or
            at run time (``dynamic``, ONNX). None for trained ones where the model has them, else static.
        samples: Texts to calibrate INT8 on.
        tolerance: Largest relative error of the outputs; None for the precision's own.
        seed: Fixes the texts.
    """

    runtime: Runtime = "onnx"
    precision: Precision = "fp32"
    opset: int = OPSET
    quantization: Quantization | None = None
    samples: int = 256
    tolerance: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks what goes together.

        Raises:
            OptionError: If something does not.
        """
        if self.runtime not in ("onnx", "openvino") or self.precision not in ("fp32", "bf16", "int8"):
            raise OptionError("Export to onnx or openvino, in fp32, bf16 or int8.")
        if self.precision == "bf16" and self.runtime == "onnx":
            raise OptionError("ONNX Runtime has no bfloat16 products on a CPU; export to openvino, or use int8.")
        if self.quantization == "dynamic" and (self.runtime, self.precision) != ("onnx", "int8"):
            raise OptionError("Dynamic quantization is for onnx in int8.")
        if self.quantization == "trained" and self.precision != "int8":
            raise OptionError("Trained ranges are for int8.")
        if self.opset < 18:
            raise OptionError(f"The exporter needs an opset of at least 18, not {self.opset}.")
        if self.samples < 1 or (self.tolerance is not None and not self.tolerance > 0):
            raise OptionError("Export needs at least one sample, and a tolerance greater than 0.")

    @property
    def limit(self) -> float:
        """The largest relative error that is accepted."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance


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
        >>> from bertsurgeon.toy import toy_classifier
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
    with progress.bar(f"Exporting to {config.runtime}", 4) as advance, evaluating(model):
        outputs, wanted = reference(model, batches[1], OUTPUTS)
        advance()
        traced = _trace_fastest(model, config, inputs, outputs)
        advance()

        write = _write_onnx if config.runtime == "onnx" else _write_openvino
        job = _Job(config, model, *batches, inputs, wanted)
        with new_folder(folder, overwrite) as temporary:
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
    positions = getattr(model.config, "max_position_embeddings", None) or TIMED[1]
    batch = random_inputs([model], TIMED[0], min(TIMED[1], positions - 2))  # RoBERTa counts positions from two
    with TemporaryDirectory() as folder:
        sessions: dict[str, Any] = {}
        for name, graph in (("grouped", traced), ("filled", filled)):
            file = Path(folder) / f"{name}.onnx"
            require("onnx_ir", "onnx").save(graph, file)
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


@dataclass(frozen=True)
class _Job:
    """What writing needs beside the graph."""

    config: ExportConfig
    model: PreTrainedModel
    calibration: list[Batch]
    checked: list[Batch]
    inputs: tuple[str, ...]
    wanted: list[Arrays]

    def check(self, session: Session) -> Check:
        """Compares a session with PyTorch."""
        head = find_head(class_names(self.model), self.model.config)
        return compare(answers_of(session, self.checked, self.inputs), self.wanted, self.checked, head)

    def quantize(self, model: Any, load: Callable[[Any], Session]) -> tuple[Any, tuple[str, ...]]:
        """INT8 everywhere or, where that differs too much, everywhere but in the sub-layers that it hurts most.

        Args:
            model: An ``onnx.ModelProto`` or an ``openvino.Model``.
            load: Opens a session of one.

        Returns:
            The best of those tried, and the products it leaves in floating point.
        """
        texts = [to_arrays(batch, self.inputs) for batch in self.calibration]
        limit = self.config.limit
        products = int8.product_names(model)
        encoder = [name for matrices in encoder_matrices(self.model) for name in matrices]
        # the head sees few tokens and takes no time, but its errors reach the outputs undiminished
        head = [product for product in products if not any(name in product for name in (*encoder, "matmul"))]

        def attempt(kept: tuple[str, ...]) -> tuple[float, Any, tuple[str, ...]]:
            quantized = int8.quantize_statically(deepcopy(model), texts, [*head, *kept])
            return self.check(load(quantized)).relative_error, quantized, kept

        best = attempt(())
        if best[0] > limit:
            progress.note(f"INT8 everywhere differs by {best[0]:.2g}; looking for what must stay in floating point.")
            ranked = [names for _, names in rank_sub_layers(self.model, self.checked, self.wanted)]
            count = 1
            while best[0] > limit and count <= len(ranked):
                matrices = [name for names in ranked[:count] for name in names]
                kept = tuple(product for product in products if any(name in product for name in matrices))
                best = min(best, attempt(kept), key=lambda one: one[0])
                count *= 2
        return best[1:]


def _write_onnx(traced: Any, file: Path, job: _Job) -> tuple[str, ...]:
    onnx_ir = require("onnx_ir", "onnx")
    kept: tuple[str, ...] = ()
    if job.config.precision == "int8":
        merge_products(traced)
    if job.config.quantization == "dynamic":
        with TemporaryDirectory() as folder:
            quantized = Path(folder) / file.name
            int8.quantize_dynamically(onnx_ir.serde.serialize_model(traced), quantized)
            traced = onnx_ir.load(quantized)
    elif job.config.quantization == "static":
        model = onnx_ir.serde.serialize_model(traced)
        model, kept = job.quantize(model, lambda one: open_session("onnx", one.SerializeToString(), "int8"))
        traced = onnx_ir.serde.deserialize_model(model)
    elif job.config.quantization == "trained":
        quantize_as_trained(traced, job.model)
    tune(traced)
    onnx_ir.save(traced, file)
    return kept


def _write_openvino(traced: Any, file: Path, job: _Job) -> tuple[str, ...]:
    openvino, onnx_ir = require("openvino", "openvino"), require("onnx_ir", "onnx")
    kept: tuple[str, ...] = ()
    if job.config.quantization == "trained":
        quantize_as_trained(traced, job.model)
    with TemporaryDirectory() as folder:
        onnx_ir.save(traced, Path(folder) / "model.onnx")
        model = openvino.convert_model(Path(folder) / "model.onnx")
        if job.config.quantization == "static":
            model, kept = job.quantize(model, lambda one: open_session("openvino", one, "int8"))
        # weights of 16 bits lose nothing that products in bfloat16 would see
        openvino.save_model(model, file, compress_to_fp16=job.config.precision == "bf16")
    return kept


def _stock_config(model: PreTrainedModel) -> PretrainedConfig:
    """The configuration with the model's class, which tells its kind, and without the plan, which the graph has."""
    config: PretrainedConfig = deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config
