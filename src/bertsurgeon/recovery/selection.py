"""Selection of the best weights: what they are scored by, the Trainer that asks for scores, and the start's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from bertsurgeon import distributed, progress
from bertsurgeon.checkpoint import check_finite
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.evaluation import Comparison, evaluate
from bertsurgeon.tasks import Data, Task, as_dataset

SCORE = "score"
"""Name of the score among the Trainer's metrics."""

START_FILE = Path("start") / "weights.pt"
"""File with the weights before training and their score, in the folder of the checkpoints."""


@dataclass(frozen=True)
class SelectionReport:
    """How the best weights were chosen.

    Attributes:
        metric: Name of the metric that ranked them.
        texts: Number of texts on which it was computed.
        start_score: Score of the weights before training, in percent; None if it is no number.
        best_score: Highest score of a checkpoint, in percent; None if no checkpoint has one.
        step: Step of the weights that were kept; 0 for those before training.
    """

    metric: str
    texts: int
    start_score: float | None
    best_score: float | None
    step: int


@dataclass
class Score:
    """What weights are ranked by; higher is better.

    Attributes:
        data: Tokenized texts.
        measure: Returns the metrics of a model on these texts, in percent, the primary one first.
        metric: Name of the primary metric; embedders have one of their own, known once a model is scored.
        bf16: Multiply in bfloat16.
    """

    data: Dataset
    measure: Callable[[PreTrainedModel], dict[str, float]]
    metric: str
    bf16: bool = False

    def __call__(self, model: PreTrainedModel) -> float:
        """Returns the score of a model; with several processes, all must call this, and all get the same number.

        Weights that are not finite have the lowest score: what they predict may be right by chance.
        """
        try:
            check_finite(model)
        except ModelError:
            return float("-inf")
        # the Trainer casts the model from its first step on, so the start must be cast here to be compared with it
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            metrics = self.measure(model)
        self.metric = next(iter(metrics))
        return float(metrics[self.metric])  # a correlation may be no number (NaN), which is never the best


def make_score(
    validation: Data | None,
    task: Task | None,
    teacher: PreTrainedModel | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    bf16: bool = False,
) -> Score:
    """Makes the score of ``keep_best``: the task's primary metric, or without a task the agreement with the teacher.

    Args:
        validation: Texts that neither the teacher was trained on nor the calibration has used.
        task: The task, if the texts are labeled.
        teacher: The dense model; runs once over the texts if there is no task.
        model: The model that is trained.
        tokenizer: Tokenizer of both models.
        bf16: Multiply in bfloat16.

    Raises:
        OptionError: If there are no texts, or neither a task nor a teacher.
    """
    if validation is None:
        raise OptionError(
            "keep_best ranks weights by texts that neither the teacher was trained on nor the calibration has used; "
            "pass such texts as validation, with their task if they are labeled, or leave out keep_best."
        )
    if task is not None:
        data = as_dataset(validation, tokenizer, model, task_type=task.type)
        return Score(data, lambda trained: evaluate(trained, task, data, tokenizer), task.primary_metric, bf16)
    if teacher is None:
        raise OptionError(
            "keep_best ranks weights by a task's primary metric or by the agreement with the teacher; pass a task or a "
            "teacher."
        )
    data = as_dataset(validation, tokenizer, model)
    with torch.autocast(teacher.device.type, torch.bfloat16, enabled=bf16):
        comparison = Comparison(teacher, data, tokenizer)
    return Score(data, comparison, "agreement", bf16)


class ScoringTrainer(Trainer):
    """A Trainer that evaluates by a score, instead of the loss.

    Args:
        score: Ranks the weights; None if nothing is evaluated.
        **kwargs: As for :class:`transformers.Trainer`.
    """

    def __init__(self, *, score: Score | None = None, **kwargs: Any) -> None:
        super().__init__(eval_dataset=None if score is None else score.data, **kwargs)
        self.score = score

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Scores the current weights; the arguments of the base class have no effect."""
        assert self.score is not None
        assert isinstance(self.model, PreTrainedModel)
        value = self.score(self.model)
        if value == self.state.best_metric:
            # Of equal scores, which are common on few texts, the Trainer keeps the first; later weights were trained
            # for longer, at a lower learning rate. Without a best score, it takes the current one.
            self.state.best_metric = None
        metrics = {f"{metric_key_prefix}_{SCORE}": value}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class Start:
    """The weights before training, which are restored if no checkpoint reaches their score.

    They are in the folder of the checkpoints, so that a resumed run compares with the same ones.

    Args:
        trainer: The Trainer, before its training.
        model: The model that is trained.
        work_dir: Folder of the checkpoints.
        resumed: True if the training continues from a checkpoint.
    """

    def __init__(self, trainer: ScoringTrainer, model: PreTrainedModel, work_dir: Path, resumed: bool) -> None:
        assert trainer.score is not None
        self._score = trainer.score
        self._file = work_dir / START_FILE
        if resumed and distributed.run_on_main(self._file.is_file):
            stored = self._load()
            self.value, self._score.metric = stored["score"], stored["metric"]
        else:
            self.value = self._score(model)
            distributed.run_on_main(lambda: self._save(model))

    def choose(self, model: PreTrainedModel, trainer: Trainer) -> SelectionReport:
        """Restores the start in the model if it is better than the best checkpoint, with a warning.

        Args:
            model: The model, with the weights of the best checkpoint.
            trainer: The Trainer, after its training.

        Returns:
            The scores.
        """
        best, texts = trainer.state.best_metric, len(self._score.data)
        name, start = self._score.metric.replace("_", " "), f"{self.value:.1f}"
        best_score = None if best is None or not isfinite(best) else float(best)
        step = trainer.state.best_global_step or 0
        if best_score is None or self.value > best_score:
            step = 0
            model.load_state_dict(self._load()["weights"])
            reached = "none has a score" if best_score is None else f"best: {best_score:.1f}"
            progress.warn(
                f"No checkpoint reached the start's {name} of {start} ({reached}) on {texts} validation texts, so the "
                "weights are those before training; try another learning rate than "
                f"{trainer.args.learning_rate:.2g}, or more epochs."
            )
        else:
            progress.note(
                f"Kept the weights of step {step}, whose {name} is {best_score:.1f} on {texts} validation texts; "
                f"before training it was {start}."
            )
        start_score = self.value if isfinite(self.value) else None
        return SelectionReport(self._score.metric, texts, start_score, best_score, step)

    def _save(self, model: PreTrainedModel) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        torch.save({"weights": model.state_dict(), "score": self.value, "metric": self._score.metric}, partial)
        partial.replace(self._file)  # a killed process leaves a complete file or none

    def _load(self) -> dict[str, Any]:
        stored: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=True)
        return stored
