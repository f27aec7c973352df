"""keep_best: which weights are kept, by what they are scored, and the texts that choose them."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertsurgeon import TrainingConfig, train
from bertsurgeon.checkpoint import load_model
from bertsurgeon.errors import OptionError
from bertsurgeon.evaluation import compare
from bertsurgeon.prediction import predict_outputs
from bertsurgeon.recovery import SelectionReport
from bertsurgeon.tasks import Task
from bertsurgeon.workflows.jobs import split_validation
from cli_helpers import tokenized_texts

TASK = Task("toy", ("accuracy",), ("0", "1"))
CONFIG = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-3, warmup=0.0, keep_best=True)
"""Four steps for 16 rows, each of which is evaluated."""


class Recorder(TrainerCallback):
    """Keeps the weights of every step, and interrupts the training after one of them."""

    def __init__(self, model: PreTrainedModel, interrupted_at: int = 0) -> None:
        self.model = model
        self.interrupted_at = interrupted_at
        self.weights = [flat(model)]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.weights.append(flat(self.model))
        if state.global_step == self.interrupted_at:
            raise KeyboardInterrupt


def flat(model: PreTrainedModel) -> Tensor:
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 16)


@pytest.fixture
def score_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[PreTrainedModel], float]], None]:
    """Replaces the task's metric by a function of the model."""

    def replace(score: Callable[[PreTrainedModel], float]) -> None:
        monkeypatch.setattr(
            "bertsurgeon.recovery.selection.evaluate", lambda model, *_: {"accuracy": score(model), "f1": 0.0}
        )

    return replace


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ((50, 90, 60, 90, 60), 3),
        ((90, 60, 90, 70, 60), 2),
        ((math.nan, math.nan, 10, math.nan, 9), 2),
        ((91, 60, 90, 70, 60), 0),
        ((10, *4 * (math.nan,)), 0),
    ],
    ids=["later of equal ones", "equal to the start", "no numbers", "start", "start alone"],
)
def test_the_highest_score_decides(
    scores: Sequence[float],
    kept: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    score_by: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    remaining = list(scores)
    score_by(lambda _: remaining.pop(0))
    model = load_model(folder / "dense")
    recorder = Recorder(model)
    with caplog.at_level(logging.WARNING, "bertsurgeon"):
        report = train(model, CONFIG, dataset, tokenizer, validation=dataset, task=TASK, callbacks=[recorder])
    assert remaining == []
    assert [torch.equal(flat(model), each) for each in recorder.weights] == [step == kept for step in range(5)]
    numbers = [score for score in scores[1:] if score == score]
    start, best = (scores[0] if scores[0] == scores[0] else None), max(numbers, default=None)
    assert report.selection == SelectionReport("accuracy", 16, start, best, kept)
    warnings = [record.getMessage() for record in caplog.records if record.name == "bertsurgeon"]
    assert len(warnings) == (kept == 0)
    for warning in warnings:
        assert f"No checkpoint reached the start's accuracy of {start:.1f}" in warning
        assert ("best: 90.0" if best else "none has a score") in warning
        assert "another learning rate than 0.001" in warning


@pytest.mark.parametrize("sign", [-1, 1], ids=["the start is best", "the last step is best"])
def test_a_resumed_run_keeps_the_same_weights(
    sign: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    score_by: Callable[..., None],
) -> None:
    """The start is that of the first run, though the model that is resumed has been trained since."""
    initial = load_model(folder / "dense")
    start = flat(initial)
    score_by(lambda model: sign * float((flat(model) - start).norm()))
    ends, reports = [], []
    for interrupted in (False, True):
        model = copy.deepcopy(initial)
        common: dict[str, Any] = {"validation": dataset, "task": TASK, "work_dir": tmp_path / str(interrupted)}
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                train(model, CONFIG, dataset, tokenizer, callbacks=[Recorder(model, 3)], **common)
        reports.append(train(model, CONFIG, dataset, tokenizer, resume=interrupted, **common))
        ends.append(flat(model))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], start) == (sign < 0)
    assert reports[0] == reports[1]
    assert reports[0].selection is not None
    assert reports[0].selection.step == (0 if sign < 0 else 4)


def test_without_labels_the_agreement_with_the_teacher_decides(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the validation texts, over which the teacher runs once."""
    validation = tokenized_texts(tokenizer, 24).remove_columns("labels")
    teacher = load_model(folder / "dense")
    model = load_model(folder / "dense")
    with torch.no_grad():
        model.classifier.weight.neg_()
    start = compare(teacher, model, validation, tokenizer)["agreement"]
    runs: list[PreTrainedModel] = []

    def counted(one: PreTrainedModel, rows: Dataset, *rest: Any) -> list[dict[str, Tensor]]:
        runs.append(one)
        return predict_outputs(one, rows, *rest)

    monkeypatch.setattr("bertsurgeon.evaluation.predict_outputs", counted)
    report = train(model, CONFIG, dataset, tokenizer, teacher=teacher, validation=validation)
    assert report.selection is not None
    assert (report.selection.metric, report.selection.texts) == ("agreement", 24)
    assert report.selection.start_score == start
    assert [one is teacher for one in runs] == [True, *5 * [False]]
    best = max(start, report.selection.best_score or 0)
    assert compare(teacher, model, validation, tokenizer)["agreement"] == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither the teacher was trained on nor the calibration has used; pass such texts as validation"),
        ({"validation": True}, "pass a task or a teacher"),
        ({"validation": True, "keep_best": False}, "serve keep_best alone"),
    ],
    ids=["no texts", "nothing to score by", "no effect"],
)
def test_selection_needs_texts_and_a_score(
    options: dict[str, bool],
    message: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
) -> None:
    config = TrainingConfig(keep_best=options.get("keep_best", True))
    validation = dataset if "validation" in options else None
    with pytest.raises(OptionError, match=message):
        train(load_model(folder / "dense"), config, dataset, tokenizer, validation=validation)


def test_validation_texts_are_split_in_disjoint_halves() -> None:
    validation = Dataset.from_dict({"text": [f"text {number}" for number in range(41)]})

    def windows(texts: Dataset) -> Dataset:
        return Dataset.from_dict({"text": 2 * list(texts["text"])})

    def halves(seed: int) -> tuple[set[str], set[str]]:
        reported, selection = split_validation(validation, windows, TrainingConfig(keep_best=True, seed=seed))
        assert selection is not None
        assert (selection.count, selection.reported) == (20, 21)
        assert (len(selection.data), len(reported)) == (40, 42)
        return set(selection.data["text"]), set(reported["text"])

    chosen, reported = halves(0)
    assert chosen | reported == set(validation["text"])
    assert not chosen & reported
    assert halves(0)[0] == chosen != halves(1)[0]
    for config in (None, TrainingConfig()):
        everything, selection = split_validation(validation, windows, config)
        assert (len(everything), selection) == (82, None)
    with pytest.raises(OptionError, match="at least 20 texts, not 19"):
        split_validation(validation.select(range(19)), windows, TrainingConfig(keep_best=True))
