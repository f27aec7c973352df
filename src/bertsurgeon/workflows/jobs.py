"""Data of a training: what it learns from, what scores the model, and which texts choose the best weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.errors import OptionError
from bertsurgeon.evaluation import compare, evaluate
from bertsurgeon.recovery import TrainingConfig, TrainingReport
from bertsurgeon.tasks import Task, TaskData, as_dataset

if TYPE_CHECKING:
    from datasets import Dataset

MIN_TEXTS_TO_SPLIT = 20
"""Fewest validation texts of which one half can choose weights and the other half measure them."""


@dataclass(frozen=True)
class SelectionTexts:
    """The part of the validation texts that chooses the best weights (``keep_best``).

    Attributes:
        data: The texts, tokenized.
        count: Their number, before long ones are divided in windows.
        reported: Number of the other texts, of which the metrics are.
    """

    data: Dataset
    count: int
    reported: int


@dataclass(frozen=True)
class TrainingJob:
    """Data to train on, and how the trained model is scored.

    Attributes:
        task: The task; None if there are no labels.
        training: Tokenized training data.
        score: Returns the metrics of a model.
        selection: Other texts, which choose the best weights; None if the last weights are kept.
    """

    task: Task | None
    training: Dataset
    score: Callable[[PreTrainedModel], dict[str, float]]
    selection: SelectionTexts | None = None


def labeled_job(
    data: TaskData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    config: TrainingConfig | None = None,
) -> TrainingJob:
    """Makes a job of a task, scored by its metrics.

    Args:
        data: The task and its data.
        model: The model to train, which must be able to read the data.
        tokenizer: Tokenizer of the model.
        max_length: Maximum number of tokens per text; None for the default of the task's type.
        config: Options of a training that may choose the best weights; None if it does not.
    """
    task = data.task

    def encode(texts: Dataset) -> Dataset:
        return as_dataset(texts, tokenizer, model, max_length, task_type=task.type)

    validation, selection = split_validation(data.validation, encode, config)
    training = encode(data.train)
    return TrainingJob(task, training, lambda model: evaluate(model, task, validation, tokenizer), selection)


def unlabeled_job(
    texts: tuple[Dataset, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    teacher: PreTrainedModel,
    config: TrainingConfig | None = None,
) -> TrainingJob:
    """Makes a job of texts alone, scored by the agreement with the teacher on the held-out ones."""

    def encode(texts: Dataset) -> Dataset:
        return as_dataset(texts, tokenizer, teacher, max_length)

    held_out, selection = split_validation(texts[1], encode, config)
    training = encode(texts[0])
    return TrainingJob(None, training, lambda model: compare(teacher, model, held_out, tokenizer), selection)


def split_validation(
    validation: Dataset, encode: Callable[[Dataset], Dataset], training: TrainingConfig | None
) -> tuple[Dataset, SelectionTexts | None]:
    """Splits validation texts in halves: those whose metrics are reported, and those that choose the best weights.

    Metrics on the texts that chose the weights would be too high.

    Args:
        validation: The texts, before tokenization.
        encode: Tokenizes them.
        training: Options of the training, whose seed fixes the halves; None for none. Without ``keep_best`` all texts
            are reported.

    Returns:
        Both parts, tokenized.

    Raises:
        OptionError: If there are fewer than ``MIN_TEXTS_TO_SPLIT``.
    """
    if training is None or not training.keep_best:
        return encode(validation), None
    count = len(validation)
    if count < MIN_TEXTS_TO_SPLIT:
        raise OptionError(
            "--keep-best chooses the weights on one half of the validation texts and reports the metrics of the other, "
            f"which takes at least {MIN_TEXTS_TO_SPLIT} texts, not {count}; name more texts (a tenth of a --text-file "
            "is held out), or leave out --keep-best."
        )
    parts = validation.train_test_split(test_size=count // 2, seed=training.seed)
    return encode(parts["train"]), SelectionTexts(encode(parts["test"]), count // 2, count - count // 2)


def selection_arguments(selection: SelectionTexts | None, task: Task | None) -> dict[str, Any]:
    """Returns the arguments of :func:`bertsurgeon.recover` for texts that choose the weights; none without texts."""
    return {} if selection is None else {"validation": selection.data, "task": task}


def training_settings(
    config: TrainingConfig, report: TrainingReport, selection: SelectionTexts | None
) -> dict[str, Any]:
    """Returns the options of a training for a report, with what the training chose.

    With ``keep_best``, also prints which texts chose the weights and which ones the metrics are of.
    """
    settings: dict[str, Any] = {"training": asdict(replace(config, learning_rate=report.learning_rate))}
    if selection is not None and report.selection is not None:
        progress.note(
            f"The best weights are chosen by {report.selection.metric.replace('_', ' ')} on {selection.count} of "
            f"{selection.count + selection.reported} validation texts; the metrics are those of the other "
            f"{selection.reported}."
        )
        texts = {"texts": selection.count, "reported_texts": selection.reported}
        settings["selection"] = {**asdict(report.selection), **texts}
    return settings
