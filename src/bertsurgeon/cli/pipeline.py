"""What ``prune`` and ``demo`` do once the options are read: load, prune, recover, compare, save."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import distributed
from bertsurgeon.benchmark import environment
from bertsurgeon.checkpoint import load_tokenizer, save_model, write_report
from bertsurgeon.cli.sources import DataOptions, load_data, load_network, load_texts, raw_texts
from bertsurgeon.cli.summary import summarise
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import CheckpointError, first_line
from bertsurgeon.evaluation import check_head, compare, evaluate
from bertsurgeon.methods.auto.measurements import Calibration, calibrate
from bertsurgeon.methods.report import PruneReport
from bertsurgeon.pruning import prune
from bertsurgeon.recovery import TrainingConfig, recover
from bertsurgeon.tasks import Task, align_to_model, task_type_for_texts, tokenize
from bertsurgeon.vocabulary import trim_vocabulary


@dataclass(frozen=True)
class Inputs:
    """The dense model and its data.

    Attributes:
        model: The dense model.
        tokenizer: Its tokenizer.
        task: None where there are only texts.
        calibration: Tokenized texts to calibrate with.
        training: Tokenized texts to recover with, labelled if there is a task.
        validation: Tokenized texts to compare with, likewise.
        raw: All of them as they were read.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task | None
    calibration: Dataset
    training: Dataset
    validation: Dataset
    raw: tuple[Dataset, ...]


def load_inputs(name: str, options: DataOptions, seed: int) -> Inputs:
    """Loads a dense model and what ``options`` name.

    Raises:
        BertSurgeonError: If any of it is missing or broken, or head and task do not fit.
    """
    set_seed(seed)
    model, tokenizer = load_network(name, options), load_tokenizer(name)

    def encode(texts: Dataset) -> Dataset:
        return tokenize(texts, tokenizer, options.max_length, task_type_for_texts(model))

    texts = None if options.text_file is None else load_texts(options, seed)
    if texts is not None and options.only_texts:
        training, held_out = (encode(part) for part in texts)
        return Inputs(model, tokenizer, None, training, training, held_out, texts)
    data = align_to_model(load_data(options, seed), model)
    check_head(model, data.task)
    training, validation = (
        tokenize(part, tokenizer, options.max_length, data.task.type) for part in (data.train, data.validation)
    )
    calibration = training if texts is None else encode(texts[0])
    raw = (data.train, data.validation, *(texts or ()))
    return Inputs(model, tokenizer, data.task, calibration, training, validation, raw)


def run_prune(
    inputs: Inputs,
    outputs: Sequence[tuple[PruneConfig, Path]],
    training: TrainingConfig | None,
    overwrite: bool,
    calibration: Calibration | None = None,
    teacher: PreTrainedModel | None = None,
    trim: bool = False,
) -> list[tuple[dict[str, Any], PruneReport]]:
    """Prunes to every budget from one calibration; returns what each ``report.json`` holds, and the reports.

    Args:
        inputs: The dense model and its data.
        outputs: Options and folder of each pruned model.
        training: How to recover, or None.
        overwrite: Replace existing folders.
        calibration: Made before; None to make one.
        teacher: Whose distillation gradients ``obert`` takes; None for those of the task's loss.
        trim: Drop the embeddings of tokens that the data never uses.
    """
    dense, tokenizer = inputs.model, inputs.tokenizer
    first = outputs[0][0]
    data: Dataset | Calibration = inputs.calibration
    if first.method == "auto":
        data = calibration or calibrate(dense, inputs.calibration, first, tokenizer)
    reference = None if inputs.task is None else _score(inputs, dense)
    results = []
    for config, folder in outputs:
        pruned, report = prune(dense, data, config, tokenizer, teacher)
        if training is not None:
            _recover(pruned, inputs, training)
        found = _score(inputs, pruned)
        metrics = {"dense": reference or dict.fromkeys(found, 100.0), "pruned": found}
        own_tokenizer, trimmed = tokenizer, None
        if trim:
            pruned, own_tokenizer, trimmed = trim_vocabulary(pruned, raw_texts(inputs.raw), tokenizer)
        result: dict[str, Any] = {
            "task": None if inputs.task is None else inputs.task.name,
            "pruning": report.to_dict(),
            "recovery": None if training is None else asdict(training),
            "vocabulary": None if trimmed is None else trimmed.to_dict(),
            "models": metrics,
            "environment": environment(),
        }
        save_model(pruned, folder, own_tokenizer, {"report.json": result}, overwrite=overwrite)
        result["models"] = distributed.run_on_main(partial(_compare, dense, pruned, folder, metrics))
        distributed.run_on_main(partial(write_report, folder / "report.json", result))
        results.append((result, report))
    return results


def _score(inputs: Inputs, model: PreTrainedModel) -> dict[str, float]:
    """The task's metrics; without a task, how far a model says what the dense one says on held-out texts."""
    if inputs.task is not None:
        return evaluate(model, inputs.task, inputs.validation, inputs.tokenizer)
    return compare(inputs.model, model, inputs.validation, inputs.tokenizer)


def _recover(pruned: PreTrainedModel, inputs: Inputs, training: TrainingConfig) -> None:
    """Re-finetunes in a temporary folder (``bertsurgeon recover`` is the one that can be resumed)."""
    if inputs.task is None or not inputs.task.type.learns_from_labels:
        training = replace(training, distillation_weight=1.0)  # without labels only the teacher speaks
    recover(pruned, inputs.training, inputs.tokenizer, training, inputs.model)


def _compare(
    dense: PreTrainedModel, pruned: PreTrainedModel, folder: Path, metrics: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """Both models side by side; the dense one's file size is that of a fresh copy, without what else its folder has.

    Raises:
        CheckpointError: If there is no room for that copy.
    """
    with tempfile.TemporaryDirectory() as copy:
        try:
            dense.save_pretrained(copy)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} is written, but there is no room in {tempfile.gettempdir()} to compare its size with the "
                f"dense model's ({first_line(error)}); set TMPDIR to another folder."
            ) from error
        return summarise({"dense": dense, "pruned": pruned}, {"dense": Path(copy), "pruned": folder}, metrics)
