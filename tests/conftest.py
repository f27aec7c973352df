"""Random small encoders and batches that every test can afford."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
)

from bertsurgeon import progress
from cli_helpers import write_data, write_model

torch.set_num_threads(1)  # tiny matrices: starting threads takes longer than the products
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

LENGTHS = ((12, 9, 5, 12, 3, 7), (8, 8, 6, 4, 2, 8), (11, 1, 10, 6, 11, 5), (14, 13, 9, 3, 6, 14))
"""Real tokens of each sequence, batch by batch."""

PADDING = 1
"""The id RoBERTa counts its positions without; to the others it is a token like any other."""


LONG = ("test_readme.py", "test_real_model.py", "test_export.py", "test_distributed.py")
"""Files that take minutes: where several processes share the tests, these must not begin last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first."""
    items.sort(key=lambda item: item.path.name not in LONG)


def make_config(name: str, **overrides: Any) -> PretrainedConfig:
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    if name == "distilbert":
        sizes = {"dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 96}
    family = {"bert": BertConfig, "roberta": RobertaConfig, "distilbert": DistilBertConfig}[name]
    common = {"vocab_size": 100, "max_position_embeddings": 64, "initializer_range": 0.2}
    return family(**{**common, **sizes, **overrides})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier as a fine-tuned one would be saved (``dense``), and files with texts for it."""
    folder = tmp_path_factory.mktemp("classifier")
    write_model(folder / "dense")
    write_data(folder / "train.csv", 64, seed=1)
    write_data(folder / "validation.csv", 32, seed=2)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The classifier's."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder / "dense")
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Makes a sequence classifier by architecture name; the same call makes the same weights."""

    def make(name: str, **overrides: Any) -> PreTrainedModel:
        torch.manual_seed(7)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(make_config(name, **overrides))
        with torch.no_grad():  # fresh biases are zero and fresh norms do nothing: both would hide mistakes
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model.eval()

    return make


@pytest.fixture
def tiny_batches() -> list[dict[str, Tensor]]:
    """Padded batches with labels."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for lengths in LENGTHS:
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
        ids = torch.randint(5, 100, mask.shape, generator=generator)
        labels = torch.randint(0, 2, (len(lengths),), generator=generator)
        batches.append({"input_ids": torch.where(mask.bool(), ids, PADDING), "attention_mask": mask, "labels": labels})
    return batches


@pytest.fixture(scope="session")
def logits_of() -> Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]:
    """Runs a model on a batch without its labels."""

    def run(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        return logits

    return run


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes that are printed, those that are printed once included."""
    messages: list[str] = []
    progress.show(False)  # clears what was printed before
    monkeypatch.setattr(progress, "_enabled", True)
    monkeypatch.setattr(progress, "note", messages.append)
    return messages
