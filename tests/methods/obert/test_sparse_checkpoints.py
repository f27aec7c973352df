"""Checkpoints of sparse models: packing, round trips and damage."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from bertsurgeon import (
    get_plan,
    is_sparse,
    load_model,
    prune,
    save_model,
    to_dense,
)
from bertsurgeon.checkpoint import SPARSE_FORMAT_VERSION, attach_sparse
from bertsurgeon.checkpoint.packed import pack, unpack
from bertsurgeon.errors import BertSurgeonError, CheckpointError
from bertsurgeon.layers.masks import encoder_weights
from bertsurgeon.methods.obert.patterns import Pattern
from obert_cases import assert_same, config

NAMES = ["bert", "distilbert", "roberta"]

Batches = list[dict[str, Tensor]]

Factory = Callable[..., PreTrainedModel]

LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]


@pytest.mark.parametrize("block", [1, 4])
def test_packing(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 20, generator=generator)
    weight.reshape(-1, block)[torch.rand(120 // block, generator=generator) < 0.7] = 0
    for matrix in (weight, weight.bfloat16(), torch.zeros(6, 20), torch.ones(6, 20)):
        values, bitmap = pack(matrix, block)
        assert len(values) == block * int((matrix.reshape(-1, block) != 0).any(1).sum())
        assert len(bitmap) == -(-120 // block // 8)
        assert torch.equal(unpack(values, bitmap, (6, 20), "it"), matrix)


@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
@pytest.mark.parametrize("name", NAMES)
def test_round_trip(
    name: str, pattern: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    pruned, report = prune(tiny_model(name), config(pattern=pattern, sparsity=0.9), tiny_batches)
    save_model(pruned, tmp_path / "first")
    for load in (load_model, AutoModelForSequenceClassification.from_pretrained):
        again = load(tmp_path / "first")
        assert is_sparse(again)
        assert get_plan(again) is None
        assert not again.training
        assert [type(module) for module in again.modules()] == [type(module) for module in pruned.modules()]
        assert_same(again, pruned)
        assert torch.equal(logits_of(again, tiny_batches[0]), logits_of(pruned, tiny_batches[0]))
        assert all(parameter.requires_grad for parameter in again.parameters())
        again.save_pretrained(tmp_path / load.__name__)
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / load.__name__ / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
    width = Pattern.parse(pattern).width
    state = load_file(tmp_path / "first" / "model.safetensors")
    encoder = sum(
        v.nbytes for k, v in state.items() if k.endswith(".bitmap") or (k.endswith(".weight") and v.dim() == 1)
    )
    norms = sum(v.nbytes for k, v in state.items() if "norm" in k.lower() and k.endswith(".weight"))
    assert encoder - norms == 4 * report.kept + report.plan.size // width // 8
    stock = to_dense(pruned)
    assert not is_sparse(stock)
    assert_same(stock, pruned)
    stock.save_pretrained(tmp_path / "stock")
    assert "quantization_config" not in json.loads((tmp_path / "stock" / "config.json").read_text())
    assert (tmp_path / "stock" / "model.safetensors").stat().st_size > 2 * (
        tmp_path / "first" / "model.safetensors"
    ).stat().st_size
    assert is_sparse(pruned)


def test_half_precision(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    pruned, _ = prune(tiny_model("bert"), config(), tiny_batches)
    half = pruned.to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    for load in (load_model, AutoModelForSequenceClassification.from_pretrained):
        assert_same(load(tmp_path), half)


def test_the_encoder_alone(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    pruned, _ = prune(tiny_model("roberta"), config(), tiny_batches)
    pruned.save_pretrained(tmp_path / "whole")
    encoder = AutoModel.from_pretrained(tmp_path / "whole", add_pooling_layer=False)
    assert_same(encoder, pruned.roberta)
    encoder.save_pretrained(tmp_path / "encoder")
    assert_same(AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False), encoder)


def test_copies_are_independent(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    pruned, _ = prune(tiny_model("bert"), config(), tiny_batches)
    twin = copy.deepcopy(pruned)
    save_model(pruned, tmp_path / "first")
    twin.load_state_dict(load_file(tmp_path / "first" / "model.safetensors"))
    assert_same(twin, pruned)
    with torch.no_grad():
        twin.bert.encoder.layer[0].output.dense.weight.fill_(1)
    twin.save_pretrained(tmp_path / "twin")  # whatever became of the zeros, nothing is lost
    assert_same(load_model(tmp_path / "twin"), twin)
    assert_same(load_model(tmp_path / "first"), pruned)


@pytest.fixture
def saved(tiny_model: Factory, tmp_path: Path) -> Path:
    model = tiny_model("bert")
    with torch.no_grad():
        for weight in encoder_weights(model).values():
            weight[:, 8:16] = 0
    attach_sparse(model, 4)
    save_model(model, tmp_path / "saved")
    return tmp_path / "saved"


LOADERS = [load_model, AutoModelForSequenceClassification.from_pretrained]

VALUE = "bert.encoder.layer.1.attention.self.value"


@pytest.mark.parametrize("damage", ["bit more", "bit less", "bit beyond", "values", "bitmap", "no bitmap", "dense"])
def test_corrupt_tensors(damage: str, saved: Path) -> None:
    path = saved / "model.safetensors"
    state = load_file(path)
    bitmap, values = state[f"{VALUE}.bitmap"], state[f"{VALUE}.weight"]
    if damage == "bit more":
        bitmap[0] = 255
    elif damage == "bit less":
        bitmap[0] = 0
    elif damage == "bit beyond":
        state[f"{VALUE}.bitmap"] = torch.cat([bitmap, torch.zeros(1, dtype=torch.uint8)])
    elif damage == "values":
        state[f"{VALUE}.weight"] = values[:-4].clone()
    elif damage == "bitmap":
        state[f"{VALUE}.bitmap"] = bitmap[:-1].clone()
    elif damage == "no bitmap":
        del state[f"{VALUE}.bitmap"]
    else:
        state[f"{VALUE}.weight"] = torch.zeros(48, 48)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=VALUE) as error:
        load_model(saved)
    assert "\n" not in str(error.value)
    with pytest.raises((CheckpointError, RuntimeError)):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_bits_beyond_the_matrix_are_refused() -> None:
    values, bitmap = pack(torch.ones(1, 3), 1)
    bitmap[0] = 0b00110001
    with pytest.raises(CheckpointError, match="do not exist"):
        unpack(values, bitmap, (1, 3), "it")


@pytest.mark.parametrize(
    "entry",
    [
        {"block": 0},
        {"block": "4"},
        {"block": 5},
        {"values": None},
        {"values": [1]},
        {"values": [{"query": 1}]},
        {"format_version": SPARSE_FORMAT_VERSION + 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("load", LOADERS)
def test_damaged_entries(load: Callable[[Path], PreTrainedModel], entry: dict[str, Any], saved: Path) -> None:
    path = saved / "config.json"
    content = json.loads(path.read_text())
    content["quantization_config"].update(entry)
    path.write_text(json.dumps(content))
    with pytest.raises(BertSurgeonError) as error:
        load(saved)
    assert "\n" not in str(error.value)


def test_truncated_files(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(saved)


def test_without_the_library_nothing_loads(saved: Path) -> None:
    script = (
        "import sys; from transformers import AutoModelForSequenceClassification as A; A.from_pretrained(sys.argv[1])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode != 0
    assert "mismatch" in done.stderr
