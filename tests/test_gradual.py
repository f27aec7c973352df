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
from bertsurgeon import PruneConfig, is_sparse, load_model, prune, save_model
from bertsurgeon.checkpoint import sparse_block
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.gradual.recipes import LearningRate, Pruning, Recipe, load_recipe, packaged_recipes
from bertsurgeon.gradual.training import GradualPruning, pruning_targets, rate_schedule, train_gradually
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


def masks(model: PreTrainedModel) -> dict[Any, Tensor]:
    return masks_of(model)


def same(first: PreTrainedModel, second: PreTrainedModel) -> bool:
    states = [model.state_dict() for model in (first, second)]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 16 * STEPS)


@pytest.fixture(scope="module")
def sparse(folder: Path, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = PruneConfig(method="obert", sparsity=0.5, score="magnitude", pattern="1x4")
    return prune(load_model(folder / "dense"), dataset, config, tokenizer)[0]


# recipes


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.distillation.distillation_weight == 1
    assert (recipe.pruning is None) == (name in ("sparse-transfer", "int8"))
    if recipe.pruning is not None:
        targets = list(pruning_targets(recipe, 1000).values())
        assert (targets[0], targets[-1]) == (pytest.approx(0.7), 0.8 if name == "downstream-30-int8" else 0.9)
        assert 768 % recipe.pruning.block_size == 0
    halved = recipe.scaled(recipe.epochs / 2)
    assert pruning_targets(halved, 2000) == pytest.approx(pruning_targets(recipe, 1000))
    factors = [rate_schedule(one, steps)(500) for one, steps in ((halved, 2000), (recipe, 1000))]
    assert factors[0] == pytest.approx(factors[1])


def test_there_are_recipes() -> None:
    assert {"downstream-10", "downstream-30", "sparse-transfer"} <= set(packaged_recipes())
    recipe = load_recipe("downstream-30")
    assert list(pruning_targets(recipe, 10)) == [20, 60, 100, 140, 180, 220, 260]
    assert list(pruning_targets(load_recipe("downstream-10"), 10)) == list(range(20, 81, 5))


GOOD = """
epochs: 3
batch_size: 16
learning_rate: {start: 1e-3, end: 1.0e-4, rewinds: [2, 2.5]}
pruning: {sparsity: 0.8, first_sparsity: 0.4, start: 0.5, end: 2, every: 0.5}
"""


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(GOOD)
    recipe = load_recipe(file)
    assert recipe.learning_rate == LearningRate(1e-3, 1e-4, (2.0, 2.5))
    assert recipe.pruning == Pruning(0.8, 0.4, 0.5, 2.0, 0.5)
    file.write_text(GOOD.replace("[2, 2.5]", "0.25"))
    assert load_recipe(str(file)).learning_rate.rewinds == 0.25


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("epochs: 3", "epochs: 3\nepoch: 3", "no key epoch; allowed are epochs, batch_size"),
        ("every", "evry", "no key pruning.evry; allowed are sparsity, first_sparsity"),
        ("batch_size: 16", "", "batch_size is missing"),
        (", every: 0.5", "", "pruning.every is missing"),
        ("sparsity: 0.8", "sparsity: high", "pruning.sparsity must be a number, not 'high'"),
        ("sparsity: 0.8", "sparsity: true", "pruning.sparsity must be a number, not True"),
        ("batch_size: 16", "batch_size: 1.5", "batch_size must be a whole number"),
        ("batch_size: 16", "batch_size: 0", "batch_size must be at least 1"),
        ("batch_size: 16", "batch_size: 16\nweight_decay: -1", "weight_decay must be at least 0"),
        ("every: 0.5", "every: 0.5, update: best", "pruning.update must be a word, one of obert, greedy"),
        ("every: 0.5", "every: 0.5, pattern: 4", "pruning.pattern must be a word"),
        ("every: 0.5", "every: 0.5, pattern: 4x1", "pattern must be"),
        ("every: 0.5", "every: 0.5, pattern: '2:4'", "pruning.sparsity must be that"),
        ("every: 0.5", "every: 0", "pruning.every must be greater than 0"),
        ("every: 0.5", "every: 0.5, gradients: 0", "pruning.gradients must be at least 1"),
        ("end: 2,", "end: 0.25,", "pruning.end not before it"),
        ("end: 2,", "end: 3,", "pruning.end must come before the end of the training"),
        ("sparsity: 0.8", "sparsity: 1.2", "pruning.sparsity must lie strictly between"),
        ("sparsity: 0.8", "sparsity: 0.3", "first_sparsity must not exceed"),
        ("start: 0.5", "start: .nan", "pruning.start"),
        ("start: 1e-3", "start: 0", "learning_rate.start must be greater than 0"),
        ("[2, 2.5]", "often", "learning_rate.rewinds must be none, pruning"),
        ("[2, 2.5]", "[3]", "learning_rate.rewinds must come before"),
        ("[2, 2.5]", "[0]", "learning_rate.rewinds must be greater"),
        ("[2, 2.5]", "[two]", "learning_rate.rewinds must be a number"),
        ("epochs: 3", "epochs: 3\ndistillation: {distillation_weight: 2}", "distillation.distillation_weight must lie"),
        ("epochs: 3", "epochs: 3\ndistillation: {temperature: 0}", "distillation.temperature must be"),
        ("epochs: 3", "epochs: 3\ndistillation: strong", "The section distillation must hold keys"),
        ("epochs: 3", "epochs: 0", "epochs must be greater than 0"),
        ("epochs: 3", "epochs: [3", "cannot be read as YAML"),
        (GOOD, "recipe", "It must hold keys"),
        (GOOD, "", "It must hold keys"),
    ],
)
def test_bad_recipes(good: str, bad: str, words: str, tmp_path: Path) -> None:
    assert good in GOOD
    file = tmp_path / "own.yaml"
    file.write_text(GOOD.replace(good, bad))
    with pytest.raises(OptionError) as error:
        load_recipe(file)
    assert str(file) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_rewinds_need_a_pruning(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("epochs: 3\nbatch_size: 16\nlearning_rate: {start: 1e-3, end: 1e-4, rewinds: pruning}\n")
    with pytest.raises(OptionError, match="without the section pruning"):
        load_recipe(file)
    with pytest.raises(OptionError, match="no recipe downstream-20; name a YAML file, or one of downstream-10"):
        load_recipe("downstream-20")


# schedules


def test_the_cubic() -> None:
    assert pruning_targets(RECIPE, STEPS) == {
        2: pytest.approx(0.4),
        4: pytest.approx(0.8 - 0.4 * (2 / 3) ** 3),
        6: pytest.approx(0.8 - 0.4 * (1 / 3) ** 3),
        8: 0.8,
    }
    assert pruning_targets(RECIPE.scaled(0.25), STEPS) == {0: 0.8}  # one step is left, and the last pruning counts
    once = replace(RECIPE, pruning=Pruning(0.8, 0.4, start=1, end=1, every=1))
    assert pruning_targets(once, STEPS) == {4: 0.8}
    uneven = replace(RECIPE, pruning=Pruning(0.8, 0.4, start=0, end=1, every=0.75))
    assert list(pruning_targets(uneven, STEPS)) == [0, 3, 4]


@pytest.mark.parametrize(
    ("rewinds", "starts"),
    [("none", [0]), ("pruning", [0, 2, 4, 6, 8]), ((1.5,), [0, 6]), (1.0, [0, 4, 8]), (0.75, [0, 3, 6, 9])],
    ids=str,
)
def test_rewinds(rewinds: Any, starts: list[int]) -> None:
    factor = rate_schedule(replace(RECIPE, learning_rate=LearningRate(1e-3, 1e-4, rewinds)), STEPS)
    ends = [*starts[1:], 12]
    for first, end in zip(starts, ends, strict=True):
        for step in range(first, end):
            assert 1e-3 * factor(step) == pytest.approx(1e-3 - 9e-4 * (step - first) / (end - first))
    assert 1e-3 * factor(12) == pytest.approx(1e-4)  # asked for after the last step


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


class Watch:
    """Looks at the model after every step, and kills the run at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, killed_at: int = -1) -> None:
        self.masks: list[dict[Any, Tensor]] = []
        self.rates: list[float] = []
        self.zeros_stayed = True
        original = MaskCallback.on_optimizer_step

        def look(callback: MaskCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            original(callback, args, state, control, **kwargs)
            if state.global_step == killed_at:
                raise KeyboardInterrupt
            found = masks(callback.model)
            self.zeros_stayed &= all(not (mask & ~callback.masks[key]).any() for key, mask in found.items())
            self.masks.append(found)
            self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

        monkeypatch.setattr(MaskCallback, "on_optimizer_step", look)


@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
def test_pruning_while_training(
    pattern: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)
    model, teacher = load_model(folder / "dense"), load_model(folder / "dense")
    before = copy.deepcopy(teacher)
    assert RECIPE.pruning is not None
    recipe = replace(RECIPE, pruning=replace(RECIPE.pruning, pattern=pattern))
    train_gradually(model, dataset, tokenizer, recipe, tmp_path / "work", teacher=teacher)
    shares = [sparsity_of(found) for found in watch.masks]
    targets = pruning_targets(recipe, STEPS)
    expected = 0.0
    for step, share in enumerate(shares):
        expected = targets.get(step, expected)
        assert share == pytest.approx(expected, abs=1e-4)
    assert watch.zeros_stayed
    for earlier, later in zip(watch.masks, watch.masks[1:], strict=False):
        assert all(not (mask & ~earlier[key]).any() for key, mask in later.items())
    assert watch.rates == pytest.approx([1e-3 * rate_schedule(recipe, STEPS)(step) for step in range(12)])
    units = 16384 // (4 if pattern == "1x4" else 1)
    assert sparsity_of(masks(model)) == pytest.approx(round(0.8 * units) / units, abs=1e-12)
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
        train_gradually(model, dataset, tokenizer, recipe, tmp_path / name, teacher=teacher, resume=resume)

    go(models[0], "whole")
    with monkeypatch.context() as patch:
        Watch(patch, killed_at)
        with pytest.raises(KeyboardInterrupt):
            go(models[1], "killed")
    go(models[2], "killed", resume=True)
    assert same(models[2], models[0])
    assert all(torch.equal(mask, masks(models[0])[key]) for key, mask in masks(models[2]).items())


def test_sparse_transfer_keeps_the_mask(
    sparse: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    model = copy.deepcopy(sparse)
    recipe = replace(load_recipe("sparse-transfer").scaled(1), batch_size=16)
    train_gradually(model, dataset, tokenizer, recipe, tmp_path)
    assert all(torch.equal(mask, masks(sparse)[key]) for key, mask in masks(model).items())
    assert not same(model, sparse)
    assert sparse_block(model) == 4


def test_a_sparse_model_is_pruned_further(
    sparse: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the schedule asks for before it exceeds what is gone already, is left out."""
    watch = Watch(monkeypatch)
    model = copy.deepcopy(sparse)
    train_gradually(model, dataset, tokenizer, RECIPE, tmp_path)
    shares = [sparsity_of(found) for found in watch.masks]
    assert shares[:4] == [0.5] * 4  # 0.4 was wanted at step 2
    assert shares[-1] == pytest.approx(0.8, abs=1e-4)
    assert all(not (mask & ~masks(sparse)[key]).any() for key, mask in masks(model).items())


def test_fused_matrices_are_taken_apart(tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path) -> None:
    model = make_model(AutoModelForSequenceClassification, "modernbert", vocab_size=len(tokenizer))
    train_gradually(model, dataset, tokenizer, RECIPE, tmp_path / "work")
    assert sparsity_of(masks(model)) == pytest.approx(0.8, abs=1e-3)
    save_model(model, tmp_path / "out")
    assert same(load_model(tmp_path / "out"), model)


def test_n_of_m(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path) -> None:
    model = load_model(folder / "dense")
    pruning = Pruning(0.5, 0.2, 0.5, 2, 0.25, "2:4", damping=1e-4, gradients=8, gradient_batch_size=4)
    train_gradually(model, dataset, tokenizer, replace(RECIPE, pruning=pruning), tmp_path)
    for mask in masks(model).values():
        assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_a_training_that_ends_too_early(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    assert RECIPE.pruning is not None
    options = RECIPE.pruning.step_options(10**6, 0)
    callback = GradualPruning(load_model(folder / "dense"), dataset, tokenizer, {2: 0.4, 5: 0.8}, options, 8)
    arguments: Any = None
    callback.on_train_begin(arguments, TrainerState(max_steps=6), TrainerControl())
    with pytest.raises(OptionError, match="step 5, but the training ends after 5 steps"):
        callback.on_train_begin(arguments, TrainerState(max_steps=5), TrainerControl())


def test_what_does_not_fit(
    folder: Path, sparse: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    dense = load_model(folder / "dense")
    less = replace(RECIPE, pruning=Pruning(0.5, 0.4, 0.5, 2, 0.5))
    with pytest.raises(OptionError, match="sparse already"):
        train_gradually(copy.deepcopy(sparse), dataset, tokenizer, less, tmp_path)
    with pytest.raises(ModelError, match="dense"):
        train_gradually(dense, dataset, tokenizer, load_recipe("sparse-transfer"), tmp_path)
    with pytest.raises(OptionError, match="memory"):
        train_gradually(dense, dataset, tokenizer, RECIPE, tmp_path, memory_gb=0)
    odd = replace(RECIPE, pruning=Pruning(0.5, 0.4, 0.5, 2, 0.5, "1x5", block_size=50))
    with pytest.raises(OptionError, match="runs of 5"):
        train_gradually(dense, dataset, tokenizer, odd, tmp_path)
    with pytest.raises(OptionError, match="teacher"):
        train_gradually(dense, dataset.remove_columns("labels"), tokenizer, RECIPE, tmp_path)


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
    assert sparsity_of(masks(model)) == 0.75
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
        assert all(torch.equal(mask, masks(sparse)[key]) for key, mask in masks(model).items())


def test_resuming_on_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["gradual", folder / "dense", "--recipe", "downstream-30", "--epochs", "6", *files(folder)]
    command += ["--teacher", folder / "dense", "--seed", "3"]
    succeed(*command, "-o", tmp_path / "whole")
    with monkeypatch.context() as patch:
        Watch(patch, killed_at=8)
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
        (["--recipe", "downstream-10", "--pattern", "2:4"], "pruning.sparsity must be that"),
        (["--recipe", "sparse-transfer", "--sparsity", "0.6"], "prunes nothing"),
        (["--recipe", "sparse-transfer"], "is dense"),
    ):
        result = run("gradual", folder / "dense", "-o", tmp_path / "no", *options, *files(folder))
        assert result.exit_code == 2, result.output
        assert word in result.stderr
        assert list(tmp_path.iterdir()) == []
