"""What an export may lose: a metric of the task, or equal answers, measured with the exported graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon.calibration import Batch
from bertsurgeon.devices import running_on
from bertsurgeon.errors import ExportError, ModelError, OptionError
from bertsurgeon.evaluation import SELECTING_COLUMNS, check_head
from bertsurgeon.exporting.config import ExportConfig
from bertsurgeon.prediction import Predictor, evaluating, predict_outputs
from bertsurgeon.tasks import Data, Task, as_dataset, head_of

MAX_DROP = 1.0
"""Default of ``max_drop`` for INT8 with labeled data, in points."""

FEW_ANSWERS = 3
"""Answers that the default allows to be lost, however few texts there are."""

Outputs = list[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class ExportQuality:
    """What an exported model loses against the PyTorch model that it was exported from.

    Attributes:
        bound: ``max_drop`` or ``min_agreement``.
        limit: Value of the bound, in points or percent.
        metric: Name of the metric that is bounded; ``agreement`` or, for embedders, ``recall_at_10``, if answers are
            compared.
        pytorch: Metric of the PyTorch model, in percent; None if answers are compared.
        exported: Metric of the exported model, in percent.
        drop: ``pytorch`` minus ``exported``; 100 minus ``exported`` if answers are compared.
        texts: Number of rows that were evaluated.
    """

    bound: Literal["max_drop", "min_agreement"]
    limit: float
    metric: str
    pytorch: float | None
    exported: float
    drop: float
    texts: int

    @property
    def holds(self) -> bool:
        """Whether the loss is within the bound; a metric that is not a number is not."""
        if self.bound == "min_agreement":
            return self.exported >= self.limit
        return self.drop <= self.limit + 1e-9  # a difference of two percentages is rounded

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for the manifest."""
        return asdict(self)


class QualityBound:
    """Measures exported models against a bound; the PyTorch model runs once.

    Args:
        model: The PyTorch model.
        config: Options with the bound.
        validation: Rows to measure on, raw or tokenized; labeled for ``max_drop``.
        task: Their task; None if answers are compared.
        tokenizer: Tokenizer of the model.

    Raises:
        DataError: If there are no rows, or no labels for ``max_drop``.
        ModelError: If the model's head does not fit the task.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: ExportConfig,
        validation: Data,
        task: Task | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._task = task if config.min_agreement is None else None
        if self._task is not None:
            check_head(model, self._task)
        self._config, self._tokenizer, self._head = config, tokenizer, head_of(model)
        self._rows = as_dataset(validation, tokenizer, model, task_type=None if task is None else task.type)
        self._reference = self._run(model, "Running the PyTorch model")
        self._pytorch = None if self._task is None else self._score(self._reference)
        names = [name for name in SELECTING_COLUMNS if name in self._rows.column_names]
        self._batches: list[Batch] = [
            {name: torch.tensor([row[name]]) for name in names} for row in self._rows.select_columns(names)
        ]

    def measure(self, exported: Predictor) -> ExportQuality:
        """Returns what an exported model loses.

        Args:
            exported: The model, opened in its runtime.
        """
        outputs, texts = self._run(exported, "Running the exported model"), len(self._rows)
        if self._task is not None:
            assert self._pytorch is not None
            value = self._score(outputs)
            limit = self._config.max_drop
            if limit is None:
                limit = max(MAX_DROP, 100.0 * FEW_ANSWERS / texts)
            metric = self._task.primary_metric
            return ExportQuality("max_drop", limit, metric, self._pytorch, value, self._pytorch - value, texts)
        metrics = self._head.comparison(_as_batches(self._reference), _as_batches(outputs), self._batches)
        metric, value = next(iter(metrics.items()))
        assert self._config.min_agreement is not None
        return ExportQuality("min_agreement", self._config.min_agreement, metric, None, value, 100.0 - value, texts)

    def _run(self, model: Predictor, description: str) -> Outputs:
        with evaluating(model), running_on(None, model):
            return predict_outputs(model, self._rows, self._tokenizer, description=description)

    def _score(self, outputs: Outputs) -> float:
        assert self._task is not None
        return self._task.score(outputs, self._rows)[self._task.primary_metric]


def make_bound(
    model: PreTrainedModel, config: ExportConfig, validation: Data | None, task: Task | None, tokenizer: Any
) -> QualityBound | None:
    """Returns the bound that an export must hold, or None if its outputs alone are compared.

    INT8 with labeled data has the default bound :data:`MAX_DROP`, unless the options have a tolerance.

    Args:
        model: The PyTorch model.
        config: Options.
        validation: Rows to measure on; None for none.
        task: Their task, if they are labeled.
        tokenizer: Tokenizer of the model.

    Raises:
        OptionError: If the options have a bound, and there is nothing to measure it on.
    """
    if config.max_drop is not None and (validation is None or task is None):
        raise OptionError(
            "max_drop is a loss of the task's metric: pass labeled validation data and their task, or use "
            "min_agreement, which needs no labels."
        )
    if config.min_agreement is not None and validation is None:
        raise OptionError("min_agreement compares answers: pass the texts to compare them on as validation data.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        if config.has_bound:
            raise OptionError("max_drop and min_agreement are for texts; images are compared by the tolerance.")
        return None
    is_default = config.precision == "int8" and config.tolerance is None and task is not None
    if validation is None or not (config.has_bound or is_default):
        return None
    return QualityBound(model, config, validation, task, tokenizer)


def require_quality(quality: ExportQuality, config: ExportConfig, model: PreTrainedModel) -> None:
    """Checks that an exported model holds its bound.

    Args:
        quality: What it loses.
        config: Options of the export.
        model: The PyTorch model.

    Raises:
        ExportError: If it loses more.
    """
    if quality.holds:
        return
    if quality.pytorch is None:
        loss = f"has {quality.exported:.4g} % {quality.metric} with PyTorch on {quality.texts:,} texts"
        limit = f"required: {quality.limit:.4g} %"
    else:
        loss = (
            f"loses {quality.drop:.4g} points of {quality.metric} on {quality.texts:,} texts, from "
            f"{quality.pytorch:.4g} in PyTorch to {quality.exported:.4g}"
        )
        limit = f"allowed: {quality.limit:.4g}"
    raise ExportError(
        f"The exported {config.precision} model {loss} ({limit}), so nothing was written; "
        f"{describe_remedies(config, model)}, or change {quality.bound}."
    )


def describe_remedies(config: ExportConfig, model: PreTrainedModel) -> str:
    """Returns what brings an export closer to PyTorch, in the imperative and without a period.

    Args:
        config: Options of the export.
        model: The PyTorch model.
    """
    if config.precision == "fp32":
        return "report this model, since fp32 should agree with PyTorch"
    if config.precision == "bf16":
        return "use fp32"
    remedies = {
        "static": ["calibrate on more texts (samples) or on texts of your own"],
        "dynamic": ["use static quantization, calibrated on texts of your own"],
        "trained": ["train longer for int8, or use static quantization"],
    }[config.quantization or "static"]
    if config.quantization == "static" and config.runtime == "onnx":
        remedies.append("use dynamic quantization, whose ranges are those of each token")
    if config.quantization != "trained" and _can_train_for_int8(model):
        remedies.append("train the model for int8 first (bertsurgeon gradual --recipe int8)")
    remedies.append("use bf16" if config.runtime == "openvino" else "use fp32, or bf16 in OpenVINO")
    return ", ".join(remedies)


def _can_train_for_int8(model: PreTrainedModel) -> bool:
    """Returns whether quantization-aware training accepts the model."""
    from bertsurgeon.recovery.fake_quantization import check_quantizable

    try:
        check_quantizable(model)
    except ModelError:
        return False
    return True


def _as_batches(outputs: Outputs) -> Outputs:
    return [{name: value.unsqueeze(0) for name, value in row.items()} for row in outputs]
