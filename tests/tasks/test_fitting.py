"""Tokenizers and configurations that do not fit their model end in one sentence, or are adapted, before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    MPNetConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from bertsurgeon.calibration import make_batches
from bertsurgeon.errors import DataError, ModelError, OptionError
from bertsurgeon.tasks import Collator, as_dataset, load_user_task, max_input_length, read_texts
from cli_helpers import write_data

MakeModel = Callable[..., PreTrainedModel]


def rows(**columns: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"attention_mask": [[1] * 3] * 2, **columns})


@pytest.mark.parametrize(("largest", "fits"), [(99, True), (100, False)])
def test_tokens_without_an_embedding(
    tiny_model: MakeModel, tokenizer: PreTrainedTokenizerBase, largest: int, fits: bool
) -> None:
    model, ids = tiny_model("bert"), [[1, 2, 3], [4, largest, 5]]
    batch = {"input_ids": torch.tensor(ids)}
    if fits:
        assert as_dataset(rows(input_ids=ids), tokenizer, model)["input_ids"][1] == ids[1]
        assert make_batches([batch], None, 2, 2, 0, model=model)[0]["input_ids"].max() == largest
        return
    for read in (
        lambda: as_dataset(rows(input_ids=ids), tokenizer, model),
        lambda: make_batches([batch], None, 2, 2, 0, model=model),
        lambda: make_batches(rows(input_ids=ids), tokenizer, 2, 2, 0, model=model),
    ):
        with pytest.raises(DataError, match=r"token id 100.*100 tokens.*resize_token_embeddings"):
            read()


def test_rows_that_are_not_selected_do_not_count(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    data = rows(input_ids=[[1, 2, 3], [4, 100, 5]]).select([0])
    assert len(as_dataset(data, tokenizer, tiny_model("bert"))) == 1


@pytest.mark.parametrize(("types", "kept"), [(1, False), (2, True)])
def test_token_types_beyond_the_model(
    tiny_model: MakeModel, tokenizer: PreTrainedTokenizerBase, types: int, kept: bool
) -> None:
    model = tiny_model("bert", type_vocab_size=types)
    columns = {"input_ids": [[1, 2, 3]] * 2, "token_type_ids": [[0, 0, 0], [0, 1, 1]]}
    assert ("token_type_ids" in as_dataset(rows(**columns), tokenizer, model).column_names) == kept
    batch = {name: torch.tensor(values) for name, values in columns.items()}
    (read,) = make_batches([batch], None, 2, 2, 0, model=model)
    assert ("token_type_ids" in read) == kept
    model(**read)


@pytest.mark.parametrize("entry", ["return_dict", "output_attentions"])
def test_entries_that_change_the_outputs(tiny_model: MakeModel, tokenizer: PreTrainedTokenizerBase, entry: str) -> None:
    model = tiny_model("bert")
    if entry == "return_dict":
        model.config.return_dict = False
    else:
        model.config._output_attentions = True  # as from_pretrained leaves it; the setter refuses it
    with pytest.raises(ModelError, match=f"{entry}=.*set model.config.{entry}"):
        as_dataset(rows(input_ids=[[1, 2, 3]] * 2), tokenizer, model)


def test_a_decoder_without_a_padding_id(tokenizer: PreTrainedTokenizerBase) -> None:
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 30}
    model = AutoModelForSequenceClassification.from_config(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    data = rows(input_ids=[[1, 2, 3]] * 2)
    with pytest.raises(ModelError, match="no pad_token_id"):
        as_dataset(data, tokenizer, model)
    model.config.pad_token_id = 0
    assert as_dataset(data, tokenizer, model) is data


def test_a_tokenizer_without_a_padding_token(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    bare = type(tokenizer).from_pretrained(folder / "dense")
    bare.pad_token = None
    with pytest.raises(OptionError, match="no padding token"):
        Collator(bare)


def test_longest_input_by_architecture() -> None:
    """MPNet's first position is 2, RoBERTa's depends on its padding."""
    for padding in (0, 1):
        sizes: dict[str, Any] = {"max_position_embeddings": 66, "pad_token_id": padding}
        assert max_input_length(MPNetConfig(**sizes)) == 64
        assert max_input_length(RobertaConfig(**sizes)) == 65 - padding


def test_paths_as_strings(tmp_path: Path) -> None:
    files = [str(write_data(tmp_path / f"{name}.csv", 8, seed=1)) for name in ("train", "validation")]
    assert len(load_user_task(*files).train) == len(read_texts(files[0])) == 8
