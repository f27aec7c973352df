"""Model cards: metadata that survives huggingface_hub's round trip, and a body written from the numbers."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from bertsurgeon.errors import CheckpointError
from bertsurgeon.reporting import model_card, model_source
from report_cases import HOSTILE, make_report

TRAINING = {"task": "mrpc", "training": {"seed": 3}, "metrics": {"f1": 88.0, "accuracy": 84.5}}


def metadata(card: ModelCard) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(str(card).split("---\n")[1])
    return values


def test_metadata_survives_the_round_trip_of_the_hub_library(tmp_path: Path) -> None:
    """Checks offline what the Hub's library can check; ``card.validate()`` asks the Hub, so it needs the network."""
    card = model_card(make_report(), base_model="some/model", license="apache-2.0", language="en")
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.to_dict() == card.data.to_dict()
    values = metadata(loaded)
    assert values["base_model"] == "some/model"
    assert values["base_model_relation"] == "quantized"
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "text-classification"
    assert values["license"] == "apache-2.0"
    assert {"bertsurgeon", "pruned", "onnx", "int8"} == set(values["tags"])
    name, results = model_index_to_eval_results(values["model-index"])
    assert name == "minilm-sst2, compressed"
    assert results == loaded.data.eval_results
    assert [(one.metric_type, one.metric_value, one.dataset_type, one.dataset_config) for one in results] == [
        ("accuracy", 91.17, "glue", "sst2")
    ]


def test_a_local_model_is_no_base_model_and_local_files_are_not_named(tmp_path: Path) -> None:
    card = model_card(make_report(classes=77), base_model=str(tmp_path), license=None)
    values = metadata(card)
    assert not {"base_model", "base_model_relation", "license"} & values.keys()
    dataset = values["model-index"][0]["results"][0]["dataset"]
    assert dataset["type"] == "local-files"
    assert "train.csv" not in str(card)


def test_folders_of_the_author_are_not_published() -> None:
    report = make_report()
    report["provenance"]["command"] = (
        "bertsurgeon compress some/model --train-file /home/author/data/train.csv --validation-file=../x/dev.csv -o out"
    )
    text = str(model_card(report, base_model=None, license=None))
    assert "bertsurgeon compress some/model --train-file train.csv --validation-file=dev.csv -o out" in text


def test_the_body_has_the_numbers_and_how_to_load_the_model() -> None:
    text = model_card(make_report(), base_model="some/model", license=None).text
    assert "| File size | 90.9 MB | 17.4 MB | 5.22× smaller |" in text
    assert "one-sided limit 0.92 points" in text
    assert "`ignore_mismatched_sizes=True` hides that and gives random weights" in text
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3
    assert "import bertsurgeon" in blocks[0]
    assert "bertsurgeon" not in blocks[1]
    for block in blocks:
        ast.parse(block)


@pytest.mark.parametrize("runtime", ["pytorch", "onnx", "openvino"])
def test_every_runtime_has_its_code(runtime: str) -> None:
    report = make_report(labeled=False)
    report["target"]["runtime"] = runtime
    text = model_card(report, base_model=None, license=None).text
    assert ("openvino.compile_model" in text) == (runtime == "openvino")
    assert ("onnxruntime.InferenceSession" in text) == (runtime == "onnx")


def test_texts_of_the_user_do_not_break_tables_or_code() -> None:
    report = make_report()
    report["answers"]["per_class"][0]["label"] = f"a|b\n{HOSTILE}"
    report["provenance"]["command"] = "bertsurgeon\n```\n# A heading"
    text = model_card(report, base_model=None, license=None).text
    assert "<img" not in text
    assert "a\\|b" in text
    assert text.count("````") == 2


def test_a_dense_result_loads_without_the_package() -> None:
    text = model_card(make_report() | {"chosen": "dense int8"}, base_model=None, license=None).text
    assert "random weights" not in text


@pytest.mark.parametrize(
    ("command", "words"),
    [("finetune", "stock model of transformers"), ("recover", "random weights"), ("gradual", "random weights")],
)
def test_cards_of_trained_models(command: str, words: str) -> None:
    report = TRAINING | {"command": command}
    card = model_card(report, base_model="some/model", license=None, architecture="BertForSequenceClassification")
    assert words in card.text
    assert "AutoModelForSequenceClassification" in card.text
    assert metadata(card)["base_model_relation"] == "finetune"
    assert [one.metric_type for one in card.data.eval_results or []] == ["f1", "accuracy"]


def test_other_reports_have_no_card() -> None:
    with pytest.raises(CheckpointError, match="does not describe a model"):
        model_card({"texts": 1, "kept": 1, "of": 2, "parameters": [2, 1]}, base_model=None, license=None)


def test_base_model_and_license_come_from_the_card_of_the_folder(tmp_path: Path) -> None:
    assert model_source(tmp_path) == (None, None)
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nbase_model: some/encoder\n---\n# A model\n", encoding="utf-8"
    )
    assert model_source(tmp_path) == ("some/encoder", "mit")
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert model_source(tmp_path) == (None, None)
    assert model_source("no--hub--id") == (None, None)
    assert model_source("some/model-that-is-not-cached") == ("some/model-that-is-not-cached", None)
