"""Whether a model can read tokenized data: its embeddings, and the entries of its configuration."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bertsurgeon import progress
from bertsurgeon.errors import DataError, ModelError

if TYPE_CHECKING:
    from datasets import Dataset

TOKEN_TYPES = "token_type_ids"

ROWS = 10_000
"""Rows that are read at a time."""


def fit_dataset(dataset: Dataset, model: Any) -> Dataset:
    """Checks that a model can read a tokenized dataset, and removes token types that it has no embeddings for.

    Args:
        dataset: Tokenized rows.
        model: Model of transformers, or an exported one.

    Returns:
        The dataset, without ``token_type_ids`` if it has more types than the model.

    Raises:
        DataError: If a token has no embedding.
        ModelError: If the model's configuration makes its outputs unusable.
    """
    check_configuration(model)
    tokens = embedding_count(model)
    if tokens is not None and "input_ids" in dataset.column_names:
        _check_tokens(_largest(dataset, "input_ids"), tokens)
    types = getattr(model.config, "type_vocab_size", None)
    if types and TOKEN_TYPES in dataset.column_names and _largest(dataset, TOKEN_TYPES) >= types:
        _note_token_types(types)
        return dataset.remove_columns(TOKEN_TYPES)
    return dataset


def fit_batch(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Does what :func:`fit_dataset` does, for a padded batch.

    Args:
        batch: Model inputs.
        model: Model of transformers, or an exported one.

    Raises:
        DataError: If a token has no embedding.
        ModelError: If the model's configuration makes its outputs unusable.
    """
    check_configuration(model)
    tokens = embedding_count(model)
    if tokens is not None and "input_ids" in batch and batch["input_ids"].numel():
        _check_tokens(int(batch["input_ids"].max()), tokens)
    types = getattr(model.config, "type_vocab_size", None)
    if types and TOKEN_TYPES in batch and batch[TOKEN_TYPES].numel() and int(batch[TOKEN_TYPES].max()) >= types:
        _note_token_types(types)
        return {name: value for name, value in batch.items() if name != TOKEN_TYPES}
    return batch


def check_configuration(model: Any) -> None:
    """Checks that a model returns outputs by name, can be saved, and finds the last token of a padded text.

    Raises:
        ModelError: Naming the entry of the configuration to set.
    """
    config = model.config
    if getattr(config, "return_dict", True) is False:
        raise ModelError(
            "The model's configuration has return_dict=False, so its outputs have no names; set "
            "model.config.return_dict = True."
        )
    attention = getattr(config, "_attn_implementation", None)
    if getattr(config, "output_attentions", False) and attention not in ("eager", None):
        raise ModelError(
            f"The model's configuration has output_attentions=True, which {attention} attention does not return and "
            "transformers refuses to save; set model.config.output_attentions = False."
        )
    if isinstance(model, nn.Module) and getattr(config, "pad_token_id", 0) is None:
        caches = "past_key_values" in inspect.signature(type(model).forward).parameters
        if caches and type(model).__name__.endswith("ForSequenceClassification") and not _is_encoder(config):
            raise ModelError(
                "The model's configuration has no pad_token_id, by which it finds the last token of a text; set "
                "model.config.pad_token_id = tokenizer.pad_token_id."
            )


def embedding_count(model: Any) -> int | None:
    """Returns the number of token embeddings of a model; None if it reads no tokens."""
    if not isinstance(model, nn.Module):
        return getattr(model.config, "vocab_size", None)
    whole: Any = model
    embedding = whole.get_input_embeddings()
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def _is_encoder(config: Any) -> bool:
    return getattr(config, "is_decoder", None) is False


def _largest(dataset: Dataset, column: str) -> int:
    """Returns the largest number in a column of lists; -1 if there is none."""
    import pyarrow.compute

    largest = -1
    for table in dataset.select_columns(column).with_format("arrow").iter(ROWS):
        values = pyarrow.compute.list_flatten(table[column])
        largest = max(largest, pyarrow.compute.max(values).as_py() or 0)
    return largest


def _check_tokens(largest: int, count: int) -> None:
    if largest >= count:
        raise DataError(
            f"The data holds the token id {largest}, and the model has embeddings for {count:,} tokens: its tokenizer "
            "has more of them; load the tokenizer that belongs to the model, or fine-tune the model after "
            "model.resize_token_embeddings(len(tokenizer))."
        )


def _note_token_types(types: int) -> None:
    progress.note_once(
        f"The data has more token types than the model (type_vocab_size {types}); they are left out, so both texts of "
        "a pair get the same."
    )
