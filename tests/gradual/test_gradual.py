"""Gradual pruning: recipes, schedules, masks while training, resumption, and the command line."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerControl,
    TrainerState,
    set_seed,
)

from architecture_cases import make_model
from bertsurgeon import ObertConfig, Sparsity, is_sparse, load_model, prune, save_model
from bertsurgeon.checkpoint import sparse_block
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.gradual import LearningRate, Pruning, Recipe, load_recipe
from bertsurgeon.gradual.gradual_pruning import GradualPruning, pruning_targets, rate_schedule, train_gradually
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.recovery import MaskCallback, distilled_loss
from cli_helpers import files, run, start, succeed, tokenized_texts

STEPS = 4
"""Of an epoch: 64 texts in batches of 16."""

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=LearningRate(1e-3, 1e-4, "pruning"),
    pruning=Pruning(0.8, 0.4, start=0.5, end=2, every=0.5, damping=1e-4, gradients=8, gradient_batch_size=4),
)


def same(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    states = [model.state_dict() for model in (first, second)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 16 * STEPS)


@pytest.fixture(scope="module")
def sparse(folder: Path, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = ObertConfig(Sparsity(0.5), score="magnitude", pattern="1x4")
    return prune(load_model(folder / "dense"), config, dataset, tokenizer).model


def test_the_loss_of_the_gradients_is_that_of_the_training(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    teacher, student = load_model(folder / "dense"), load_model(folder / "dense")
    with torch.no_grad():
        teacher.classifier.weight.mul_(3)
    batch = dict(tokenizer(["the film was dull", "the plot"], padding=True, return_tensors="pt"))
    batch["labels"] = torch.tensor([0, 1])
    generator = torch.Generator()
    with torch.no_grad():
        task = 2 * float(student(**batch).loss)
        losses = [
            distilled_loss(teacher, 2.0, distillation_weight)(student, batch, generator)
            for distillation_weight in (1, 0.25)
        ]
    taught, both = map(float, losses)
    assert taught > 0
    assert both == pytest.approx(0.25 * taught + 0.75 * task)


# training


class Recorder:
    """Records the masks and the learning rate of every step, and kills the run at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, killed_at: int = -1) -> None:
        self.masks: list[dict[Any, Tensor]] = []
        self.rates: list[float] = []
        self.zeros_stayed = True
        original = MaskCallback.on_optimizer_step

        def record(callback: MaskCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            original(callback, args, state, control, **kwargs)
            if state.global_step == killed_at:
                raise KeyboardInterrupt
            current = masks_of(callback.model)
            self.zeros_stayed &= all(not (mask & ~callback.masks[key]).any() for key, mask in current.items())
            self.masks.append(current)
            self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

        monkeypatch.setattr(MaskCallback, "on_optimizer_step", record)


@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
def test_pruning_while_training(
    pattern: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(monkeypatch)
    model, teacher = load_model(folder / "dense"), load_model(folder / "dense")
    before = copy.deepcopy(teacher)
    assert RECIPE.pruning is not None
    recipe = replace(RECIPE, pruning=replace(RECIPE.pruning, pattern=pattern))
    train_gradually(model, recipe, dataset, tokenizer, work_dir=tmp_path / "work", teacher=teacher)
    shares = [sparsity_of(each) for each in recorder.masks]
    targets = pruning_targets(recipe, STEPS)
    expected = 0.0
    for step, share in enumerate(shares):
        expected = targets.get(step, expected)
        assert share == pytest.approx(expected, abs=1e-4)
    assert recorder.zeros_stayed
    for earlier, later in zip(recorder.masks, recorder.masks[1:], strict=False):
        assert all(not (mask & ~earlier[key]).any() for key, mask in later.items())
    assert recorder.rates == pytest.approx([1e-3 * rate_schedule(recipe, STEPS)(step) for step in range(12)])
    units = 16384 // (4 if pattern == "1x4" else 1)
    assert sparsity_of(masks_of(model)) == pytest.approx(round(0.8 * units) / units, abs=1e-12)
    assert same(teacher, before)
    assert is_sparse(model)
    assert sparse_block(model) == (4 if pattern == "1x4" else 1)
    save_model(model, tmp_path / "saved")
    assert same(load_model(tmp_path / "saved"), model)


@pytest.mark.parametrize("killed_at", [5, 6, 8])
def test_a_killed_run_goes_on_the_same(
    killed_at: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after a pruning whose step, or any later one, was never saved."""
    teacher = load_model(folder / "dense")
    models = [load_model(folder / "dense") for _ in range(3)]
    recipe = replace(RECIPE, batch_size=8)  # an epoch has 8 steps, every second one is saved

    def go(model: PreTrainedModel, name: str, resume: bool = False) -> None:
        set_seed(0)
        train_gradually(model, recipe, dataset, tokenizer, work_dir=tmp_path / name, teacher=teacher, resume=resume)

    go(models[0], "whole")
    with monkeypatch.context() as patch:
        Recorder(patch, killed_at)
        with pytest.raises(KeyboardInterrupt):
            go(models[1], "killed")
    go(models[2], "killed", resume=True)
    assert same(models[2], models[0])
    assert all(torch.equal(mask, masks_of(models[0])[key]) for key, mask in masks_of(models[2]).items())


def test_sparse_transfer_keeps_the_mask(
    sparse: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    model = copy.deepcopy(sparse)
    recipe = replace(load_recipe("sparse-transfer").scaled(1), batch_size=16)
    train_gradually(model, recipe, dataset, tokenizer, work_dir=tmp_path)
    assert all(torch.equal(mask, masks_of(sparse)[key]) for key, mask in masks_of(model).items())
    assert not same(model, sparse)
    assert sparse_block(model) == 4


def test_a_sparse_model_is_pruned_further(
    sparse: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prunings of the schedule below the current sparsity are skipped."""
    recorder = Recorder(monkeypatch)
    model = copy.deepcopy(sparse)
    train_gradually(model, RECIPE, dataset, tokenizer, work_dir=tmp_path)
    shares = [sparsity_of(each) for each in recorder.masks]
    assert shares[:4] == [0.5] * 4  # the schedule has 0.4 at step 2
    assert shares[-1] == pytest.approx(0.8, abs=1e-4)
    assert all(not (mask & ~masks_of(sparse)[key]).any() for key, mask in masks_of(model).items())


def test_fused_matrices_are_taken_apart(tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path) -> None:
    model = make_model(AutoModelForSequenceClassification, "modernbert", vocab_size=len(tokenizer))
    train_gradually(model, RECIPE, dataset, tokenizer, work_dir=tmp_path / "work")
    assert sparsity_of(masks_of(model)) == pytest.approx(0.8, abs=1e-3)
    save_model(model, tmp_path / "out")
    assert same(load_model(tmp_path / "out"), model)


def test_n_of_m(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path) -> None:
    model = load_model(folder / "dense")
    pruning = Pruning(0.5, 0.2, 0.5, 2, 0.25, "2:4", damping=1e-4, gradients=8, gradient_batch_size=4)
    train_gradually(model, replace(RECIPE, pruning=pruning), dataset, tokenizer, work_dir=tmp_path)
    for mask in masks_of(model).values():
        assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_a_training_that_ends_too_early(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    assert RECIPE.pruning is not None
    options = RECIPE.pruning.step_config(10**6, 0)
    callback = GradualPruning(load_model(folder / "dense"), dataset, tokenizer, {2: 0.4, 5: 0.8}, options, 8)
    arguments: Any = None
    callback.on_train_begin(arguments, TrainerState(max_steps=6), TrainerControl())
    with pytest.raises(OptionError, match="at step 5, but the training ends after 5 steps"):
        callback.on_train_begin(arguments, TrainerState(max_steps=5), TrainerControl())


def test_what_does_not_fit(
    folder: Path, sparse: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    dense = load_model(folder / "dense")
    less = replace(RECIPE, pruning=Pruning(0.5, 0.4, 0.5, 2, 0.5))
    with pytest.raises(OptionError, match="sparse already"):
        train_gradually(copy.deepcopy(sparse), less, dataset, tokenizer, work_dir=tmp_path)
    with pytest.raises(ModelError, match="dense"):
        train_gradually(dense, load_recipe("sparse-transfer"), dataset, tokenizer, work_dir=tmp_path)
    with pytest.raises(OptionError, match="memory"):
        train_gradually(dense, RECIPE, dataset, tokenizer, work_dir=tmp_path, memory_gb=0)
    odd = replace(RECIPE, pruning=Pruning(0.5, 0.4, 0.5, 2, 0.5, "1x5", block_size=50))
    with pytest.raises(OptionError, match="runs of 5"):
        train_gradually(dense, odd, dataset, tokenizer, work_dir=tmp_path)
    with pytest.raises(OptionError, match="teacher"):
        train_gradually(dense, RECIPE, dataset.remove_columns("labels"), tokenizer, work_dir=tmp_path)


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_only_the_head_may_be_new(damage: str, folder: Path, sparse: PreTrainedModel, tmp_path: Path) -> None:
    for name, model in (("sparse", sparse), ("dense", load_model(folder / "dense"))):
        save_model(model, tmp_path / name)
        state = load_file(tmp_path / name / "model.safetensors")
        key = "bert.encoder.layer.1.attention.self.value.bias"
        bias = state.pop(key)
        if damage == "shorter":
            state[key] = bias[:-1].clone()
        save_file(state, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=r"value\.bias"):
            load_model(tmp_path / name, num_labels=3, ignore_mismatched_sizes=True, new_head=True)


# the command line


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pruned"
    options = ["--recipe", "downstream-10", "--epochs", "2", "--teacher", folder / "dense", *files(folder)]
    changes = ["--sparsity", "0.75", "--first-sparsity", "0.3", "--pattern", "block", "--memory-gb", "0.01"]
    result = succeed("gradual", folder / "dense", "-o", out, *options, *changes)
    assert "75.00% of the encoder is zero" in result.stdout
    model = load_model(out)
    assert sparsity_of(masks_of(model)) == 0.75
    assert sparse_block(model) == 4
    report = json.loads((out / "training_report.json").read_text())
    assert report["recipe"]["pruning"]["end"] == pytest.approx(1.6)
    assert set(report["metrics"]) == {"accuracy", "f1"}
    assert not (tmp_path / "pruned.training").exists()
    refused = run("gradual", out, "-o", tmp_path / "no", *options, "--sparsity", "0.75")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "sparse already" in refused.stderr


def test_sparse_transfer_on_the_command_line(folder: Path, sparse: PreTrainedModel, tmp_path: Path) -> None:
    """A sparse model with a head for another task is given a new one, and keeps its zeros."""
    other = copy.deepcopy(sparse)
    other.classifier = torch.nn.Linear(32, 3)
    other.config.num_labels = 3
    save_model(other, tmp_path / "other", AutoTokenizer.from_pretrained(folder / "dense"))
    options = ["--recipe", "sparse-transfer", "--epochs", "1", *files(folder), "--json"]
    for teacher in ([], ["--teacher", folder / "dense"]):
        out = tmp_path / f"out{len(teacher)}"
        shown = json.loads(succeed("gradual", tmp_path / "other", "-o", out, *options, *teacher).stdout)
        assert shown["sparsity"] == 0.5
        model = load_model(out)
        assert model.config.num_labels == 2
        assert all(torch.equal(mask, masks_of(sparse)[key]) for key, mask in masks_of(model).items())


def test_resuming_on_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["gradual", folder / "dense", "--recipe", "downstream-30", "--epochs", "6", *files(folder)]
    command += ["--teacher", folder / "dense", "--seed", "3"]
    succeed(*command, "-o", tmp_path / "whole")
    with monkeypatch.context() as patch:
        Recorder(patch, killed_at=8)
        assert run(*command, "-o", tmp_path / "killed").exit_code == 130
    assert not (tmp_path / "killed").exists()
    assert "--resume" in run(*command, "-o", tmp_path / "killed").stderr
    other = run(*command, "-o", tmp_path / "killed", "--resume", "--sparsity", "0.8")
    assert "another recipe" in other.stderr
    succeed(*command, "-o", tmp_path / "killed", "--resume")
    assert same(load_model(tmp_path / "killed"), load_model(tmp_path / "whole"))


def test_bars_inside_bars(folder: Path, tmp_path: Path) -> None:
    """What ``main`` shows: the bar of a pruning inside that of the training."""
    log = tmp_path / "log"
    options = ["--recipe", "downstream-10", "--epochs", "1", *files(folder)]
    with start("gradual", folder / "dense", "-o", tmp_path / "out", *options, log=log, temporary=tmp_path) as process:
        assert process.wait(timeout=120) == 0, log.read_text()
    shown = log.read_text()
    assert all(words in shown for words in ("No --teacher", "Pruning", "Inverting the Fisher", "90.00% of the encoder"))


def test_texts_and_a_teacher_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the film was fine\nthe old plot\na dull day\n" * 16)
    options = ["--recipe", "downstream-30", "--epochs", "3", "--text-file", tmp_path / "texts.txt"]
    result = succeed("gradual", folder / "dense", "-o", tmp_path / "out", *options, "--teacher", folder / "dense")
    assert "90.00% of the encoder is zero  agreement" in result.stdout
    assert "--teacher" in run("gradual", folder / "dense", "-o", tmp_path / "no", *options).stderr


def test_bad_options_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    for options, word in (
        (["--recipe", "best"], "no recipe best"),
        (["--recipe", "downstream-10", "--epochs", "0"], "epochs must be greater than 0"),
        (["--recipe", "downstream-10", "--sparsity", "0.6"], "pruning.first_sparsity"),
        (["--recipe", "downstream-10", "--pattern", "2:4"], "pruning.sparsity must be 0.5"),
        (["--recipe", "sparse-transfer", "--sparsity", "0.6"], "prunes nothing"),
        (["--recipe", "sparse-transfer"], "is dense"),
    ):
        result = run("gradual", folder / "dense", "-o", tmp_path / "no", *options, *files(folder))
        assert result.exit_code == 2, result.output
        assert word in result.stderr
        assert list(tmp_path.iterdir()) == []
