"""The experiments import and parse their options with the package as it is, and the docs hold their tables."""

import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the scripts' folder on the path, where Python has it when it runs one of them."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 20


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_its_options(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script == "figures":
        pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXPERIMENTS / f"{script}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_recipes_are_valid() -> None:
    from bertsurgeon.gradual import load_recipe

    recipes = sorted((EXPERIMENTS / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert load_recipe(path).distillation.distillation_weight == 1.0


def test_the_tables_of_the_docs_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_docs.py", "--check"])
    import_module("make_docs").main()


def test_the_baseline_hashes_plans() -> None:
    """The same options give the same hash, others another one."""
    from bertsurgeon import AutoConfig, ObertConfig, Sparsity
    from bertsurgeon.tasks import Task, TaskData, tokenize
    from bertsurgeon.testing import toy_classifier

    baseline, models = import_module("baseline"), import_module("lib.models")
    model, tokenizer, texts = toy_classifier()
    task = Task("toy", metrics=("accuracy",), labels=("bad", "good"))
    encoded = tokenize(texts, tokenizer)
    dense = models.TaskModel(model, tokenizer, TaskData(task, texts, texts), encoded, encoded)
    for config in (AutoConfig(Sparsity(0.5), samples=8), ObertConfig(Sparsity(0.5), samples=8)):
        first, second = baseline.measure(dense, config), baseline.measure(dense, config)
        assert first == second
        assert first["sparsity"] == pytest.approx(0.5, abs=0.02)
    sparser = baseline.measure(dense, AutoConfig(Sparsity(0.75), samples=8))
    assert sparser["plan_sha256"] != baseline.measure(dense, AutoConfig(Sparsity(0.5), samples=8))["plan_sha256"]
