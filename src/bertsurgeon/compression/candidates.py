"""Candidates of a search: made, exported, run on the texts, and timed beside the dense model; each is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.architectures import unfuse
from bertsurgeon.benchmark import (
    Latency,
    count_flops,
    fitting_length,
    folder_size,
    measure_sizes,
    random_inputs,
    time_batches,
)
from bertsurgeon.budgets import Sparsity
from bertsurgeon.checkpoint import get_plan, load_model, new_work_folder, remove_work_folder, save_model
from bertsurgeon.compression.bounds import Bound, Quality, judge
from bertsurgeon.compression.candidate import Candidate, Spec
from bertsurgeon.compression.config import CompressConfig
from bertsurgeon.compression.costs import Costs, measure_costs
from bertsurgeon.compression.inputs import SearchInputs
from bertsurgeon.compression.work_folder import ENTRY, WorkFolder, key_of, load_outputs, save_outputs, setting_key
from bertsurgeon.devices import move
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import CheckpointError, ExportError
from bertsurgeon.exporting import ExportConfig, export
from bertsurgeon.layers import prepare_for_inference
from bertsurgeon.methods.auto.config import AutoConfig, CalibrationConfig
from bertsurgeon.methods.auto.measurements import Calibration, calibrate
from bertsurgeon.methods.auto.method import apply_calibrated_plan, plan_for_share
from bertsurgeon.prediction import Predictor, evaluating, predict_outputs
from bertsurgeon.recovery import EmbeddingRefit, TrainingConfig, recover
from bertsurgeon.runtime import Precision, open_exported
from bertsurgeon.tasks import head_of
from bertsurgeon.tasks.contributions import Contributions, agreement_contributions, contributions
from bertsurgeon.tasks.retrieval import Ranking

if TYPE_CHECKING:
    from datasets import Dataset

    from bertsurgeon.plan import ModelPlan

Outputs = list[dict[str, Tensor]]

VERSION = 1
"""Part of every key; raised when the same options make other candidates."""

RUNS, SECONDS = 40, 15.0
"""Timed forward passes of a candidate, and the time limit of these and those of the dense model together."""

LATENCY_FIELDS = ("p50_ms", "p95_ms", "p99_ms", "throughput")
"""What reports hold of a latency."""

CHECKPOINT, EXPORT, OUTPUTS = "checkpoint", "export", "outputs.safetensors"
"""Folders and files of a candidate in the work folder."""


class CandidateMaker:
    """Makes and measures candidates, or reads them from the work folder.

    Args:
        model: The dense model.
        tokenizer: Its tokenizer.
        config: The options.
        inputs: Tokenized data.
        bound: What candidates may lose.
        work: The work folder, open.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: CompressConfig,
        inputs: SearchInputs,
        bound: Bound,
        work: WorkFolder,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.inputs, self.bound, self.work = inputs, bound, work
        self.runtime = config.target_runtime()
        self.length = fitting_length([model], config.length)
        calibrated = {"seed": config.seed, "version": VERSION, "calibration": inputs.calibration_digest}
        self._calibration_key = key_of(inputs.fingerprint, calibrated)
        self._setting = setting_key(model, self.runtime)
        self.step_seconds: dict[str, float] = {}

    # the dense model

    @cached_property
    def dense_outputs(self) -> Outputs:
        """Outputs of the dense model in PyTorch on the texts of the search."""
        return self._outputs_of_dense(self.inputs.search)

    @cached_property
    def dense_confirmation(self) -> Outputs:
        """Outputs of the dense model in PyTorch on the texts that the search does not use."""
        assert self.inputs.confirmation is not None
        return self._outputs_of_dense(self.inputs.confirmation)

    def _outputs_of_dense(self, rows: Dataset) -> Outputs:
        """Returns outputs of the dense model in PyTorch."""
        with evaluating(self.model):
            return predict_outputs(self.model, rows, self.tokenizer, description="Running the dense model")

    @cached_property
    def dense_metrics(self) -> dict[str, float]:
        """Metrics of the dense model in PyTorch, in percent; empty without a task."""
        return self.metrics(self.dense_outputs, self.inputs.search)

    @cached_property
    def _unfused(self) -> PreTrainedModel:
        return unfuse(self.model)

    @cached_property
    def _dense_runnable(self) -> Predictor:
        """The dense model in the runtime, in fp32, against which all candidates are timed."""
        if self.runtime == "pytorch":
            return self.model
        return open_exported(self.make(Spec("fp32")).folder / EXPORT)

    # pruning

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration, made once."""
        folder = self.work.path("calibration", self._calibration_key)
        if not folder.is_dir():
            progress.note("Calibrating: measuring once what every part of the model contributes.")
            made = calibrate(
                self.model, CalibrationConfig(seed=self.config.seed), self.inputs.calibration, self.tokenizer
            )
            made.save(folder)
        try:
            calibration = Calibration.load(folder)
        except CheckpointError as error:
            raise CheckpointError(f"The calibration in {folder} is damaged; remove it to calibrate again.") from error
        self.step_seconds["calibration"] = sum(calibration.seconds.values())
        return calibration

    def costs(self, precision: Precision) -> Costs:
        """Returns what the parts of the encoder cost in the target, measured once."""
        calibration = self.calibration  # its seconds count in a repeated search as well, which finds the costs
        key = key_of("costs", self._calibration_key, self.config.objective, self._target(precision), self._setting)
        data = self.work.value(
            key,
            lambda: measure_costs(
                self._unfused, calibration, self.config.objective, self._target(precision), self.config.seed
            ).to_dict(),
        )
        costs = Costs.from_dict(data)
        self.step_seconds["latency model"] = costs.seconds
        return costs

    def plan(self, spec: Spec) -> tuple[ModelPlan, float]:
        """Returns the plan of a pruned candidate, and its predicted error."""
        assert spec.share is not None
        return plan_for_share(
            self._unfused,
            self._auto_config,
            self.calibration,
            self.costs(spec.precision).cost,
            spec.share,
            note_rest=False,
        )

    @cached_property
    def _auto_config(self) -> AutoConfig:
        return AutoConfig(Sparsity(0.5), seed=self.config.seed)  # the budget is not used: shares of the cost are

    def _target(self, precision: Precision) -> tuple[str, Precision, int, int]:
        return self.runtime, precision, self.config.batch_size, self.length

    # candidates

    def make(self, spec: Spec, *, confidence: float | None = None, training: TrainingConfig | None = None) -> Candidate:
        """Returns a candidate, from the work folder if it is there.

        Args:
            spec: What makes it.
            confidence: Confidence of its limit; None for that of the bound.
            training: Options of its recovery.
        """
        parts = [VERSION, self.inputs.fingerprint, self.inputs.search_digest, self.inputs.calibration_digest, spec]
        parts += [self.runtime, self.config.seed, self._timing_key, self._setting]
        if spec.share is not None:
            parts += [self.config.objective, key_of(self.costs(spec.precision).to_dict())]
        if spec.recovered or (spec.share is not None and isinstance(self.model, Embedder)):
            parts += [training, self.inputs.training_digest]
        key = key_of(*parts)
        entry = self.work.read_candidate(key)
        if entry is None:
            start = time.perf_counter()
            with self.work.new_candidate(key) as folder:
                entry = self._make(spec, folder, key, training)
                entry["seconds"] = time.perf_counter() - start
                (folder / ENTRY).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        folder = self.work.path("candidate", key)
        return self._judge(spec, folder, entry, confidence or self.bound.confidence)

    @property
    def _timing_key(self) -> tuple[Any, ...]:
        return self.config.batch_size, self.length, self.config.own_lengths

    def _make(self, spec: Spec, folder: Path, key: str, training: TrainingConfig | None) -> dict[str, Any]:
        predicted = None
        if spec.share is None:
            network = self.model
        else:
            plan, predicted = self.plan(spec)
            network = self._pruned(plan)
            refits = self._refit
            if refits is not None:
                refits.apply(network)
            if spec.recovered:
                self._recover(network, key, training)
                if refits is not None:
                    refits.apply(network)
        save_model(network, folder / CHECKPOINT, self.tokenizer, texts={})
        sizes = measure_sizes(network)
        dense_weights = measure_sizes(self.model).encoder_weights
        entry: dict[str, Any] = {
            "spec": asdict(spec),
            "removed": None if spec.share is None else 1 - sizes.encoder_weights / dense_weights,
            "predicted_error": predicted,
            "training": None if training is None else asdict(training),
            "encoder_weights": sizes.encoder_weights,
            "parameters": sizes.parameters,
            "flops": count_flops(network, 1, self.length),
            "error": None,
            **dict.fromkeys(("file_bytes", "latency", "relative_time", "kept_float")),
        }
        try:
            runnable = self._open(network, spec.precision, folder, entry)
        except ExportError as error:
            entry["error"] = str(error)
            return entry
        with evaluating(runnable):
            outputs = predict_outputs(runnable, self.inputs.search, self.tokenizer, description="Measuring its answers")
        save_outputs(folder / OUTPUTS, outputs)
        if spec == Spec("fp32"):
            name, models = "dense", {"dense": runnable}
        else:
            name, models = "candidate", {"dense": self._dense_runnable, "candidate": runnable}
        latencies = time_batches(models, self.timed_batches, RUNS, seconds=SECONDS)
        latency = latencies[name]
        entry["latency"] = latency_to_dict(latency)
        entry["relative_time"] = latency.p50_ms / latencies["dense"].p50_ms
        return entry

    def _open(self, network: PreTrainedModel, precision: Precision, folder: Path, entry: dict[str, Any]) -> Predictor:
        """Exports a model and opens it in the runtime; for PyTorch, prepares it for inference."""
        if self.runtime == "pytorch":
            entry["file_bytes"] = folder_size(folder / CHECKPOINT)
            if get_plan(network) is None:
                return network
            prepared = move(load_model(str(folder / CHECKPOINT)), self.model.device)
            prepare_for_inference(prepared)
            return prepared
        options = ExportConfig(self.runtime, precision, tolerance=inf, invariance=False, seed=self.config.seed)
        manifest = export(network, options, self.inputs.calibration, self.tokenizer, output=folder / EXPORT)
        entry["file_bytes"] = folder_size(folder / EXPORT)
        entry["kept_float"] = list(manifest.kept_float)
        return open_exported(folder / EXPORT)

    def _pruned(self, plan: ModelPlan) -> PreTrainedModel:
        with evaluating(self._unfused):
            return apply_calibrated_plan(self._unfused, plan, self._auto_config, self.calibration)

    @cached_property
    def _refit(self) -> EmbeddingRefit | None:
        """Refits the embeddings of pruned embedders; None for other models."""
        refit = EmbeddingRefit.of(self.model, self.inputs.training, self.tokenizer, self.config.seed)
        if refit is not None:
            refit.leave_out(self.calibration.batches)
        return refit

    def _recover(self, pruned: PreTrainedModel, key: str, training: TrainingConfig | None) -> None:
        """Trains a pruned model in place; a killed training is continued."""
        work_dir = self.work.path("training", key)
        if not work_dir.is_dir():
            new_work_folder(work_dir)
        recover(
            pruned,
            training,
            self.inputs.training,
            self.tokenizer,
            teacher=self.model,
            work_dir=work_dir,
            resume=True,
        )
        remove_work_folder(work_dir)

    # measuring

    @cached_property
    def timed_batches(self) -> Sequence[Mapping[str, Tensor]]:
        """The batches on which models are timed."""
        if self.config.own_lengths:
            return self.inputs.batches(self.tokenizer, self.config.batch_size)
        return [random_inputs([self.model], self.config.batch_size, self.length)]

    def metrics(self, outputs: Outputs, rows: Dataset) -> dict[str, float]:
        """Returns the task's metrics in percent; none without a task."""
        return {} if self.inputs.task is None else self.inputs.task.score(outputs, rows)

    def _judge(self, spec: Spec, folder: Path, entry: dict[str, Any], confidence: float) -> Candidate:
        name = "dense" if spec.share is None else f"auto {100 * entry['removed']:.0f} %"
        name += f" {spec.precision}" * (spec != Spec("fp32")) + " recovered" * spec.recovered
        if entry["error"] is not None:
            return Candidate(spec, name, folder, {**entry, "metrics": {}}, None, None)
        outputs = load_outputs(folder / OUTPUTS)
        # computed, not kept: the same answers may be scored by another task
        entry = {**entry, "metrics": self.metrics(outputs, self.inputs.search)}
        agreement, quality = self.measure_loss(self.dense_outputs, outputs, self.inputs.search, confidence)
        return Candidate(spec, name, folder, entry, agreement, quality)

    def measure_loss(self, dense: Outputs, outputs: Outputs, rows: Dataset, confidence: float) -> tuple[float, Quality]:
        """Returns the agreement with the dense model, in percent, and the loss against the bound."""
        task = self.inputs.task
        head = task.type if task is not None and isinstance(task.type, Ranking) else head_of(self.model)
        agreement = agreement_contributions(head, dense, outputs, rows)
        if self.bound.kind == "min_agreement":
            return agreement.metric, judge(None, agreement, self.bound, confidence, self.config.seed)
        sides: list[Contributions] = [
            contributions(self._task, self.bound.metric, one, rows) for one in (dense, outputs)
        ]
        return agreement.metric, judge(sides[0], sides[1], self.bound, confidence, self.config.seed)

    @property
    def _task(self) -> Any:
        assert self.inputs.task is not None
        return self.inputs.task

    def open(self, candidate: Candidate) -> Predictor:
        """Opens a candidate in its runtime."""
        if self.runtime != "pytorch":
            return open_exported(candidate.folder / EXPORT)
        network = self.open_pytorch(candidate)
        if not candidate.is_dense:
            prepare_for_inference(network)
        return network

    def open_pytorch(self, candidate: Candidate) -> PreTrainedModel:
        """Loads the checkpoint of a candidate."""
        network = move(load_model(str(candidate.folder / CHECKPOINT)), self.model.device)
        network.eval()
        return network

    def check_files(self, candidate: Candidate) -> None:
        """Checks that the files of a candidate are there.

        Raises:
            CheckpointError: If they are not.
        """
        if not (candidate.folder / CHECKPOINT / "config.json").is_file():
            raise CheckpointError(
                f"{candidate.folder} is incomplete; remove it to make this model again with the same command."
            )


def latency_to_dict(latency: Latency) -> dict[str, float]:
    """Returns what reports say of a latency."""
    return {name: getattr(latency, name) for name in LATENCY_FIELDS}
