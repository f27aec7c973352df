"""INT8 that loses too much is refused: measured on the exported file, with the numbers that ``evaluate`` prints."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import ExportConfig, evaluate, export, load_model, open_exported
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.errors import ExportError, OptionError
from bertsurgeon.evaluation import compare
from bertsurgeon.exporting.bounds import ExportQuality, describe_remedies
from bertsurgeon.prediction import predict
from bertsurgeon.tasks import Task
from cli_helpers import run, succeed, write_data

pytest.importorskip("onnxruntime")

TASK = Task("toy", ("accuracy", "f1"), ("bad", "good"))


@pytest.fixture(scope="module")
def labeled(folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and texts with the labels that it predicts: half of each class, accuracy 100."""
    made = tmp_path_factory.mktemp("labeled")
    model = load_model(folder / "dense")
    texts = read(write_data(made / "texts.csv", 128, seed=3))["text"]
    logits = predict(model, texts, tokenizer)
    difference = logits[:, 1] - logits[:, 0]
    with torch.no_grad():
        model.classifier.bias[1] -= difference.median() + 1e-3
    labels = (predict(model, texts, tokenizer).argmax(1)).tolist()
    assert 50 < sum(labels) < 78
    with (made / "validation.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    model.save_pretrained(made / "model")
    tokenizer.save_pretrained(made / "model")
    return made


def read(path: Path) -> Dataset:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Dataset.from_dict({"text": [row["text"] for row in rows], "label": [int(row["label"]) for row in rows]})


def destroy_matrices(model: PreTrainedModel) -> PreTrainedModel:
    """Outliers in the weights of a channel that is always zero: outputs stay, and INT8 rounds all others to zero."""
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            norm = layer.attention.output.LayerNorm
            norm.weight[0] = norm.bias[0] = 0.0
            layer.intermediate.dense.weight[:, 0] = 1e5
    return model


def destroy_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    """Outliers in a channel of words and positions that cancel each other."""
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[:, 0] += 4096.0
        model.bert.embeddings.position_embeddings.weight[:, 0] -= 4096.0
    return model


def test_a_good_model_passes_and_the_number_is_that_of_evaluate(labeled: Path, tmp_path: Path) -> None:
    data = ("--train-file", labeled / "texts.csv", "--validation-file", labeled / "validation.csv")
    options = ("--to", "onnx", "--precision", "int8", "--quantization", "dynamic", "--max-drop", "5", "--no-invariance")
    exported = json.loads(
        succeed("export", labeled / "model", *options, *data, "-o", tmp_path / "out", "--json").stdout
    )
    quality = exported["quality"]
    assert exported["invariance"] is None
    assert (quality["bound"], quality["limit"], quality["metric"]) == ("max_drop", 5, "accuracy")
    assert (quality["texts"], quality["pytorch"]) == (128, 100)
    assert quality["exported"] >= 95
    assert quality["drop"] == pytest.approx(100 - quality["exported"])
    scores = json.loads(succeed("evaluate", tmp_path / "out", *data, "--json").stdout)["metrics"]
    assert scores["accuracy"] == quality["exported"]


def test_a_destroyed_model_is_refused_by_default(labeled: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model, tokenizer = destroy_embeddings(load_model(labeled / "model")), load_tokenizer(labeled / "model")
    validation = read(labeled / "validation.csv")
    before = evaluate(model, TASK, validation, tokenizer)["accuracy"]
    with pytest.raises(ExportError) as refused:
        export(
            model,
            ExportConfig("onnx", "int8"),
            validation["text"],
            tokenizer,
            output=tmp_path / "out",
            validation=validation,
            task=TASK,
        )
    message = str(refused.value)
    assert "int8 model loses" in message
    assert f"from {before:.4g} in PyTorch to" in message
    assert "points of accuracy on 128 texts" in message
    assert "(allowed: 2.344), so nothing was written" in message  # 3 of 128 answers
    assert "calibrate on more texts (samples) or on texts of your own" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_destroyed", [False, True])
def test_the_same_answers(is_destroyed: bool, labeled: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(labeled / "model"), load_tokenizer(labeled / "model")
    texts = read(labeled / "validation.csv")["text"]
    if is_destroyed:
        destroy_matrices(model)
    config = ExportConfig("onnx", "int8", quantization="dynamic", min_agreement=95, invariance=False)

    def make() -> Any:
        return export(model, config, texts, tokenizer, output=tmp_path / "out", validation=texts)

    if is_destroyed:
        with pytest.raises(ExportError, match=r"has .* % agreement with PyTorch on 128 texts \(required: 95 %\)"):
            make()
        assert list(tmp_path.iterdir()) == []
        return
    quality = make().quality
    assert quality["exported"] == compare(model, open_exported(tmp_path / "out"), texts, tokenizer)["agreement"]
    assert quality["pytorch"] is None


def test_sub_layers_stay_in_floating_point_until_the_bound_holds(labeled: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model, tokenizer = destroy_matrices(load_model(labeled / "model")), load_tokenizer(labeled / "model")
    texts = read(labeled / "validation.csv")["text"]
    config = ExportConfig("onnx", "int8", min_agreement=97, invariance=False)
    manifest = export(model, config, texts, tokenizer, output=tmp_path / "out", validation=texts)
    assert any("intermediate" in name for name in manifest.kept_float)
    assert manifest.quality is not None
    assert manifest.quality["exported"] >= 97


def test_bounds_without_data_are_refused(labeled: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the film was fine\na dull plot\n", encoding="utf-8")
    for options, message in (
        (("--max-drop", "1"), "are measured on data"),
        (("--min-agreement", "99"), "are measured on data"),
        (("--max-drop", "1", "--text-file", texts), "min_agreement, which needs no labels"),
        (("--max-drop", "1", "--min-agreement", "99"), "Name one bound"),
        (("--max-drop", "100"), "between 0 and 100 points, not 100"),
        (("--min-agreement", "101"), "between 0 and 100 percent, not 101"),
    ):
        result = run("export", labeled / "model", "--precision", "int8", *options, "-o", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert not (tmp_path / "out").exists()
    model, tokenizer = load_model(labeled / "model"), load_tokenizer(labeled / "model")
    with pytest.raises(OptionError, match="pass the texts to compare them on"):
        export(model, ExportConfig(min_agreement=99), ["a"], tokenizer, output=tmp_path / "out")


def test_a_bound_holds_up_to_its_value() -> None:
    def quality(bound: Any, limit: float, exported: float) -> ExportQuality:
        return ExportQuality(bound, limit, "accuracy", 90.1, exported, 90.1 - exported, 1000)

    assert quality("max_drop", 1.0, 89.1).holds
    assert not quality("max_drop", 1.0, 89.0).holds
    assert not quality("max_drop", 1.0, float("nan")).holds
    assert quality("min_agreement", 99.0, 99.0).holds
    assert not quality("min_agreement", 99.0, 98.9).holds


def test_remedies_are_those_that_exist(labeled: Path) -> None:
    model = load_model(labeled / "model")
    onnx = describe_remedies(ExportConfig("onnx", "int8", quantization="static"), model)
    openvino = describe_remedies(ExportConfig("openvino", "int8", quantization="static"), model)
    trained = describe_remedies(ExportConfig("onnx", "int8", quantization="trained"), model)
    assert "dynamic quantization" in onnx
    assert "use bf16" in openvino
    assert "dynamic" not in openvino
    assert "gradual --recipe int8" in onnx
    assert "gradual" not in trained
    del model.bert.encoder.layer[0].intermediate.dense
    model.bert.encoder.layer[0].intermediate.dense = torch.nn.Identity()
    assert "gradual" not in describe_remedies(ExportConfig("onnx", "int8", quantization="static"), model)
