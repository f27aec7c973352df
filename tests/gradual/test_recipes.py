"""Recipes of gradual pruning: reading them, their checks, and the schedules that they describe."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertsurgeon.errors import OptionError
from bertsurgeon.gradual import (
    Distillation,
    LearningRate,
    MaskedLanguageModeling,
    Pruning,
    Quantization,
    Recipe,
    load_recipe,
    packaged_recipes,
    pruning_targets,
    rate_schedule,
)

STEPS = 4
"""Of an epoch: 64 texts in batches of 16."""

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=LearningRate(1e-3, 1e-4, "pruning"),
    pruning=Pruning(0.8, 0.4, start=0.5, end=2, every=0.5, damping=1e-4, gradients=8, gradient_batch_size=4),
)


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
    for rewinds, expected in (("0.25", 0.25), ("2", 2.0), ("none", "none"), ("pruning", "pruning"), ("[1]", (1.0,))):
        file.write_text(GOOD.replace("[2, 2.5]", rewinds))
        assert load_recipe(str(file)).learning_rate.rewinds == expected
    file.write_text(GOOD + "quantization: {start: 2.5, freeze: null}\nmicro_batch_size: 8\nmasked_lm: {}\n")
    recipe = load_recipe(file)
    assert recipe.quantization == Quantization(2.5)
    assert (recipe.micro_batch_size, recipe.masked_lm) == (8, MaskedLanguageModeling(0.15))


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("batch_size: 16", "batch_size: 16\nat_once: 8", "The key at_once is now called micro_batch_size"),
        (
            "epochs: 3",
            "epochs: 3\ndistillation: {hardness: 1}",
            "hardness is now called distillation_weight",
        ),
        ("epochs: 3", "epochs: 3\nquantization:", "quantization has no value; give it one, or remove it"),
        ("epochs: 3", "epochs: 3\n7: 3", "7: Keys should be strings"),
        ("batch_size: 16", "batch_size: true", "batch_size must be a whole number, not True"),
        ("epochs: 3", "epochs: 3\nepoch: 3", "no key epoch; allowed are epochs, batch_size"),
        ("every", "evry", "no key pruning.evry; allowed are sparsity, first_sparsity"),
        ("batch_size: 16", "", "batch_size is missing"),
        (", every: 0.5", "", "pruning.every is missing"),
        ("sparsity: 0.8", "sparsity: high", "pruning.sparsity must be a number, not 'high'"),
        ("sparsity: 0.8", "sparsity: true", "pruning.sparsity must be a number, not True"),
        ("batch_size: 16", "batch_size: 1.5", "batch_size must be a whole number"),
        ("batch_size: 16", "batch_size: 0", "batch_size must be at least 1"),
        ("batch_size: 16", "batch_size: 16\nweight_decay: -1", "weight_decay must be at least 0"),
        ("every: 0.5", "every: 0.5, update: best", "pruning.update must be one of 'obert', 'greedy'"),
        ("every: 0.5", "every: 0.5, pattern: 4", "pruning.pattern must be a string"),
        ("every: 0.5", "every: 0.5, pattern: 4x1", "pattern must be"),
        ("every: 0.5", "every: 0.5, pattern: '2:4'", "pruning.sparsity must be 0.5"),
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
        ("[2, 2.5]", "[two]", "learning_rate.rewinds must be none, pruning"),
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


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (GOOD, "{text}"),
        ("epochs: 3", "epochs: {text}"),
        ("[2, 2.5]", "{text}"),
        ("epochs: 3", "epochs: 3\ndistillation: {text}"),
    ],
)
def test_wrong_values_are_shortened(good: str, bad: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(GOOD.replace(good, bad.format(text="word " * 1000)))
    with pytest.raises(OptionError, match=r"not 'word word .*…\.") as error:
        load_recipe(file)
    assert str(error.value).count("word") <= 12


def test_unknown_keys_are_shortened(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"{'word ' * 100}: 1\n")
    with pytest.raises(OptionError, match=r"no key word word .*…;") as error:
        load_recipe(file)
    assert str(error.value).count("word") <= 12


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
    assert 1e-3 * factor(12) == pytest.approx(1e-4)  # the Trainer reads it after the last step


# sections


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: MaskedLanguageModeling(0), "masked_lm.probability"),
        (lambda: MaskedLanguageModeling(1), "masked_lm.probability"),
        (lambda: replace(RECIPE, micro_batch_size=5), "micro_batch_size must divide batch_size, 16"),
        (lambda: replace(RECIPE, micro_batch_size=0), "micro_batch_size must divide"),
    ],
)
def test_bad_sections(change: Callable[[], Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        change()


def test_the_upstream_recipe() -> None:
    recipe = load_recipe("upstream")
    assert recipe.masked_lm == MaskedLanguageModeling(0.15)
    assert recipe.pruning is not None
    assert recipe.pruning.epochs == pytest.approx([number / 4 for number in range(12)])
    assert recipe.learning_rate == LearningRate(5e-4, 5e-6, 0.25)
    assert recipe.distillation == Distillation(1.0, 5.5)


def test_the_int8_recipes() -> None:
    assert {"int8", "downstream-30-int8"} <= set(packaged_recipes())
    recipe = load_recipe("downstream-30-int8")
    assert recipe.pruning is not None
    assert (recipe.pruning.pattern, recipe.quantization) == ("1x4", Quantization(28, 29))
    assert load_recipe("int8").pruning is None
