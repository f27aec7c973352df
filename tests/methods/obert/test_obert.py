"""The method ``obert`` from end to end: pruning, recovery and the command line."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertsurgeon import (
    AutoConfig,
    ObertConfig,
    Sparsity,
    is_sparse,
    load_model,
    progress,
    prune,
    save_model,
    train,
)
from bertsurgeon.benchmark import measure_sizes
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.layers.masks import encoder_weights, masks_of, sparsity_of
from bertsurgeon.methods.obert.method import round_targets
from bertsurgeon.methods.obert.patterns import Pattern
from bertsurgeon.recovery import TrainingConfig, distilled_loss
from cli_helpers import files, run, succeed, tokenized_texts
from obert_cases import assert_same, config

NAMES = ["bert", "distilbert", "roberta"]

Batches = list[dict[str, Tensor]]

Factory = Callable[..., PreTrainedModel]

LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_encoder_is_pruned(name: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model(name)
    before = copy.deepcopy(model)
    pruned, report = prune(model, config(recomputations=3), tiny_batches)
    assert_same(model, before)
    assert not is_sparse(model)
    assert type(pruned) is type(model)
    assert [type(module) for module in pruned.modules()] == [type(module) for module in model.modules()]
    encoder = {id(weight) for weight in encoder_weights(pruned).values()}
    for key, value in pruned.named_parameters():
        assert torch.equal(value, dict(model.named_parameters())[key]) == (id(value) not in encoder)
    assert report.sparse is not None
    assert report.sparsity == sparsity_of(masks_of(pruned)) == 0.5
    assert (report.sparse.gradients, report.sparse.passes) == (24, 3)
    assert list(report.seconds) == ["round 1", "round 2", "round 3"]
    assert report.to_dict()["encoder_weights"] == {"dense": report.plan.size, "kept": report.plan.size // 2}
    assert measure_sizes(pruned).encoder_weights == report.kept


@pytest.mark.parametrize("rounds", [1, 4, 7])
@pytest.mark.parametrize("pattern", ["unstructured", "1x4", "2:4"])
def test_recomputations_land_on_the_target(
    pattern: str, rounds: int, tiny_model: Factory, tiny_batches: Batches
) -> None:
    pruned, report = prune(tiny_model("bert"), config(pattern=pattern, recomputations=rounds), tiny_batches)
    assert sparsity_of(masks_of(pruned)) == 0.5
    assert len(report.seconds) == (min(rounds, 2) if pattern == "2:4" else rounds)


def test_shares_of_the_rounds() -> None:
    assert round_targets(0.2, 0.8, 3, Pattern.parse("1x4")) == pytest.approx([0.4, 0.6, 0.8])
    assert round_targets(0.0, 0.5, 16, Pattern.parse("2:4")) == [0.25, 0.5]
    assert round_targets(0.0, 0.5, 1, Pattern.parse("4:8")) == [0.5]


def test_sparse_models_are_pruned_further(tiny_model: Factory, tiny_batches: Batches) -> None:
    first, _ = prune(tiny_model("bert"), config(pattern="block"), tiny_batches)
    second, _ = prune(first, config(pattern="block", sparsity=0.75, update="greedy"), tiny_batches)
    assert sparsity_of(masks_of(second)) == 0.75
    assert all(not (mask & ~masks_of(first)[key]).any() for key, mask in masks_of(second).items())
    with pytest.raises(OptionError, match="already"):
        prune(second, config(sparsity=0.6), tiny_batches)
    with pytest.raises(ModelError, match="sparse already"):
        prune(second, AutoConfig(Sparsity(0.5)), tiny_batches)


@pytest.mark.parametrize("pattern", ["unstructured", "1x4", "2:4"])
@pytest.mark.parametrize("name", NAMES)
def test_compensation_keeps_the_masks_and_comes_closer(
    name: str, pattern: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf
) -> None:
    model = tiny_model(name)
    before = copy.deepcopy(model)
    plain, _ = prune(model, config(pattern=pattern), tiny_batches)
    refitted, report = prune(model, config(pattern=pattern, compensation="sequential"), tiny_batches)
    assert_same(model, before)
    assert all(torch.equal(mask, masks_of(plain)[key]) for key, mask in masks_of(refitted).items())
    assert report.sparsity == 0.5
    assert list(report.seconds) == ["round 1", "compensation"]

    def error(pruned: PreTrainedModel) -> float:
        return float(sum((logits_of(pruned, b) - logits_of(model, b)).square().sum() for b in tiny_batches))

    assert error(refitted) < 0.7 * error(plain)


def test_fewer_gradients_than_asked_for(
    tiny_model: Factory, tiny_batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    _, report = prune(tiny_model("bert"), config(), tiny_batches)
    assert report.sparse is not None
    assert report.sparse.gradients == 24
    assert "1024 gradients were requested, the data gives 24" in notes[0]
    notes.clear()
    _, report = prune(tiny_model("bert"), config(samples=24, fisher_batch_size=4), tiny_batches)
    assert report.sparse is not None
    assert report.sparse.gradients == 8  # four of each batch of six, and the two that are left
    assert not any("requested" in note for note in notes)


def test_a_teacher_gives_the_gradients(tiny_model: Factory, tiny_batches: Batches) -> None:
    model, teacher = tiny_model("bert"), tiny_model("bert", num_labels=2)
    with torch.no_grad():
        teacher.classifier.weight.neg_()
    batch = tiny_batches[0]
    seen = {key: value for key, value in batch.items() if key != "labels"}
    p, q = (network(**seen).logits.div(2).softmax(-1) for network in (teacher, model))
    expected = 4 * (p * (p / q).log()).sum()
    assert torch.allclose(distilled_loss(teacher)(model, batch, torch.Generator()), expected, rtol=1e-4)
    unlabelled = [{key: value for key, value in batch.items() if key != "labels"} for batch in tiny_batches]
    taught, _ = prune(model, config(update="woodtaylor", fisher_damping=1e-2), unlabelled, teacher=teacher)
    assert sparsity_of(masks_of(taught)) == 0.5
    with pytest.raises(OptionError, match="woodtaylor"):
        prune(model, config(update="woodtaylor"), unlabelled)
    with pytest.raises(OptionError, match="teacher"):
        prune(model, AutoConfig(Sparsity(0.5)), tiny_batches, teacher=teacher)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"compensation": "independent"}, "one of sequential, none"),
        ({"pattern": "2:4", "sparsity": 0.6}, "2:4"),
        ({"pattern": "circles"}, "circles"),
        ({"score": "magnitude", "update": "greedy"}, "magnitude"),
        ({"update": "all"}, "update must be one of"),
        ({"mask_scope": "layer"}, "mask_scope"),
        ({"fisher_damping": 0.0}, "greater than 0"),
        ({"memory_gb": 0.0}, "greater than 0"),
        ({"recomputations": 0}, "recomputations"),
        ({"fisher_block_size": 0}, "fisher_block_size"),
    ],
)
def test_impossible_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        ObertConfig(Sparsity(options.pop("sparsity", 0.5)), **options)


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 60)


@pytest.mark.parametrize("keep_best", [False, True])
def test_training_leaves_the_zeros(
    keep_best: bool, folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    teacher = load_model(folder / "dense")
    pruned, _ = prune(teacher, config(pattern="1x4", samples=32, sparsity=0.7), dataset, tokenizer)
    before = masks_of(pruned)
    weights = {name: value.clone() for name, value in pruned.named_parameters()}
    options = TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-3, keep_best=keep_best)
    selection = {"validation": dataset} if keep_best else {}
    train(pruned, options, dataset, tokenizer, work_dir=tmp_path / "work", teacher=teacher, **selection)
    after = masks_of(pruned)
    assert all(torch.equal(mask, after[key]) for key, mask in before.items())
    assert any(not torch.equal(value, weights[name]) for name, value in pruned.named_parameters())
    save_model(pruned, tmp_path / "saved")
    assert_same(load_model(tmp_path / "saved"), pruned)


def test_training_is_resumed(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    """The Trainer's own checkpoints are sparse as well, and it reads them forgiving whatever is missing."""
    pruned, _ = prune(load_model(folder / "dense"), config(samples=32), dataset, tokenizer)
    trained, resumed = copy.deepcopy(pruned), copy.deepcopy(pruned)
    options = TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-3)
    train(trained, options, dataset, tokenizer, work_dir=tmp_path)
    assert any(key.endswith(".bitmap") for key in load_file(tmp_path / "checkpoint-8" / "model.safetensors"))
    train(
        resumed, options, dataset, tokenizer, work_dir=tmp_path, resume=True
    )  # there is nothing left to do but to read
    assert_same(resumed, trained)
    assert all(torch.equal(mask, masks_of(pruned)[key]) for key, mask in masks_of(resumed).items())


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sparse"
    result = succeed(
        "prune", folder / "dense", "-o", out, "--method", "obert", "--sparsity", "0.75", "--pattern", "block",
        "--update", "greedy", "--recomputations", "2", "--fisher-damping", "1e-5", "--memory-gb", "0.002",
        "--recover-epochs", "1", *files(folder),
    )  # fmt: skip
    assert "blocks of 1×4: 75.0 %" in result.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["pruning"]["sparsity"] == 0.75
    assert report["pruning"]["sparse"]["passes"] > 2
    assert report["models"]["pruned"]["file_bytes"] < report["models"]["dense"]["file_bytes"]
    shown = json.loads(succeed("inspect", out, "--json").stdout)
    assert shown["plan"] is None
    assert shown["sparse"]["block"] == 4
    assert shown["encoder_weights"] == sum(sum(layer.values()) for layer in shown["sparse"]["kept"]) == 16384 // 4
    assert "25.0 %" in succeed("inspect", out).stdout
    assert "accuracy" in succeed("evaluate", out, *files(folder)).stdout
    recovered = tmp_path / "recovered"
    succeed("recover", out, "-o", recovered, "--teacher", folder / "dense", "--epochs", "1", *files(folder))
    before, after = masks_of(load_model(out)), masks_of(load_model(recovered))
    assert all(torch.equal(mask, after[key]) for key, mask in before.items())
    refused = run("finetune", out, "-o", tmp_path / "no", *files(folder))
    assert (refused.exit_code, refused.stdout) == (2, "")
    again = run("prune", out, "-o", tmp_path / "no", "--sparsity", "0.9", *files(folder))
    assert "sparse already" in again.stderr


def test_texts_and_a_teacher_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    """A teacher that says the same has no gradients to give: the model's own Fisher information decides."""
    (tmp_path / "texts.txt").write_text("the film was fine\nthe old plot\na dull day\n" * 8)
    common = [
        "prune",
        folder / "dense",
        "--method",
        "obert",
        "--sparsity",
        "0.6",
        "--text-file",
        tmp_path / "texts.txt",
    ]
    succeed(*common, "-o", tmp_path / "taught", "--teacher", folder / "dense")
    succeed(*common, "-o", tmp_path / "magnitude", "--score", "magnitude")
    succeed(*common, "-o", tmp_path / "surrogate")
    models = [load_model(tmp_path / name) for name in ("taught", "magnitude", "surrogate")]
    assert_same(models[0], models[2])
    assert any(not torch.equal(mask, masks_of(models[1])[key]) for key, mask in masks_of(models[2]).items())


def test_bad_options_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    for options, word in (
        (["--method", "obert", "--pattern", "3:2"], "3:2"),
        (["--pattern", "2:4"], "obert"),
        (["--teacher", str(folder / "dense")], "--teacher"),
        (["--method", "obert", "--memory-gb", "0.000003"], "memory"),
    ):
        result = run("prune", folder / "dense", "-o", tmp_path / "no", "--sparsity", "0.5", *options, *files(folder))
        assert result.exit_code == 2, result.output
        assert word in result.stderr
        assert not (tmp_path / "no").exists()
