"""Checkpoints that 0.1.0 wrote load with the same logits, and ``--overwrite`` knows its folders, and only these.

``data/checkpoints-0.1.0/make.py`` made the checkpoints.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import get_plan, is_sparse, load_model
from bertsurgeon.checkpoint import check_output, get_ranges
from bertsurgeon.errors import CheckpointError

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
    digests = after["quantization_config"].pop("digests")  # 0.1.0 wrote none, and ignores them
    assert digests["tensors"].keys() == load_file(tmp_path / "model.safetensors").keys()
    for entry in ("quantization_config", "int8_input_ranges"):
        assert after.get(entry) == before.get(entry)


# folders without a record

MARKS: dict[str, dict[str, object]] = {
    "report.json": {"task": "sst2", "pruning": {}, "recovery": None, "models": {}, "environment": {}},
    "training_report.json": {"task": None, "training": {}, "metrics": {}},
    "vocabulary_report.json": {"texts": 3, "kept": 2, "of": 4, "parameters": [9, 7]},
    "layer_drop.json": {"layers": [0, 2], "of": 3, "encoder_weights": {}},
    "calibration.json": {"format_version": 1, "settings": {}, "curves": []},
    "bertsurgeon_export.json": {
        "format_version": 1,
        "runtime": "onnx",
        "precision": "fp32",
        "inputs": [],
        "outputs": [],
    },
}
MODEL = ("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "tokenizer.json", "vocab.txt")
BESIDE = {
    "calibration.json": ("calibration.safetensors",),
    "bertsurgeon_export.json": ("config.json", "model.onnx", "model.onnx.data", "openvino_model.bin", "vocab.txt"),
}


def fill(folder: Path, mark: str, content: object) -> Path:
    """Writes the files of one kind of folder; the file ``mark`` is the one that tells who wrote it."""
    for name in BESIDE.get(mark, MODEL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / mark).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("mark", MARKS)
def test_folders_are_replaced(mark: str, tmp_path: Path) -> None:
    fill(tmp_path / "out", mark, {**MARKS[mark], "more": 1})
    if mark == "report.json":
        (tmp_path / "out" / "2_Normalize").mkdir()
    check_output(tmp_path / "out", overwrite=True)


def test_folders_of_gradual_pruning_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "training_report.json", {"task": "sst2", "recipe": {}, "metrics": {}})
    check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("content", [{"mine": 1}, [], "text", None], ids=str)
@pytest.mark.parametrize("mark", MARKS)
def test_own_files_with_our_names_are_not_replaced(mark: str, content: object, tmp_path: Path) -> None:
    fill(tmp_path / "out", mark, content)
    with pytest.raises(CheckpointError, match=f"holds {mark}, which bertsurgeon did not write"):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("mark", MARKS)
def test_every_key_is_needed(mark: str, tmp_path: Path) -> None:
    for key in MARKS[mark]:
        fill(tmp_path / "out", mark, {name: value for name, value in MARKS[mark].items() if name != key})
        with pytest.raises(CheckpointError, match=f"holds {mark}"):
            check_output(tmp_path / "out", overwrite=True)


def test_own_files_beside_a_pruned_model_are_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", "report.json", {"mine": 1})
    (tmp_path / "out" / "config.json").write_bytes((RELEASED / NAMES[0] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"holds report\.json"):
        check_output(tmp_path / "out", overwrite=True)


def test_a_calibration_does_not_make_a_model_ours(tmp_path: Path) -> None:
    fill(tmp_path / "out", "calibration.json", MARKS["calibration.json"])
    fill(tmp_path / "out", "config.json", {})
    with pytest.raises(CheckpointError, match=r"holds calibration\.json"):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("method", ["bertsurgeon-like", "gptq", None, ["bertsurgeon"]], ids=str)
def test_other_quantized_models_are_not_replaced(method: object, tmp_path: Path) -> None:
    fill(tmp_path / "out", "config.json", {"quantization_config": {"quant_method": method}})
    with pytest.raises(CheckpointError, match="which bertsurgeon did not write"):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_modules_are_folders(kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "out", "report.json", MARKS["report.json"])
    if kind == "file":
        (tmp_path / "out" / "1_Notes").write_text("precious")
    else:
        (tmp_path / "out" / "1_Notes").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="holds 1_Notes"):
        check_output(tmp_path / "out", overwrite=True)
