"""Fine-tuned dense models with their data, and what the experiments prune and measure them with."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    PgbConfig,
    PruneConfig,
    Sparsity,
    calibrate,
    evaluate,
    load_model,
    prune,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, MatrixKey, Statistics, collect_statistics, make_batches
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.compensation import apply_plan
from bertsurgeon.methods.pgb.importance import score_matrices
from bertsurgeon.methods.pgb.method import make_plan
from bertsurgeon.prediction import predict
from bertsurgeon.tasks import TaskData, load_task, tokenize
from lib.common import summarize_report
from lib.results_store import RUNS

BASE_ENCODER = RUNS / "all-mpnet-base-v2"
"""The folder that ``experiments/base_encoder.py`` builds."""
PROBE_SIZE = 512
"""Training texts that are used for neither calibration nor training."""


@dataclass
class TaskModel:
    """A dense model with its task; the data are tokenized."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    train: Dataset
    validation: Dataset

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """Returns the task's metrics on the validation data."""
        return evaluate(model, self.data.task, self.validation, self.tokenizer)

    def one_shot(self, config: PruneConfig) -> dict[str, Any]:
        """Prunes without recovery and scores the model."""
        model, report = prune(self.model, config, self.train, self.tokenizer)
        return {"metrics": self.score(model), "samples": report.samples, "report": summarize_report(report)}


def load_task_model(folder: str, task: str, data_dir: Path | None) -> TaskModel:
    """Loads a dense model and its task."""
    model, tokenizer, data = load_model(folder), load_tokenizer(folder), load_task(task, data_dir)
    return TaskModel(model, tokenizer, data, *(tokenize(part, tokenizer) for part in (data.train, data.validation)))


@dataclass
class StatisticsModel(TaskModel):
    """A dense model with the statistics that ``pgb`` needs, collected once for many prunings."""

    batches: list[Batch]
    statistics: Statistics
    scores: dict[MatrixKey, Tensor]
    seed: int

    def prune(self, config: PgbConfig) -> PreTrainedModel:
        """Prunes with these statistics."""
        scores = self.scores
        if config.importance == "magnitude":
            scores = score_matrices(self.model, self.statistics, "magnitude", 0.0)
        plan = make_plan(Encoder(self.model).architecture, replace(config, seed=self.seed), scores)
        pruned = apply_plan(
            self.model,
            plan,
            config.compensation,
            batches=self.batches,
            moments=self.statistics.moments,
            damping=config.damping,
        )
        attach_plan(pruned, plan)
        return pruned


def load_with_statistics(folder: str, task: str, data_dir: Path | None, samples: int, seed: int) -> StatisticsModel:
    """Loads a dense model and its task, and collects gradients and moments in one pass."""
    set_seed(seed)
    model, tokenizer, data = load_model(folder), load_tokenizer(folder), load_task(task, data_dir, seed)
    train, validation = (tokenize(part, tokenizer) for part in (data.train, data.validation))
    batches = make_batches(train, tokenizer, samples, 32, seed)
    statistics = collect_statistics(model, batches, moments=True, seed=seed)
    scores = score_matrices(model, statistics, "fisher", 0.0)
    return StatisticsModel(model, tokenizer, data, train, validation, batches, statistics, scores, seed)


@dataclass
class StudyModel(TaskModel):
    """A dense model of the study, calibrated when first needed."""

    seed: int
    folder: Path
    data_dir: Path

    @cached_property
    def calibration(self) -> Calibration:
        """Calibration of ``auto``, without labels, for all structures."""
        config = CalibrationConfig(seed=self.seed, structures=("removal", "low_rank", "groups"))
        return calibrate(self.model, config, self.train, self.tokenizer)

    @cached_property
    def with_statistics(self) -> StatisticsModel:
        """The same model with the statistics of ``pgb``, with labels."""
        return load_with_statistics(str(self.folder), self.data.task.name, self.data_dir, 1024, self.seed)

    def config(self, share: float, **options: Any) -> AutoConfig:
        """Returns options of ``auto`` that keep this share of the encoder's weights."""
        return AutoConfig(Sparsity(1 - share), seed=self.seed, **options)

    def pgb_config(self, share: float, **options: Any) -> PgbConfig:
        """Returns options of ``pgb`` that keep this share of the encoder's weights."""
        return PgbConfig(Sparsity(1 - share), seed=self.seed, **options)


def load_study_model(task: str, seed: int, data_dir: Path) -> StudyModel:
    """Loads a dense model of ``finetune.py``, for SST-2 that of ``docs/results.md``."""
    folder = RUNS / ("minilm-sst2" if task == "sst2" else f"{task}-{seed}")
    dense = load_task_model(str(folder), task, data_dir)
    return StudyModel(**vars(dense), seed=seed, folder=folder, data_dir=data_dir)


class Probe:
    """A dense model, 512 training texts to compare predictions on, and all other training texts.

    The divergence KL(dense ‖ pruned) of the predictions is far less noisy than a metric on a small development set.
    """

    def __init__(self, folder: str, task: str, data_dir: Path | None, seed: int) -> None:
        self.model, self.tokenizer = load_model(folder), load_tokenizer(folder)
        self.data = load_task(task, data_dir, seed)
        shuffled = tokenize(self.data.train, self.tokenizer).shuffle(seed=seed)
        self.probe_texts = shuffled.select(range(PROBE_SIZE))
        self.train = shuffled.select(range(PROBE_SIZE, len(shuffled)))
        self.validation = tokenize(self.data.validation, self.tokenizer)
        self._dense_log_probabilities = self._log_probabilities(self.model)

    def divergence(self, model: PreTrainedModel) -> float:
        """Returns the KL(dense ‖ model) on the probe, mean over its texts."""
        log_probabilities = self._log_probabilities(model)
        return float(F.kl_div(log_probabilities, self._dense_log_probabilities, reduction="batchmean", log_target=True))

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """Returns the task's metrics on the validation data."""
        return evaluate(model, self.data.task, self.validation, self.tokenizer)

    def one_shot(self, config: PruneConfig) -> dict[str, Any]:
        """Prunes without recovery, and measures quality and divergence."""
        pruned, report = prune(self.model, config, self.train, self.tokenizer)
        return {
            "metrics": self.score(pruned),
            "divergence": self.divergence(pruned),
            "samples": report.samples,
            "report": summarize_report(report),
        }

    def _log_probabilities(self, model: PreTrainedModel) -> Tensor:
        return predict(model, self.probe_texts, self.tokenizer, 64, "Predicting").log_softmax(-1)
