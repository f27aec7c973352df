"""The table of methods: a fourth one is a folder (``fourth``) and the line that puts it into the table."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from bertsurgeon import (
    AutoConfig,
    Calibration,
    PgbConfig,
    Sparsity,
    calibrate,
    get_plan,
    load_model,
    prepare_for_inference,
    prune,
)
from bertsurgeon.cli.app import guarded_together
from bertsurgeon.cli.prune import make_prune_command
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.registry import METHODS, get_method
from bertsurgeon.testing import toy_classifier
from cli_helpers import write_data, write_model

sys.path.insert(0, str(Path(__file__).parent))
from fourth.config import ZeroConfig
from fourth.method import ZERO


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "zero", ZERO)


@pytest.mark.usefixtures("fourth")
def test_a_fourth_method_prunes() -> None:
    model, tokenizer, texts = toy_classifier()
    pruned, report = prune(model, ZeroConfig(Sparsity(0.2)), list(texts["text"]), tokenizer)
    plan = get_plan(pruned)
    assert plan == report.plan
    assert plan is not None
    assert plan.layers[1].is_dropped("feed_forward")
    assert not plan.layers[0].is_dropped("feed_forward")
    assert report.to_dict()["config"]["method"] == "zero"


@pytest.mark.usefixtures("fourth")
def test_a_fourth_method_is_on_the_command_line(tmp_path: Path) -> None:
    write_model(tmp_path / "dense")
    train, validation = (write_data(tmp_path / f"{name}.csv", 32, seed) for seed, name in enumerate(("train", "val")))
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("prune")(guarded_together(make_prune_command(METHODS)))
    help_text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "260"}).stdout
    assert "--first-layer" in help_text
    assert "zero: drops feed-forward parts" in help_text
    options = ["--train-file", train, "--validation-file", validation, "--method", "zero", "--sparsity", "0.2"]
    command = [str(tmp_path / "dense"), "-o", str(tmp_path / "out"), *map(str, options)]
    refused = CliRunner().invoke(app, [*command, "--max-groups", "3"])
    assert refused.exit_code == 2
    assert "--max-groups is an option of the method pgb, not of zero." in refused.stderr
    result = CliRunner().invoke(app, [*command, "--first-layer", "1"])
    assert result.exit_code == 0, result.stderr
    assert get_plan(load_model(tmp_path / "out")) is not None


def test_prune_says_which_argument_is_the_configuration() -> None:
    model, tokenizer, texts = toy_classifier()
    wrong: Any = prune
    with pytest.raises(OptionError, match="the model, a configuration"):
        wrong(model, list(texts["text"]), AutoConfig(Sparsity(0.5)), tokenizer)


def test_what_a_method_has_no_use_for_is_refused() -> None:
    model, tokenizer, texts = toy_classifier()
    data = list(texts["text"])
    with pytest.raises(OptionError, match="pgb uses no teacher"):
        prune(model, PgbConfig(Sparsity(0.5)), data, tokenizer, teacher=model)
    calibration = calibrate(model, AutoConfig(Sparsity(0.5)), data, tokenizer)
    assert isinstance(calibration, Calibration)
    with pytest.raises(OptionError, match="has no use for a calibration"):
        prune(model, PgbConfig(Sparsity(0.5)), calibration)


@pytest.mark.parametrize("name", METHODS)
def test_the_callers_random_numbers_stay_as_they_are(name: str) -> None:
    model, tokenizer, texts = toy_classifier()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    config = METHODS[name].config(Sparsity(0.5), samples=16)
    assert get_method(config) is METHODS[name]
    prune(model, config, list(texts["text"]), tokenizer)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_prepared_for_inference_is_pruned_like_any_other(name: str) -> None:
    model, tokenizer, texts = toy_classifier()
    config, data = METHODS[name].config(Sparsity(0.5), samples=16), list(texts["text"])
    expected, report = prune(model, config, data, tokenizer)
    prepared = prepare_for_inference(copy.deepcopy(model))
    pruned, same = prune(prepared, config, data, tokenizer)
    assert same.plan == report.plan
    for key, value in expected.state_dict().items():
        assert torch.equal(pruned.state_dict()[key], value), key
