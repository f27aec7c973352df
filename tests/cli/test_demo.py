"""``bertsurgeon demo``: a fine-tuned model, then the report of its search."""

import json

import pytest

from bertsurgeon.cli import demo as demo_module
from bertsurgeon.compression import report as report_module
from bertsurgeon.workflows.inputs import DataConfig
from cli_helpers import run


@pytest.fixture
def small(folder, monkeypatch):
    """The demo on a model and files that take seconds; the stages are the real ones."""
    monkeypatch.setattr(report_module, "measure_memory", lambda *arguments: 1)
    monkeypatch.setattr(demo_module, "MINILM", str(folder / "dense"))
    monkeypatch.setattr(demo_module, "CANDIDATES", 2)
    monkeypatch.setattr(demo_module, "RUNTIME", "pytorch")
    files = {"train_file": folder / "train.csv", "validation_file": folder / "validation.csv"}
    monkeypatch.setattr(demo_module, "DataConfig", lambda task, max_train_samples, **rest: DataConfig(**files, **rest))


def test_it_ends_in_the_report_of_compress(small, tmp_path):
    output = tmp_path / "out"
    result = run("demo", "-o", output, "--time", 0.5)
    assert result.exit_code == 0, result.output
    report = json.loads((output / "deployed" / "report.json").read_text())
    assert report["verdict"]["sentence"] in result.output
    assert (output / "dense" / "config.json").is_file()
    assert {"report.html", "README.md"} <= {path.name for path in (output / "deployed").iterdir()}


def test_it_replaces_nothing_unasked(small, tmp_path):
    output = tmp_path / "out"
    (output / "deployed").mkdir(parents=True)
    (output / "deployed" / "notes.txt").write_text("mine")
    result = run("demo", "-o", output)
    assert result.exit_code == 2
    assert not (output / "dense").exists()  # refused before the training
