"""The README's commands and Python code are run unchanged, but for a time limit of the search."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from bertsurgeon import TrainingConfig, train
from bertsurgeon.tasks import load_task
from bertsurgeon.workflows import resolve_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: a fine-tuned model called my-model, and two CSV files."""
    folder = tmp_path_factory.mktemp("reader")
    name = resolve_model("minilm")
    set_seed(0)  # of the new head: how close a plan comes to its budget depends on the model
    small = AutoModelForSequenceClassification.from_pretrained(name, num_labels=4, num_hidden_layers=2)
    tokenizer = AutoTokenizer.from_pretrained(name)
    data = load_task("docstrings")
    rows = data.train.select(range(96))
    train(small, TrainingConfig(epochs=4, learning_rate=5e-4), rows, tokenizer)
    small.save_pretrained(folder / "my-model")
    tokenizer.save_pretrained(folder / "my-model")
    rows.to_csv(folder / "train.csv")
    data.validation.select(range(48)).to_csv(folder / "validation.csv")
    return folder


def run(arguments: list[str], folder: Path) -> str:
    result = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(arguments)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_commands_then_code(folder: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("bertsurgeon ")]
    assert len(commands) == 5  # two on the first screen, three step by step
    # the search of compress is cut short; tests/compression has what it goes on to
    limited = [
        f"{command} --time 0.5" if command.startswith("bertsurgeon compress") else command for command in commands
    ]
    outputs = [run([sys.executable, "-m", *shlex.split(command)], folder) for command in limited]
    assert "is chosen" in outputs[0]
    assert {"README.md", "report.html", "openvino"} <= {path.name for path in (folder / "deployed").iterdir()}
    assert "faster" in outputs[1]
    assert "50 % removed" in outputs[2]
    assert "onnx int8" in outputs[4]
    loading, pruning = blocks("python")
    run([sys.executable, "-c", loading + "\nassert model.config.num_labels == 4"], folder)
    assert "50.0% of the encoder removed" in run([sys.executable, "-c", pruning], folder)
    assert (folder / "pruned-from-python" / "model.safetensors").is_file()
    AutoTokenizer.from_pretrained(folder / "pruned-from-python")  # a model is of no use without its tokenizer


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_links_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
