"""Every flipped bit of a stored weight is named, and digests are those of what was saved last."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import AutoConfig, ObertConfig, PgbConfig, Sparsity, load_model, prune, save_model, to_dense
from bertsurgeon.errors import CheckpointError
from bertsurgeon.files import Digests, read_tensor_digests, tensor_digest
from cli_helpers import unseal

Batches = list[dict[str, torch.Tensor]]
Factory = Callable[..., PreTrainedModel]
CONFIGS = {
    "dense": None,
    "pgb": PgbConfig(Sparsity(0.5), importance="magnitude", compensation="none"),
    "auto": AutoConfig(Sparsity(0.5), samples=12),
    "obert": ObertConfig(Sparsity(0.5), samples=12),
}


@pytest.fixture(params=CONFIGS)
def saved(request: pytest.FixtureRequest, tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> Path:
    config = CONFIGS[request.param]
    model = tiny_model("bert")
    save_model(model if config is None else prune(model, config, tiny_batches)[0], tmp_path / "saved")
    return tmp_path / "saved"


def tensors_of(file: Path) -> Iterator[tuple[str, int, int]]:
    """Names of the tensors, and the first and the last byte of each in the file."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield name, 8 + size + start, 8 + size + end


def flip(file: Path, byte: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1 << bit
    file.write_bytes(content)


def test_every_flipped_bit_of_a_weight_is_named(saved: Path) -> None:
    file, draw = saved / "model.safetensors", random.Random(0)
    loaders: list[Callable[[Path], object]] = [load_model]
    if "quantization_config" in json.loads((saved / "config.json").read_text()):
        loaders.append(AutoModelForSequenceClassification.from_pretrained)
    for number, (name, start, end) in enumerate(list(tensors_of(file))[::3]):
        if start == end:
            continue
        byte, bit = draw.randrange(start, end), draw.randrange(8)
        flip(file, byte, bit)
        with pytest.raises(CheckpointError, match=rf"The weights in .* are damaged: {name} is not as it was saved"):
            loaders[number % len(loaders)](saved)
        flip(file, byte, bit)
    load_model(saved)


def test_entries_that_change_the_outputs_are_sealed(saved: Path) -> None:
    file = saved / "config.json"
    original = json.loads(file.read_text())
    loaders: list[Callable[[Path], object]] = [load_model]
    if "quantization_config" in original:
        loaders.append(AutoModelForSequenceClassification.from_pretrained)
    for entry, value in {"hidden_act": "relu", "layer_norm_eps": 1e-3, "num_attention_heads": 2}.items():
        file.write_text(json.dumps({**original, entry: value}))
        for load in loaders:
            with pytest.raises(CheckpointError, match=rf"The entry {entry} of .*config\.json is not as it was saved"):
                load(saved)
    free = {"id2label": {"0": "bad", "1": "good"}, "hidden_dropout_prob": 0.3, "my_note": "mine", "dtype": None}
    file.write_text(json.dumps({**original, **free}))
    for load in loaders:
        load(saved)


def test_channels_of_a_plan_are_sealed(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    """Another channel of the same group has the same shapes: nothing but a digest can tell."""
    model = prune(tiny_model("bert"), PgbConfig(Sparsity(0.5), compensation="none"), tiny_batches)[0]
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    layer = config["quantization_config"]["plan"]["layers"][0]
    matrix = next(entry for entry in layer.values() if entry.get("kind") == "grouped")
    matrix["rows"].reverse()
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (load_model, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(CheckpointError, match="The entry quantization_config"):
            load(tmp_path)


def test_digests_are_those_of_the_last_save(saved: Path, tmp_path: Path) -> None:
    model = load_model(saved)
    variants = {"changed": model, "half": model.half()}
    if "quantization_config" in json.loads((saved / "config.json").read_text()):
        variants["dense"] = to_dense(model)
    with torch.no_grad():
        model.get_parameter("classifier.weight").add_(1)
    for name, variant in variants.items():
        for save in (save_model, lambda model, folder: model.save_pretrained(folder)):
            for _ in range(2):
                folder = tmp_path / f"{name}-{save.__name__}"
                save(variant, folder, **({"overwrite": True} if save is save_model else {}))
            again = load_model(folder)
            assert torch.equal(again.get_parameter("classifier.weight"), variant.get_parameter("classifier.weight"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_that_are_cast_when_they_are_loaded(saved: Path, dtype: torch.dtype) -> None:
    assert AutoModelForSequenceClassification.from_pretrained(saved, dtype=dtype).dtype == dtype


def test_models_without_digests_are_read(saved: Path) -> None:
    expected = load_model(saved).state_dict()
    again = load_model(unseal(saved)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_sealed_files_are_stock_files(saved: Path) -> None:
    file = saved / "model.safetensors"
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    with safe_open(file, framework="pt") as tensors:
        assert tensors.metadata()["format"] == "pt"
    assert all(tensor.isfinite().all() for tensor in load_file(file).values() if tensor.is_floating_point())


def test_a_digest_is_made_of_name_type_shape_and_bytes(tmp_path: Path) -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    others = [
        tensor_digest("b", tensor),
        tensor_digest("a", tensor.view(2, 3)),
        tensor_digest("a", tensor.view(torch.int32)),
        tensor_digest("a", tensor + 1),
    ]
    assert len({tensor_digest("a", tensor), *others}) == 5
    assert tensor_digest("a", tensor.view(2, 3).T) == tensor_digest("a", tensor.view(2, 3).T.contiguous())
    kinds = {"bf16": torch.bfloat16, "bool": torch.bool, "int8": torch.int8, "f64": torch.float64}
    stored = {name: torch.ones(2, 2).to(kind) for name, kind in kinds.items()} | {"empty": torch.zeros(0, 4)}
    save_file(stored, tmp_path / "a.safetensors")
    digests, _ = read_tensor_digests([tmp_path / "a.safetensors"])
    assert digests == {name: tensor_digest(name, tensor) for name, tensor in stored.items()}
    assert Digests(digests, {}).tensor_fault({**digests, "more": ""}) == "more was not saved with it"
    del digests["empty"]
    assert Digests({**digests, "lost": ""}, {}).tensor_fault(digests) == "lost is missing"
