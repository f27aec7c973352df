"""From texts, raw datasets or batches to tokenized datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase

from bertsurgeon import progress
from bertsurgeon.errors import DataError, OptionError, first_line
from bertsurgeon.tasks.fitting import fit_dataset
from bertsurgeon.tasks.types import CLASSIFICATION, TaskType, task_type_for_texts
from bertsurgeon.tasks.types.base import TRUNCATED, TruncationLimit

if TYPE_CHECKING:
    from datasets import Dataset

Data: TypeAlias = "Iterable[str] | Dataset | Iterable[Mapping[str, Any]]"
"""What functions accept as data: texts, a tokenized or raw ``datasets.Dataset``, or a loader of padded batches."""

FORMS = "texts (a list, an iterator, an array or a Series of strings), a datasets.Dataset, or batches of tensors"

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Model types whose first token has the position after the padding's id."""

FIRST_POSITIONS = {"mpnet": 2}
"""Position of the first token, by model type; 0 for types that are listed nowhere, whatever their padding's id."""


def tokenize(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    task_type: TaskType = CLASSIFICATION,
) -> Dataset:
    """Tokenizes a raw dataset; rows are truncated (passages of question answering: split into windows), not padded.

    A warning (:func:`bertsurgeon.progress.warn`) reports how many texts were cut, if any.

    Args:
        dataset: Rows with the columns of the task type, or with ``text`` (and ``text_pair``) alone.
        tokenizer: Tokenizer of the model.
        max_length: Maximum number of tokens per row; None for the task type's default. It is lowered to what the
            tokenizer, and the model saved beside it, accept.
        task_type: Type of the task: :attr:`Task.type` or, for unlabeled texts, :func:`task_type_for_texts`.

    Returns:
        Columns with the model's inputs and, if there are any, its labels.

    Raises:
        DataError: If the dataset is empty or lacks a column.
        OptionError: If ``max_length`` leaves no room for text.
    """
    encoded, truncation = tokenize_part(dataset, tokenizer, max_length, task_type)
    truncation.report()
    return encoded


@dataclass(frozen=True)
class Truncation:
    """How many rows of a dataset were cut.

    Attributes:
        cut: Rows that were cut.
        rows: All rows.
        limit: What is cut where.
        accepted: Maximum number of tokens that the model accepts.
    """

    cut: int
    rows: int
    limit: TruncationLimit
    accepted: int

    def __add__(self, other: Truncation) -> Truncation:
        """Returns the truncation of two parts of a dataset."""
        return replace(self, cut=self.cut + other.cut, rows=self.rows + other.rows)

    def report(self) -> None:
        """Warns of rows that were cut, if there are any."""
        if not self.cut:
            return
        if self.limit.option != "max_length":
            remedy = f"; {self.limit.option} raises the limit"
        elif self.limit.tokens < self.accepted:
            remedy = "; --max-length (max_length in Python) raises the limit"
        else:
            remedy = ", the most that the model accepts"
        progress.warn(
            f"{self.cut:,} of {self.rows:,} {self.limit.unit} were longer than {self.limit.tokens} tokens and were cut "
            f"there{remedy}."
        )


def tokenize_part(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int | None, task_type: TaskType
) -> tuple[Dataset, Truncation]:
    """Does what :func:`tokenize` does for a part of a dataset, without a warning.

    Args:
        dataset: The part.
        tokenizer: Tokenizer of the model.
        max_length: Maximum number of tokens per row; None for the task type's default.
        task_type: Type of the task.

    Returns:
        The tokenized rows, and what was cut.

    Raises:
        DataError: If the dataset is empty or lacks a column.
        OptionError: If ``max_length`` leaves no room for text.
    """
    if len(dataset) == 0:
        raise DataError("The dataset is empty; at least one text is needed.")
    text_columns = _text_columns(task_type)
    if not set(text_columns) & set(dataset.column_names):
        raise DataError(
            f"The dataset has no column {' or '.join(map(repr, text_columns))}; it has "
            f"{', '.join(dataset.column_names)}."
        )
    length = task_type.max_length if max_length is None else max_length
    if length < 4:
        raise OptionError(f"A maximum length of {length} tokens leaves no room for text; use at least 4.")
    accepted = accepted_length(tokenizer)
    limit = min(length, accepted)
    with _bars_of_datasets():
        encoded: Dataset = dataset.map(
            lambda rows, indices: task_type.encode(dict(rows), indices, tokenizer, limit),
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
        )
    cut = task_type.truncation_limit(dataset.column_names, limit)
    truncation = Truncation(sum(encoded[TRUNCATED]), len(dataset), cut, accepted)
    return encoded.remove_columns(TRUNCATED), truncation


@contextmanager
def _bars_of_datasets() -> Iterator[None]:
    """Hides the progress bars of the library datasets while those of this library are off."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not progress.is_shown() and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def as_dataset(
    data: Data,
    tokenizer: PreTrainedTokenizerBase | None,
    model: Any = None,
    max_length: int | None = None,
    *,
    task_type: TaskType | None = None,
) -> Dataset:
    """Returns any data as a tokenized dataset.

    Functions that use padded batches as they are check :func:`is_batches` first.

    Args:
        data: Texts, a tokenized dataset (returned as it is), a raw dataset or list of rows with the columns of the
            task type or with ``text`` (and ``text_pair``), or padded batches of tensors, whose padding is removed.
        tokenizer: Tokenizer of the model; needed for texts and raw datasets.
        model: Model that will read the data, and whose head decides how texts are tokenized if no ``task_type`` is
            passed; None for classification. Token types that it has no embeddings for are removed.
        max_length: Maximum number of tokens per row, see :func:`tokenize`; no effect on tokenized data.
        task_type: Type of the task; None for that of the model.

    Raises:
        DataError: If the data is empty or of another type, or holds a token that the model has no embedding for.
        OptionError: If the data must be tokenized and no tokenizer is passed.
        ModelError: If the model's configuration makes its outputs unusable.
    """
    dataset = _as_dataset(data, tokenizer, model, max_length, task_type)
    return dataset if model is None else fit_dataset(dataset, model)


def _as_dataset(
    data: Data,
    tokenizer: PreTrainedTokenizerBase | None,
    model: Any,
    max_length: int | None,
    task_type: TaskType | None,
) -> Dataset:
    from datasets import Dataset

    data = collect_data(data)
    if isinstance(data, Dataset):
        if "input_ids" in data.column_names or "pixel_values" in data.column_names:
            return data
        raw = data
    elif is_batches(data):
        rows = [row for batch in data for row in _unpad(batch)]
        if not rows:
            raise DataError("The data is empty; at least one text is needed.")
        return Dataset.from_list(rows)
    else:
        raw = Dataset.from_dict({"text": data})
    if len(raw) == 0:
        raise DataError("The data is empty; at least one text is needed.")
    if tokenizer is None:
        raise OptionError("The data is not tokenized; pass the tokenizer of the model together with it.")
    if task_type is None:
        task_type = CLASSIFICATION if model is None else task_type_for_texts(model)
    return tokenize(raw, tokenizer, max_length, task_type)


def is_batches(data: Data) -> bool:
    """Returns whether data is a loader of padded batches: neither a dataset nor texts.

    Args:
        data: Texts, a dataset, or batches. An iterator counts as batches, because looking at its first item would
            consume it; :func:`collect_data` replaces iterators of texts by lists.
    """
    from datasets import Dataset, IterableDataset

    if not isinstance(data, Iterable) or isinstance(data, (Dataset, IterableDataset, Mapping, Set)):
        return False
    if _is_array(data) or _is_table(data):
        return False
    return not (isinstance(data, Sequence) and (len(data) == 0 or isinstance(data[0], str) or _is_row(data[0])))


def collect_data(data: Any) -> Any:
    """Returns data in one of three forms: a dataset, a list of texts, or an iterable of batches.

    Strings of iterators, arrays, and Series are read into a list, and rows such as ``{"text": …}`` into a raw dataset.

    Args:
        data: Data in any form.

    Raises:
        DataError: If the data has no supported form.
    """
    from datasets import Dataset, IterableDataset

    if isinstance(data, Dataset):
        return data
    if isinstance(data, IterableDataset):
        raise DataError("The data is an IterableDataset; pass a Dataset or a list, such as list(data.take(1024)).")
    if isinstance(data, str):
        raise DataError("The data is a single string; pass a list of texts.")
    if isinstance(data, Mapping):
        raise DataError(
            "The data is a mapping; pass a dataset (one split of it), a list of texts or a list of batches."
        )
    if _is_table(data):
        raise DataError("The data is a table; pass one of its columns, or datasets.Dataset.from_pandas of it.")
    if not isinstance(data, Iterable) or isinstance(data, Tensor | bytes):
        raise DataError(f"The data must be {FORMS}, not {data!r:.60}.")
    if _is_array(data):
        values: Any = data.tolist()  # type: ignore[attr-defined]  # checked by _is_array
        if not isinstance(values, list):
            raise DataError(f"The data must be {FORMS}, not {values!r:.60}.")
        data = values
    elif isinstance(data, Set):
        data = list(data)
    elif isinstance(data, Iterator):
        start = list(islice(data, 1))
        data = chain(start, data)
        if not start or isinstance(start[0], str) or _is_row(start[0]):
            data = list(data)
    if is_batches(data):
        return data
    values = list(data)
    if values and isinstance(values[0], Mapping):
        return _rows_to_dataset(values)
    for number, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise DataError(f"The data must be {FORMS}; item {number} is {value!r:.60} and no string.")
    return values


def _is_array(data: Any) -> bool:
    """Returns whether data is an array of NumPy, a Series, or similar."""
    return not isinstance(data, Tensor) and callable(getattr(data, "tolist", None))


def _is_table(data: Any) -> bool:
    """Returns whether data is a DataFrame, whose items are the names of its columns."""
    return hasattr(data, "columns") and hasattr(data, "iloc")


def _is_row(item: Any) -> bool:
    """Returns whether an item is a row of raw data, which holds strings, and no batch."""
    return isinstance(item, Mapping) and any(isinstance(value, str) for value in item.values())


def _rows_to_dataset(rows: Sequence[Any]) -> Dataset:
    """Makes a raw dataset of rows such as ``{"text": …}``."""
    from datasets import Dataset

    names = {name for name, value in rows[0].items() if isinstance(value, str)}
    for number, row in enumerate(rows, 1):
        missing = not isinstance(row, Mapping) or any(not isinstance(row.get(name), str) for name in names)
        if missing:
            raise DataError(
                f"All rows of the data must have the same columns with strings ({', '.join(sorted(names))}) as the "
                f"first one; row {number} is {row!r:.60}."
            )
    try:
        return Dataset.from_list([dict(row) for row in rows])
    except (TypeError, ValueError) as error:  # pyarrow's errors derive from these
        raise DataError(f"The rows of the data do not make a dataset: {first_line(error)}.") from error


def _unpad(batch: Any) -> Iterator[dict[str, Any]]:
    """Yields the rows of a padded batch; per-token columns end where the attention mask does."""
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor):
        raise DataError(
            "The data must be texts, a datasets.Dataset, or batches with a tensor 'input_ids'; it holds "
            f"{', '.join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__}."
        )
    tensors = {name: value.cpu() for name, value in batch.items() if isinstance(value, Tensor)}
    shape = tensors["input_ids"].shape
    mask = tensors.get("attention_mask")
    for row in range(len(tensors["input_ids"])):
        real = range(shape[1]) if mask is None else mask[row].nonzero().flatten().tolist()
        tokens = slice(real[0], real[-1] + 1) if len(real) else slice(0, 0)
        values = {
            name: (value[row, tokens] if value.shape[:2] == shape else value[row]).tolist()
            for name, value in tensors.items()
        }
        yield values if mask is not None else {**values, "attention_mask": [1] * shape[1]}


def _text_columns(task_type: TaskType) -> list[str]:
    return list(dict.fromkeys((task_type.columns["text"], "text")))


def accepted_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the maximum number of tokens that a tokenizer and the model saved beside it accept.

    Many tokenizers have no limit of their own.

    Args:
        tokenizer: The tokenizer.
    """
    length = int(tokenizer.model_max_length)
    try:
        config = AutoConfig.from_pretrained(tokenizer.name_or_path, local_files_only=True, trust_remote_code=False)
    except Exception:  # there is no model beside it, or one whose loading reports the error
        return length
    longest = max_input_length(config)
    return length if longest is None else min(length, longest)


def max_input_length(config: Any) -> int | None:
    """Returns the maximum number of tokens that a model accepts; None if its positions are relative or rotary.

    Args:
        config: Configuration of the model.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is None or hasattr(config, "rope_parameters") or not getattr(config, "position_biased_input", True):
        return None
    if config.model_type in POSITIONS_AFTER_PADDING:
        return positions - (config.pad_token_id or 0) - 1
    return positions - FIRST_POSITIONS.get(config.model_type, 0)
