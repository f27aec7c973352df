"""Quality of a model on a task."""

import math

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.errors import DataError, ModelError
from bertsurgeon.prediction import Predictor, predict_outputs
from bertsurgeon.tasks import IGNORED, Task, check_same_head, class_labels, head_of, mask_tokens, task_type_of
from bertsurgeon.tasks.collate import WORD_STARTS

READ = ("attention_mask", WORD_STARTS, "labels")
"""Columns that tell which outputs are predictions."""


def check_head(model: Predictor, task: Task) -> None:
    """Checks that a model's head fits a task.

    Raises:
        ModelError: If it is for another kind of task, or the number of outputs or the order of the classes differs.
    """
    kind = task_type_of(model)
    outputs = kind.outputs_of(model.config)
    if type(kind) is not type(task.kind) or outputs != task.num_labels:
        raise ModelError(
            f"The model has a head for {kind.describe(outputs)}, but task {task.name!r} is "
            f"{task.kind.describe(task.num_labels)}; choose the task the model was fine-tuned on (your own data: also "
            f"--task-type {kind.name})."
        )
    own, wanted = ([name.casefold() for name in names or ()] for names in (class_labels(model.config), task.labels))
    if own != wanted and set(own) == set(wanted):
        raise ModelError(
            f"The model's classes are {', '.join(own)} in this order, and those of task {task.name!r} "
            f"{', '.join(wanted)}; give the data the model's numbers with bertsurgeon.tasks.for_model."
        )


def evaluate(
    model: Predictor,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    batch_size: int = 64,
) -> dict[str, float]:
    """The task's published metrics, in percent.

    Args:
        model: Pruned or dense, or exported.
        dataset: Tokenized by :func:`bertsurgeon.tasks.tokenize` for the task's kind, with labels.
        tokenizer: Pads the batches.
        task: Says which metrics.
        batch_size: Sequences per batch.

    Raises:
        DataError: If the dataset is empty or has no labels.
        ModelError: If the head does not fit the task.

    Example:
        >>> from bertsurgeon import evaluate
        >>> from bertsurgeon.tasks import Task, tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> task = Task("toy", metrics=("accuracy",), labels=("bad", "good"))
        >>> 0 <= evaluate(model, tokenize(texts, tokenizer), tokenizer, task)["accuracy"] <= 100
        True
    """
    check_head(model, task)
    if len(dataset) == 0 or not task.kind.is_labelled(dataset.column_names):
        raise DataError("Evaluation needs at least one labelled sequence.")
    model.eval()
    return task.score(predict_outputs(model, dataset, tokenizer, batch_size, "Evaluating"), dataset)


@torch.inference_mode()
def evaluate_masked_lm(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 16,
    probability: float = 0.15,
    seed: int = 0,
) -> dict[str, float]:
    """How well a model guesses hidden tokens: perplexity, and the share of them that it gets right, in percent.

    Args:
        model: With a masked-language-model head.
        dataset: Tokenized texts.
        tokenizer: Pads the batches, and hides tokens.
        batch_size: Sequences per batch.
        probability: Of a token to be hidden.
        seed: Fixes which ones; the same for all models that are to be compared.

    Raises:
        DataError: If the dataset is empty.
    """
    if len(dataset) == 0:
        raise DataError("Evaluation needs at least one text.")
    model.eval()
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    rows = sorted(dataset.select_columns(names), key=lambda row: len(row["input_ids"]))
    collate = mask_tokens(tokenizer, probability, seed)
    loss, right, count = 0.0, 0, 0
    for start in progress.track(range(0, len(rows), batch_size), "Evaluating"):
        batch = collate(rows[start : start + batch_size])
        labels = batch.pop("labels")
        hidden = labels != IGNORED
        logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits[hidden].float().cpu()
        loss += float(F.cross_entropy(logits, labels[hidden], reduction="sum"))
        right += int((logits.argmax(-1) == labels[hidden]).sum())
        count += len(logits)
    return {"perplexity": math.exp(loss / count), "masked_accuracy": 100 * right / count}


def compare(
    dense: Predictor,
    pruned: Predictor,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 64,
) -> dict[str, float]:
    """How far two models say the same, in percent, without labels.

    ``agreement`` is how often they do; of numbers, 100 times Pearson's correlation. What they say are a class, each of
    several classes, the class of each word, or both ends of an answer. Embedders are compared by the neighbours they
    find: ``recall_at_10``, ``rank_overlap`` and ``cosine`` (:func:`bertsurgeon.tasks.neighbours.neighbour_metrics`).

    Args:
        dense: The dense model.
        pruned: The model pruned from it, or exported.
        dataset: Tokenized texts, labels not needed.
        tokenizer: Pads the batches.
        batch_size: Sequences per batch.

    Raises:
        DataError: If the dataset is empty.
        ModelError: If the models predict different things.
    """
    if len(dataset) == 0:
        raise DataError("A comparison needs at least one text.")
    head = head_of(dense)
    check_same_head(dense, pruned)
    first, second = (
        [{name: value.unsqueeze(0) for name, value in row.items()} for row in rows]
        for rows in (
            predict_outputs(model.eval(), dataset, tokenizer, batch_size, "Comparing") for model in (dense, pruned)
        )
    )
    columns = [name for name in READ if name in dataset.column_names]
    rows = [{name: torch.tensor([row[name]]) for name in columns} for row in dataset.select_columns(columns)]
    return head.comparison(first, second, rows)
