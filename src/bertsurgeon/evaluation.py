"""Evaluation: a model's metrics on a task, and how far two models agree without labels."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.devices import Device, running_on
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.options import check_config, with_article
from bertsurgeon.prediction import Predictor, evaluating, predict_outputs
from bertsurgeon.tasks import (
    IGNORED,
    WORD_STARTS,
    Data,
    Outputs,
    Task,
    as_dataset,
    check_same_head,
    head_of,
    label_names,
    mask_tokens,
    task_type_of,
)

SELECTING_COLUMNS = ("attention_mask", WORD_STARTS, "labels")
"""Columns that select the outputs which are predictions."""


def check_head(model: Predictor, task: Task) -> None:
    """Checks that a model's head fits a task.

    Args:
        model: Dense, pruned or exported model.
        task: The task.

    Raises:
        ModelError: If it is for another type of task, or the number of outputs or the order of the classes differs.
    """
    task_type = task_type_of(model)
    outputs = task_type.num_outputs_of(model.config)
    if not task.type.fits_head(task_type) or outputs != task.num_labels:
        raise ModelError(
            f"The model has a head for {task_type.describe(outputs)}, but task {task.name!r} is "
            f"{task.type.describe(task.num_labels)}; choose the task the model was fine-tuned on (your own data: also "
            f"--task-type {task_type.name})."
        )
    model_labels = [name.casefold() for name in label_names(model.config) or ()]
    task_labels = [name.casefold() for name in task.labels]
    if model_labels != task_labels and set(model_labels) == set(task_labels):
        raise ModelError(
            f"The model's classes are {', '.join(model_labels)} in this order, and those of task {task.name!r} "
            f"{', '.join(task_labels)}; recode the data's labels with bertsurgeon.tasks.align_to_model."
        )


def evaluate(
    model: Predictor,
    task: Task,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    device: Device | None = None,
) -> dict[str, float]:
    """Computes a task's published metrics.

    Args:
        model: Dense, pruned or exported model.
        task: Task with the metrics' names.
        data: Labeled data: a dataset, raw (``load_task(…).validation``) or tokenized by
            :func:`bertsurgeon.tasks.tokenize` for the task's type, or padded batches.
        tokenizer: Tokenizer of the model.
        batch_size: Sequences per batch.
        max_length: Maximum number of tokens per sequence of raw data; None for the task type's default.
        device: Where a PyTorch model runs; None for its own device if that is no CPU, else for the accelerator of the
            machine, if it has one.

    Returns:
        Metrics by name, in percent.

    Raises:
        DataError: If the data is empty or has no labels.
        ModelError: If the model's head does not fit the task.
        OptionError: If ``task`` is no task.

    Example:
        >>> from bertsurgeon import evaluate
        >>> from bertsurgeon.tasks import Task
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> task = Task("toy", metrics=("accuracy",), labels=("bad", "good"))
        >>> 0 <= evaluate(model, task, texts, tokenizer)["accuracy"] <= 100
        True
    """
    if isinstance(named := cast(object, task), str):
        raise OptionError(f"evaluate takes a Task, not its name; pass bertsurgeon.tasks.get_task({named!r}).")
    check_config(task, Task, "evaluate")
    check_head(model, task)
    dataset = as_dataset(data, tokenizer, model, max_length, task_type=task.type)
    if len(dataset) == 0 or not task.type.is_labeled(dataset.column_names):
        raise DataError("Evaluation needs at least one labeled sequence; pass data with labels, or use compare.")
    with evaluating(model), running_on(device, model):
        outputs = predict_outputs(model, dataset, tokenizer, batch_size, "Evaluating")
    return task.score(outputs, dataset)


@torch.inference_mode()
def evaluate_masked_lm(
    model: PreTrainedModel,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 16,
    probability: float = 0.15,
    seed: int = 0,
    max_length: int | None = None,
) -> dict[str, float]:
    """Measures how well a masked language model predicts masked tokens.

    Args:
        model: Model with a masked-language-model head.
        data: Texts, raw or tokenized, or padded batches; labels are ignored.
        tokenizer: Tokenizer of the model, with a mask token.
        batch_size: Sequences per batch.
        probability: Probability that a token is masked.
        seed: Seed of the masks; comparisons need the same seed.
        max_length: Maximum number of tokens per raw text; None for 128.

    Returns:
        ``perplexity``, the exponential of the mean cross entropy in nats, and ``masked_accuracy``, the share of masked
        tokens that are predicted, in percent.

    Raises:
        DataError: If the data is empty.
        OptionError: If the tokenizer has no mask token.
    """
    dataset = as_dataset(data, tokenizer, model, max_length)
    if len(dataset) == 0:
        raise DataError("Evaluation needs at least one text.")
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    rows = sorted(dataset.select_columns(names), key=lambda row: len(row["input_ids"]))
    collate = mask_tokens(tokenizer, probability, seed)
    loss, correct, count = 0.0, 0, 0
    with evaluating(model):
        for start in progress.track(range(0, len(rows), batch_size), "Evaluating"):
            batch = collate(rows[start : start + batch_size])
            labels = batch.pop("labels")
            masked = labels != IGNORED
            logits = (
                model(**{name: value.to(model.device) for name, value in batch.items()}).logits[masked].float().cpu()
            )
            loss += float(F.cross_entropy(logits, labels[masked], reduction="sum"))
            correct += int((logits.argmax(-1) == labels[masked]).sum())
            count += len(logits)
    return {"perplexity": math.exp(loss / count), "masked_accuracy": 100 * correct / count}


def compare(
    reference: Predictor,
    model: Predictor,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 64,
    max_length: int | None = None,
    device: Device | None = None,
) -> dict[str, float]:
    """Measures how far two models agree, without labels.

    Args:
        reference: Model to compare with, usually the dense one.
        model: Model pruned from it, or exported.
        data: Texts, raw or tokenized, or padded batches; labels are ignored.
        tokenizer: Tokenizer of both models.
        batch_size: Sequences per batch.
        max_length: Maximum number of tokens per raw text; None for the default of the model's task type.
        device: Where PyTorch models run; None for the device of each if that is no CPU, else for the accelerator of the
            machine, if it has one.

    Returns:
        ``agreement``: the share of equal predictions (classes, each of several classes, classes of words, or both ends
        of an answer), in percent; for numbers, 100 times Pearson's correlation. For embedders ``recall_at_10``,
        ``rank_overlap`` and ``cosine`` (:func:`bertsurgeon.tasks.metrics.neighbor_metrics`).

    Raises:
        DataError: If the data is empty.
        ModelError: If the models predict different things.
        OptionError: If one of the models is no model.
    """
    for one in (reference, model):
        if not callable(one) or not hasattr(one, "config"):
            raise OptionError(
                "compare takes the reference, the model, the data and the tokenizer, in this order; "
                f"{with_article(type(one).__name__)} is not a model."
            )
    check_same_head(reference, model)
    comparison = Comparison(reference, data, tokenizer, batch_size=batch_size, max_length=max_length, device=device)
    return comparison(model)


class Comparison:
    """Compares any number of models with a reference, which runs once; see :func:`compare`.

    Args:
        reference: Model to compare with.
        data: Texts, raw or tokenized, or padded batches.
        tokenizer: Tokenizer of all models.
        batch_size: Sequences per batch.
        max_length: Maximum number of tokens per raw text; None for the default of the reference's task type.
        device: Where PyTorch models run, see :func:`compare`.

    Raises:
        DataError: If the data is empty.
    """

    def __init__(
        self,
        reference: Predictor,
        data: Data,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 64,
        max_length: int | None = None,
        device: Device | None = None,
    ) -> None:
        self._reference = reference
        self._device = device
        self._head = head_of(reference)
        self._data = as_dataset(data, tokenizer, reference, max_length)
        if len(self._data) == 0:
            raise DataError("A comparison needs at least one text.")
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        columns = [name for name in SELECTING_COLUMNS if name in self._data.column_names]
        rows = self._data.select_columns(columns)
        self._batches = [{name: torch.tensor([row[name]]) for name in columns} for row in rows]
        self._reference_outputs = self._outputs(reference)

    def __call__(self, model: Predictor) -> dict[str, float]:
        """Returns the metrics of a model, as :func:`compare` does.

        Raises:
            ModelError: If it predicts something else than the reference.
        """
        check_same_head(self._reference, model)
        return self._head.comparison(self._reference_outputs, self._outputs(model), self._batches)

    def _outputs(self, model: Predictor) -> list[Outputs]:
        """The outputs for every row, each as a batch of one."""
        with evaluating(model), running_on(self._device, model):
            rows = predict_outputs(model, self._data, self._tokenizer, self._batch_size, "Comparing")
        return [{name: value.unsqueeze(0) for name, value in row.items()} for row in rows]
