"""Layer drop: which layers are kept, and that the result is a stock model made of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import architecture_cases
from bertsurgeon import LayerDropConfig, ObertConfig, PgbConfig, Sparsity, drop_layers, is_sparse, load_model, prune
from bertsurgeon.architectures import Encoder, get_architecture
from bertsurgeon.checkpoint import load_as_saved
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.layer_drop import choose_layers
from bertsurgeon.layers.masks import masks_of
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.recovery.distillation import outputs_loss
from bertsurgeon.tasks import head_of, tokenize
from cli_helpers import files, run, succeed, write_model
from conftest import make_config

NAMES = ["bert", "distilbert", "roberta"]
HEADS = (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


@pytest.mark.parametrize(
    ("strategy", "total", "keep", "layers"),
    [
        ("alternate", 12, 6, [0, 2, 4, 7, 9, 11]),
        ("alternate", 12, 3, [0, 6, 11]),
        ("alternate", 6, 3, [0, 2, 5]),
        ("alternate", 3, 1, [0]),
        ("first", 12, 3, [0, 1, 2]),
        ("last", 12, 3, [9, 10, 11]),
        ("symmetric", 12, 6, [0, 1, 2, 9, 10, 11]),
        ("symmetric", 6, 3, [0, 1, 5]),
    ],
)
def test_strategies(strategy: str, total: int, keep: int, layers: list[int]) -> None:
    assert choose_layers(total, keep, strategy) == layers  # type: ignore[arg-type]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_a_stock_model_made_of_the_layers(
    name: str, head: Any, tiny_batches: Batches, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = head.from_config(make_config(name)).eval()
    smaller, kept = drop_layers(model, LayerDropConfig(2))
    assert kept == [0, 2]
    assert type(smaller) is type(model)
    assert smaller.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 3
    smaller.save_pretrained(tmp_path)
    architecture = get_architecture(name)
    Encoder(model).base.get_submodule(architecture.encoder).pop(1)  # type: ignore[operator]
    for again in (type(model).from_pretrained(tmp_path), load_as_saved(tmp_path)):
        assert type(again) is type(model)
        for batch in tiny_batches:
            with torch.no_grad():
                expected, logits = (one(**inputs_of(batch))[0] for one in (model, again.eval()))
            assert torch.equal(logits, expected)


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_do_little_are_not_important(name: str, tiny_model: Factory, tiny_batches: Batches) -> None:
    """All but one layer are made to do next to nothing; the other one stays, wherever it is."""
    for busy in range(3):
        model = tiny_model(name)
        architecture = get_architecture(name)
        with torch.no_grad():
            for layer in {0, 1, 2} - {busy}:
                for role in ("attention_output", "output"):
                    matrix = Encoder(model).matrix(layer, role)  # type: ignore[arg-type]
                    for parameter in matrix.parameters():
                        parameter.mul_(1e-3)
                for norm in architecture.norms.values():
                    Encoder(model).layers[layer].get_submodule(norm).weight.fill_(1)
                    Encoder(model).layers[layer].get_submodule(norm).bias.zero_()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        config = LayerDropConfig(1, "importance")
        assert drop_layers(model, config, tiny_batches).layers == [busy]
        assert drop_layers(model.base_model, config, tiny_batches).layers == [busy]
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert model.config.num_hidden_layers == len(Encoder(model).layers) == 3


def test_importance_for_token_classifiers(tiny_batches: Batches) -> None:
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(make_config("bert", num_labels=4)).eval()
    assert len(drop_layers(model, LayerDropConfig(2, "importance"), tiny_batches).layers) == 2


def test_importance_is_measured_on_predictions(tiny_batches: Batches) -> None:
    """Labels that are predicted independently: a shift of all logits alike changes every one of them."""
    torch.manual_seed(0)
    settings = {"num_labels": 5, "problem_type": "multi_label_classification"}
    model = AutoModelForSequenceClassification.from_config(make_config("bert", **settings)).eval()
    inputs = [inputs_of(batch) for batch in tiny_batches]
    head = head_of(model)
    losses = {}
    with torch.no_grad():
        for kept in ([1, 2], [0, 2], [0, 1]):
            smaller = drop_layers(model, LayerDropConfig(kept)).model
            losses[tuple(kept)] = sum(
                float(outputs_loss(head, smaller(**batch), model(**batch), batch, 1.0)) * len(batch["input_ids"])
                for batch in inputs
            )
    expected = list(min(losses, key=losses.__getitem__))
    assert drop_layers(model, LayerDropConfig(2, "importance"), tiny_batches).layers == expected


def test_a_first_layer_that_is_special_stays() -> None:
    """ModernBERT's has no norm before its attention; no other can be loaded in its place."""
    model = architecture_cases.make_model(AutoModelForSequenceClassification, "modernbert", num_hidden_layers=4)
    batches = architecture_cases.make_batches("modernbert")
    for config in (LayerDropConfig(2, "last"), LayerDropConfig([1, 2])):
        with pytest.raises(OptionError, match="keep layer 0"):
            drop_layers(model, config)
    for strategy in ("first", "alternate", "symmetric"):
        assert drop_layers(model, LayerDropConfig(2, strategy)).layers[0] == 0  # type: ignore[arg-type]
    assert drop_layers(model, LayerDropConfig(1, "importance"), batches).layers == [0]


def test_importance_on_texts(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Texts, with or without a dataset around them, are measured like their tokens."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "dense").eval()
    texts = ["the film was lovely and warm", "a dull plot", "cold and grim", "it was a fine day with the new film"]
    tokenized = tokenize(Dataset.from_dict({"text": texts}), tokenizer)
    config = LayerDropConfig(1, "importance")
    results = [drop_layers(model, config, data, tokenizer).layers for data in (texts, tokenized)]
    assert results[0] == results[1]
    with pytest.raises(OptionError, match="pass the tokenizer"):
        drop_layers(model, config, texts)


def test_then_pruned(tiny_model: Factory, tiny_batches: Batches) -> None:
    for method in ("auto", "pgb", "obert"):
        smaller = drop_layers(tiny_model("bert"), LayerDropConfig(2)).model
        pruned, report = prune(smaller, METHODS[method].config(Sparsity(0.5), samples=24), tiny_batches)
        assert len(report.plan.layers) == 2
        assert pruned.config.num_hidden_layers == 2


def test_sparse_models_stay_sparse(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    config = ObertConfig(Sparsity(0.5), score="magnitude", pattern="1x4")
    sparse, _ = prune(tiny_model("bert"), config, tiny_batches)
    smaller = drop_layers(sparse, LayerDropConfig([1, 2])).model
    smaller.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert is_sparse(again)
    masks = [masks_of(model) for model in (sparse, again)]
    assert all(torch.equal(mask, masks[0][key[0] + 1, *key[1:]]) for key, mask in masks[1].items())


def test_what_cannot_be_dropped(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    for keep in (0, 3, [], [0, 0], [2, 1], [0, 3], [0, 1, 2]):
        with pytest.raises(OptionError, match=r"layers"):
            drop_layers(model, LayerDropConfig(keep))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="one of alternate, first"):
        LayerDropConfig(2, "best")  # type: ignore[arg-type]
    for config, data, words in (
        (LayerDropConfig(2, "importance"), None, "needs texts"),
        (LayerDropConfig(2, "first"), tiny_batches, "Only the strategy importance uses texts"),
        (LayerDropConfig([0], "importance"), tiny_batches, "Only the strategy importance uses texts"),
    ):
        with pytest.raises(OptionError, match=words):
            drop_layers(model, config, data)
    pruned, _ = prune(model, PgbConfig(Sparsity(0.5), samples=24), tiny_batches)
    with pytest.raises(ModelError, match="drop layers first"):
        drop_layers(pruned, LayerDropConfig(2))


# the command line


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    for number, options in enumerate((["--keep", "1"], ["--layers", "0"], ["--keep", "1", "--strategy", "first"])):
        out = tmp_path / str(number)
        shown = succeed("drop-layers", folder / "dense", *options, "-o", out).stdout
        assert "layers 0 of 2, 8,192 of 16,384 encoder weights" in shown
        model = load_model(out)
        assert type(model).from_pretrained(out).num_parameters() == model.num_parameters()
        assert json.loads((out / "layer_drop.json").read_text())["layers"] == [0]
    texts = ["--strategy", "importance", *files(folder), "--samples", "20", "--json"]
    result = json.loads(
        succeed("drop-layers", folder / "dense", "--keep", "1", *texts, "-o", tmp_path / "texts").stdout
    )
    assert result["of"] == 2
    assert result["layers"] in ([0], [1])
    options = ["--recipe", "downstream-10", "--epochs", "1", *files(folder)]
    succeed("gradual", tmp_path / "texts", "-o", tmp_path / "gradual", *options)
    assert load_model(tmp_path / "gradual").config.num_hidden_layers == 1


def test_bad_options_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    for options, words in (
        ([], "--keep 6"),
        (["--keep", "1", "--layers", "0"], "one of them"),
        (["--layers", "first"], "--layers must be numbers"),
        (["--keep", "2"], "at most 1"),
        (["--keep", "1", *files(folder)], "Only the strategy importance uses texts"),
        (["--keep", "1", "--strategy", "importance"], "needs texts"),
    ):
        result = run("drop-layers", folder / "dense", *options, "-o", tmp_path / "no")
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_model_that_lacks_a_tensor(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "broken")
    state = load_file(tmp_path / "broken" / "model.safetensors")
    del state["bert.encoder.layer.0.output.dense.bias"]
    save_file(state, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"output\.dense\.bias is missing"):
        load_as_saved(tmp_path / "broken")
