"""``verify`` finds what is missing or changed in every kind of folder, and nothing in folders as they were written."""

import json
import shutil
from pathlib import Path

import pytest

from bertsurgeon import AutoConfig, ExportConfig, Sparsity, calibrate, export, prune, save_model, verify
from bertsurgeon.errors import CheckpointError
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.runtime import open_exported
from bertsurgeon.testing import toy_classifier
from cli_helpers import run, unseal

GRAPHS = {"export": "model.onnx", "openvino": "openvino_model.bin"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of each kind; tests must not write into it."""
    folder = tmp_path_factory.mktemp("written")
    model, tokenizer, rows = toy_classifier()
    texts = list(rows["text"])
    save_model(model, folder / "dense", tokenizer)
    config = AutoConfig(Sparsity(0.5), samples=16)
    calibrate(model, config, texts, tokenizer).save(folder / "calibration")
    pruned = prune(model, config, Calibration.load(folder / "calibration")).model
    save_model(pruned, folder / "pruned", tokenizer, {"report.json": {}})
    for name, runtime in (("export", "onnx"), ("openvino", "openvino")):
        export(pruned, ExportConfig(runtime), texts, tokenizer, output=folder / name)  # type: ignore[arg-type]
    shutil.copytree(folder / "export", folder / "pruned" / "onnx")
    return folder


@pytest.mark.parametrize("name", ["dense", "pruned", "calibration", "export", "openvino"])
def test_folders_as_they_were_written(name: str, written: Path) -> None:
    result = run("verify", written / name, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["is_intact"]
    assert (content["faults"], content["notes"]) == ([], [])
    assert content["checked"] > (0 if name in GRAPHS else 10)
    assert content["holds"] == {"dense": ["model"], "pruned": ["model", "export in onnx"]}.get(
        name, ["calibration" if name == "calibration" else "export"]
    )


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("dense/model.safetensors", "is not as it was saved"),
        ("pruned/model.safetensors", "is not as it was saved"),
        ("calibration/calibration.safetensors", "is not as it was saved"),
        ("export/model.onnx", "model.onnx is damaged"),
        ("openvino/openvino_model.bin", "openvino_model.bin is damaged"),
        ("openvino/openvino_model.xml", "openvino_model.xml is damaged"),
        ("pruned/onnx/model.onnx", "model.onnx is damaged"),
    ],
)
def test_a_flipped_bit(file: str, words: str, written: Path, tmp_path: Path) -> None:
    name = file.partition("/")[0]
    folder = shutil.copytree(written / name, tmp_path / name)
    path = tmp_path / file
    content = bytearray(path.read_bytes())
    content[-50] ^= 4
    path.write_bytes(content)
    result = run("verify", folder)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert words in line
    if name in GRAPHS:
        with pytest.raises(CheckpointError, match="is damaged"):
            open_exported(folder)


@pytest.mark.parametrize("file", ["dense/tokenizer.json", "pruned/report.json", "export/config.json"])
def test_missing_files(file: str, written: Path, tmp_path: Path) -> None:
    name = file.partition("/")[0]
    folder = shutil.copytree(written / name, tmp_path / name)
    (tmp_path / file).unlink()
    assert any(f"{tmp_path / file} is missing" in fault for fault in verify(folder).faults)


def test_numbers_of_a_calibration(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written / "calibration", tmp_path / "calibration")
    file = folder / "calibration.json"
    content = json.loads(file.read_text())
    content["curves"][0]["options"][0]["error"] += 1
    file.write_text(json.dumps(content))
    assert "calibration.json is not as it was saved" in verify(folder).faults[0]
    with pytest.raises(CheckpointError, match=r"calibration\.json is not as it was saved"):
        Calibration.load(folder)


def test_entries_of_a_manifest(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written / "export", tmp_path / "export")
    file = folder / "bertsurgeon_export.json"
    original = json.loads(file.read_text())
    for entry in ({"encoder_weights": 1}, {"inputs": []}, {"outputs": [3]}, {"digests": {}}, {"format_version": 1}):
        file.write_text(json.dumps(original | entry))
        with pytest.raises(CheckpointError, match="is damaged"):
            open_exported(folder)
    released = {**original, "format_version": 1}
    for entry in ("digests", "quality", "invariance", "outlier_channels"):  # what 0.1.0 did not write
        del released[entry]
    file.write_text(json.dumps(released))
    assert open_exported(folder).manifest.digests == {}
    assert "exported without digests" in verify(folder).notes[0]


def test_models_without_digests_get_a_note(written: Path, tmp_path: Path) -> None:
    for name in ("dense", "pruned"):
        folder = unseal(shutil.copytree(written / name, tmp_path / name))
        result = run("verify", folder)
        assert result.exit_code == 0
        assert "was saved without digests" in result.stdout


def test_a_shape_that_does_not_fit(written: Path, tmp_path: Path) -> None:
    folder = unseal(shutil.copytree(written / "dense", tmp_path / "dense"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**6}))
    assert "layers" in verify(folder).faults[0]


def test_nothing_of_ours(tmp_path: Path) -> None:
    assert run("verify", tmp_path).exit_code == 2
    with pytest.raises(CheckpointError, match="There is no folder"):
        verify(tmp_path / "absent")
