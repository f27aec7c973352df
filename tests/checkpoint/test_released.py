"""Checkpoints that 0.1.0 wrote load with the same logits; ``data/checkpoints-0.1.0/make.py`` made them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import get_plan, is_sparse, load_model
from bertsurgeon.checkpoint import get_ranges

RELEASED = Path(__file__).parents[1] / "data" / "checkpoints-0.1.0"
NAMES = sorted(path.name for path in RELEASED.iterdir() if path.is_dir())
LOADERS = {"from_pretrained": AutoModelForSequenceClassification.from_pretrained, "load_model": load_model}


def test_every_kind_of_checkpoint_is_there() -> None:
    entries = [json.loads((RELEASED / name / "config.json").read_text())["quantization_config"] for name in NAMES]
    kinds = {(entry["quant_method"], entry["format_version"]) for entry in entries}
    assert kinds == {(method, version) for method in ("bertsurgeon", "bertsurgeon-sparse") for version in (1, 2)}
    structures = {
        matrix["kind"]
        for entry in entries
        for layer in entry.get("plan", {}).get("layers", ())
        for role, matrix in layer.items()
        if role != "units"
    }
    assert structures == {"dense", "dropped", "grouped", "low_rank"}
    assert any("units" in layer for entry in entries for layer in entry.get("plan", {}).get("layers", ()))


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_equal(name: str, load: Callable[[Path], PreTrainedModel]) -> None:
    """In double precision the last bit of every weight shows, and the rounding of another processor does not."""
    expected: Tensor = load_file(RELEASED / "logits.safetensors")[name]
    model = load(RELEASED / name)
    assert model.dtype == (torch.bfloat16 if name == "bfloat16" else torch.float32)
    with torch.no_grad():
        logits = model.double()(**load_file(RELEASED / "inputs.safetensors")).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    assert expected.std() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_files_are_written_as_they_were(name: str, tmp_path: Path) -> None:
    model = load_model(RELEASED / name)
    assert (get_plan(model) is not None) or is_sparse(model)
    assert (get_ranges(model) is not None) == (name == "obert-int8")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (RELEASED / name / "model.safetensors").read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (RELEASED / name, tmp_path))
    for entry in ("quantization_config", "int8_input_ranges"):
        assert after.get(entry) == before.get(entry)
