"""From a dense model and its data to pruned, recovered and compared models, one folder per budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import distributed, progress
from bertsurgeon.benchmark import (
    compare_latency,
    count_flops,
    environment,
    fitting_length,
    folder_size,
    measure_sizes,
)
from bertsurgeon.checkpoint import load_tokenizer, lock_outputs, save_model
from bertsurgeon.checkpoint.saving import as_json
from bertsurgeon.errors import CheckpointError
from bertsurgeon.evaluation import check_head, compare, evaluate
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.methods.base import PruneConfig, PruneReport
from bertsurgeon.methods.registry import get_method
from bertsurgeon.pruning import prune
from bertsurgeon.recovery import EmbeddingRefit, TrainingConfig, recover_with_report
from bertsurgeon.reporting import CARD, model_card, model_source
from bertsurgeon.storage import find_failure, temporary_folder, temporary_root
from bertsurgeon.tasks import Task, align_to_model, as_dataset
from bertsurgeon.vocabulary import trim_vocabulary
from bertsurgeon.workflows.inputs import DataConfig, load_data, load_network, load_texts, raw_texts
from bertsurgeon.workflows.jobs import SelectionTexts, selection_arguments, split_validation, training_settings

if TYPE_CHECKING:
    from datasets import Dataset

REPORT = "report.json"
"""File beside a pruned model with everything that was measured."""

LENGTH = 128
"""Tokens per text for FLOPs and latency, if the models accept that many."""


@dataclass(frozen=True)
class Inputs:
    """A dense model and its data.

    Attributes:
        model: The dense model.
        tokenizer: Its tokenizer.
        task: The task; None if there are only unlabeled texts.
        calibration: Tokenized texts for the calibration.
        training: Tokenized texts for the recovery, labeled if there is a task.
        validation: Tokenized texts for the comparison, labeled if there is a task.
        raw: All of them before tokenization.
        name: Folder or hub id of the model, for the model card.
        selection: Texts that choose the best weights of the recovery; None if its last weights are kept.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task | None
    calibration: Dataset
    training: Dataset
    validation: Dataset
    raw: tuple[Dataset, ...]
    name: str = ""
    selection: SelectionTexts | None = None


@dataclass(frozen=True)
class PrunedModel:
    """A pruned model on disk.

    Attributes:
        folder: Where it was saved.
        result: Content of its ``report.json``.
        report: What pruning did.
    """

    folder: Path
    result: dict[str, Any]
    report: PruneReport


def load_inputs(name: str, data: DataConfig, seed: int, training: TrainingConfig | None = None) -> Inputs:
    """Loads a dense model and its data.

    Args:
        name: Folder or hub id of the model.
        data: Where the data comes from.
        seed: Fixes which texts are held out.
        training: Options of the recovery, for which ``keep_best`` sets texts aside; None for none.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or head and task do not fit.
    """
    set_seed(seed)
    model, tokenizer = load_network(name, data), load_tokenizer(name)

    def encode(texts: Dataset) -> Dataset:
        return as_dataset(texts, tokenizer, model, data.max_length)

    texts = None if data.text_file is None else load_texts(data)
    if texts is not None and data.only_texts:
        held_out, selection = split_validation(texts[1], encode, training)
        encoded = encode(texts[0])
        return Inputs(model, tokenizer, None, encoded, encoded, held_out, texts, name, selection)
    loaded = align_to_model(load_data(data, seed), model)
    check_head(model, loaded.task)

    def encode_labeled(part: Dataset) -> Dataset:
        return as_dataset(part, tokenizer, model, data.max_length, task_type=loaded.task.type)

    validation, selection = split_validation(loaded.validation, encode_labeled, training)
    encoded = encode_labeled(loaded.train)
    calibration = encoded if texts is None else encode(texts[0])
    raw = (loaded.train, loaded.validation, *(texts or ()))
    return Inputs(model, tokenizer, loaded.task, calibration, encoded, validation, raw, name, selection)


def prune_to_budgets(
    inputs: Inputs,
    targets: Sequence[tuple[PruneConfig, Path]],
    training: TrainingConfig | None = None,
    *,
    overwrite: bool = False,
    calibration: Calibration | None = None,
    teacher: PreTrainedModel | None = None,
    trim: bool = False,
    refit: bool | None = None,
) -> list[PrunedModel]:
    """Prunes a model to every budget from one calibration, recovers, compares and saves.

    Args:
        inputs: The dense model and its data.
        targets: Options and folder of each pruned model; all of one method.
        training: Options of the recovery from the dense model; None for none.
        overwrite: Replace folders that this function wrote.
        calibration: An earlier calibration for ``auto``; None for a new one.
        teacher: Model whose distillation gives the gradients of ``obert``; None for the gradients of the task's loss.
        trim: Remove the embeddings of tokens that the data never uses.
        refit: Embedders: whether to refit the embeddings (:func:`bertsurgeon.refit_embeddings`) after pruning and after
            recovery; None for yes, if there are enough texts.

    Raises:
        BertSurgeonError: If a step is impossible, or a folder cannot be written.
    """
    calibrates = calibration is None and get_method(targets[0][0]).calibrate is not None
    refits = EmbeddingRefit.of(inputs.model, inputs.calibration, inputs.tokenizer, targets[0][0].seed, refit)
    shared_steps = int(calibrates) + int(inputs.task is not None) + int(refits is not None)
    steps_per_model = 3 if training is None else 5
    if refits is not None:
        steps_per_model += 1 if training is None else 2
    steps = shared_steps + len(targets) * steps_per_model
    with lock_outputs(*(folder for _, folder in targets)), progress.steps(steps) as begin_step:
        return _prune_to_budgets(
            inputs,
            targets,
            training,
            begin_step,
            overwrite=overwrite,
            calibration=calibration,
            teacher=teacher,
            trim=trim,
            refit=refits,
        )


def _prune_to_budgets(
    inputs: Inputs,
    targets: Sequence[tuple[PruneConfig, Path]],
    training: TrainingConfig | None,
    begin_step: Callable[[], None],
    *,
    overwrite: bool,
    calibration: Calibration | None,
    teacher: PreTrainedModel | None,
    trim: bool,
    refit: EmbeddingRefit | None,
) -> list[PrunedModel]:
    """Does what :func:`prune_to_budgets` describes, and calls ``begin_step`` before each step that shows progress."""
    dense, tokenizer = inputs.model, inputs.tokenizer
    first = targets[0][0]
    dense_bytes = distributed.run_on_main(lambda: _saved_size(dense))  # first of all, as it takes room on the disk
    data: Any = inputs.calibration
    method = get_method(first)
    if method.calibrate is not None:
        if calibration is None:
            begin_step()
        data = calibration or method.calibrate(dense, first, inputs.calibration, tokenizer)
    if inputs.task is not None:
        begin_step()
    dense_metrics = None if inputs.task is None else _score(inputs, dense)
    if refit is not None:
        begin_step()
        if isinstance(data, Calibration):
            refit.leave_out(data.batches)
        refit.run_teacher()
    models: list[PrunedModel] = []
    start = progress.clock()
    for config, folder in targets:
        begin_step()
        pruned, report = prune(dense, config, data, tokenizer, teacher=teacher)
        recovery, before_recovery, refitted = None, None, None
        if refit is not None:
            begin_step()
            refitted = refit.apply(pruned)
        if training is not None:
            begin_step()
            before_recovery = _score(inputs, pruned)
            begin_step()
            recovery = _recover(pruned, inputs, training)
            if refit is not None:
                begin_step()
                refitted = refit.apply(pruned)
        begin_step()
        pruned_metrics = _score(inputs, pruned)
        metrics = {"dense": dense_metrics or dict.fromkeys(pruned_metrics, 100.0), "pruned": pruned_metrics}
        saved_tokenizer, trim_report = tokenizer, None
        if trim:
            pruned, saved_tokenizer, trim_report = trim_vocabulary(pruned, raw_texts(inputs.raw), tokenizer)
        result: dict[str, Any] = {
            "command": "prune",
            "task": None if inputs.task is None else inputs.task.name,
            "pruning": report.to_dict(),
            "recovery": None if recovery is None else recovery["training"],
            "selection": None if recovery is None else recovery.get("selection"),
            "before_recovery": before_recovery,
            "refit": None if refitted is None else asdict(refitted),
            "vocabulary": None if trim_report is None else trim_report.to_dict(),
            "models": metrics,
            "environment": environment(),
        }
        begin_step()
        measure = partial(summarize, {"dense": dense, "pruned": pruned}, metrics=metrics)

        def describe(
            saved: Path, measure: Callable[..., dict[str, Any]] = measure, result: dict[str, Any] = result
        ) -> dict[str, str]:
            result["models"] = measure({"dense": dense_bytes, "pruned": folder_size(saved)})
            return {REPORT: as_json(result), CARD: _card(result, inputs)}

        save_model(pruned, folder, saved_tokenizer, overwrite=overwrite, describe=describe)
        result["models"] = distributed.run_on_main(partial(result.get, "models"))
        models.append(PrunedModel(folder, result, report))
        _note_time_left(progress.clock() - start, len(models), len(targets))
    return models


def _card(result: dict[str, Any], inputs: Inputs) -> str:
    """Returns the model card of a pruned model."""
    base_model, license_name = model_source(inputs.name) if inputs.name else (None, None)
    architecture, name = type(inputs.model).__name__, Path(inputs.name).name
    card = model_card(result, base_model=base_model, license=license_name, architecture=architecture, name=name)
    return str(card)


def _note_time_left(seconds: float, done: int, total: int) -> None:
    """Prints how long the remaining models will take, if any, from the time that the finished ones took."""
    if done < total:
        time_left = progress.duration(seconds / done * (total - done))
        progress.note(f"{done} of {total} models pruned, about {time_left} left.")


def _score(inputs: Inputs, model: PreTrainedModel) -> dict[str, float]:
    """The task's metrics; without a task, the agreement with the dense model on held-out texts; in percent."""
    if inputs.task is not None:
        return evaluate(model, inputs.task, inputs.validation, inputs.tokenizer)
    return compare(inputs.model, model, inputs.validation, inputs.tokenizer)


def _recover(pruned: PreTrainedModel, inputs: Inputs, training: TrainingConfig) -> dict[str, Any]:
    """Recovers in a temporary folder, which cannot be resumed, and returns what belongs in the report."""
    if inputs.task is None or not inputs.task.type.learns_from_labels:
        training = replace(training, distillation_weight=1.0)  # there are no labels, only the teacher's outputs
    report = recover_with_report(
        pruned,
        training,
        inputs.training,
        inputs.tokenizer,
        teacher=inputs.model,
        **selection_arguments(inputs.selection, inputs.task),
    )
    return training_settings(training, report, inputs.selection)


def _saved_size(model: PreTrainedModel) -> int:
    """Returns the bytes of a model's files when it is saved, without other files of the folder that it came from.

    Raises:
        CheckpointError: If there is no room for a copy.
    """
    try:
        with temporary_folder() as copy:
            model.save_pretrained(copy)
            return folder_size(copy)
    except Exception as error:
        root = temporary_root()
        failure = find_failure(error, [root])
        if failure is None:
            raise
        raise CheckpointError(
            f"The size of the dense model cannot be measured by a copy in {root}: {failure.reason}; {failure.remedy}, "
            "or set TMPDIR to another folder."
        ) from error


def summarize(
    models: dict[str, PreTrainedModel], file_bytes: dict[str, int], metrics: dict[str, dict[str, float]], runs: int = 10
) -> dict[str, dict[str, Any]]:
    """Measures size, FLOPs and latency of models, beside their quality.

    Args:
        models: The models by name.
        file_bytes: Bytes of the files of each model.
        metrics: The task's metrics of each model, in percent; may be empty.
        runs: Timed forward passes per model and batch size.

    Returns:
        For each model: its metrics, ``encoder_weights``, ``parameters``, ``file_bytes``, ``flops`` of one text, and the
        median latency in milliseconds of 1 and of 8 texts (``latency_ms_<texts>x<tokens>``).
    """
    length = fitting_length(models.values(), LENGTH)
    latencies = {size: compare_latency(models, batch_size=size, length=length, runs=runs) for size in (1, 8)}
    rows: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        sizes = measure_sizes(model)
        rows[name] = {
            **metrics.get(name, {}),
            "encoder_weights": sizes.encoder_weights,
            "parameters": sizes.parameters,
            "file_bytes": file_bytes[name],
            "flops": count_flops(model, 1, length),
            **{f"latency_ms_{size}x{length}": latency[name].p50_ms for size, latency in latencies.items()},
        }
    return rows
