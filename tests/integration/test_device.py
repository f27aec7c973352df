"""Devices: which one is chosen, that models come back, and that no activations leave it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from auto_cases import Factory
from bertsurgeon import AutoConfig, ObertConfig, PgbConfig, PruneConfig, Sparsity, devices, prune
from bertsurgeon.errors import OptionError
from cli_helpers import run, write_model

TEXTS, TOKENS = 32, 48
"""Of a batch: its hidden states are larger than any weight of the tiny models."""


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each tensor that goes to the host, or would if it were on an accelerator."""
    sizes: list[int] = []

    def record(name: str) -> None:
        original = getattr(Tensor, name)

        def method(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if name != "to" or "cpu" in map(str, (*args, *kwargs.values())):
                sizes.append(tensor.nbytes)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, method)

    for name in ("cpu", "numpy", "tolist", "to"):
        record(name)
    return sizes


@pytest.mark.parametrize(
    "config",
    [
        AutoConfig(Sparsity(0.5)),
        AutoConfig(Sparsity(0.5), structures=("removal", "low_rank", "groups")),
        PgbConfig(Sparsity(0.5)),
        PgbConfig(Sparsity(0.5), importance="obs", compensation="independent"),
        ObertConfig(Sparsity(0.5)),
    ],
    ids=["auto", "groups", "pgb", "obs", "obert"],
)
def test_no_activations_go_to_the_host(tiny_model: Factory, transfers: list[int], config: PruneConfig) -> None:
    model = tiny_model("bert")
    ids = torch.randint(2, 100, (2, TEXTS, TOKENS), generator=torch.Generator().manual_seed(0))
    batches = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]
    largest = max(parameter.nbytes for parameter in model.parameters())
    assert largest < TEXTS * TOKENS * model.config.hidden_size
    prune(model, config, batches)
    assert 0 < max(transfers) <= 2 * largest


def test_the_device_is_the_accelerator_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: accelerator)
    assert devices.choose_device() == accelerator
    devices.set_default_device("cpu")
    try:
        assert devices.choose_device() == torch.device("cpu")
    finally:
        devices.set_default_device(None)
    assert devices.choose_device() == accelerator
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert devices.choose_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["banana", "meta", "cuda:99", "", "hpu", "privateuseone", 1.5])
def test_a_device_that_is_not_there_is_one_sentence(name: Any) -> None:
    with pytest.raises(OptionError, match="name cpu"):
        devices.choose_device(name)


def test_models_run_where_they_are_sent_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []
    monkeypatch.setattr(devices, "move", lambda model, device: moves.append(str(device)))
    monkeypatch.setattr(devices, "choose_device", lambda device=None: torch.device(device or "cuda"))
    model = nn.Linear(1, 1)
    with devices.running_on(None, model, None, "an exported model") as target:
        assert target == torch.device("cuda")
    with pytest.raises(KeyError), devices.running_on("mps", model):
        raise KeyError
    assert moves == ["cuda", "cpu", "mps", "cpu"]


def test_a_model_on_an_accelerator_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda device=None: torch.device(device or "cpu"))
    model = nn.Linear(1, 1, device="meta")  # stands for an accelerator
    with devices.running_on(None, model) as target:
        assert target == torch.device("meta")


def test_pruning_returns_the_model_where_it_was(tiny_model: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    model: PreTrainedModel = tiny_model("bert")
    batch = {"input_ids": torch.ones(4, 6, dtype=torch.long), "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    pruned = prune(model, PgbConfig(Sparsity(0.5)), [batch], device="cpu").model
    assert model.device == pruned.device == torch.device("cpu")


def test_commands_refuse_a_device_that_is_not_there(tmp_path: Any) -> None:
    folder = write_model(tmp_path / "model")
    result = run("bench", str(folder), "--device", "cuda:99")
    assert result.exit_code == 2
    assert "no device 'cuda:99'" in result.stderr
    assert devices.choose_device().type == "cpu" or torch.accelerator.is_available()
