"""What every configuration class of a method has in common: one list of checks for all of them."""

from dataclasses import fields
from typing import Any

import pytest

from bertsurgeon import AutoConfig, CalibrationConfig, ObertConfig, PgbConfig, Sparsity
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.base import PruneConfig
from bertsurgeon.methods.registry import METHODS

CONFIGS: list[type[PruneConfig]] = [method.config for method in METHODS.values()]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_is_documented_once(config: type[PruneConfig]) -> None:
    for each in fields(config):
        assert each.metadata["help"].endswith((".", "…"))
        assert f"{each.name}: " in (config.__doc__ or "")


@pytest.mark.parametrize("config", CONFIGS)
def test_the_budget_comes_first_and_the_rest_has_defaults(config: Any) -> None:
    made = config(Sparsity(0.5))
    assert made.budget == Sparsity(0.5)
    assert made.to_dict() == {**made.to_dict(), "method": config.method, "budget": {"kind": "sparsity", "share": 0.5}}
    with pytest.raises(TypeError):
        config()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"damping": -1e-3}, "damping must be at least 0"),
        ({"damping": float("nan")}, "damping must be at least 0"),
        ({"samples": "a"}, "samples must be a whole number or None, not 'a'."),
        ({"samples": 2.5}, "samples must be a whole number or None, not 2.5."),
        ({"batch_size": None}, "batch_size must be a whole number, not None."),
        ({"damping": "0.1"}, "damping must be a number, not '0.1'."),
        ({"seed": True}, "seed must be a whole number, not True."),
        ({"seed": -1}, "seed must lie between 0 and 4294967295, not -1."),
        ({"seed": 2**32}, "seed must lie between 0 and 4294967295"),
    ],
    ids=str,
)
def test_shared_ranges(config: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        config(Sparsity(0.5), **options)


@pytest.mark.parametrize("config", CONFIGS)
def test_choices_are_checked(config: Any) -> None:
    for each in fields(config):
        if each.metadata["choices"] and not isinstance(each.default, tuple):
            with pytest.raises(OptionError, match=f"{each.name} must be one of {each.metadata['choices'][0]}"):
                config(Sparsity(0.5), **{each.name: "nonsense"})


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (AutoConfig, {"structures": ()}, "structures must be one of"),
        (AutoConfig, {"structures": ("removal", "magic")}, "structures must be one of"),
        (AutoConfig, {"structures": "removal"}, "structures must be a tuple or list of strings, not 'removal'."),
        (AutoConfig, {"structures": ("removal", "removal")}, "structures must name each value once"),
        (AutoConfig, {"structures": [["removal"]]}, "structures must be a tuple or list of strings"),
        (AutoConfig, {"metric": ["fisher"]}, "metric must be a string"),
        (AutoConfig, {"use_labels": 1}, "use_labels must be True or False, not 1."),
        (ObertConfig, {"pattern": None}, "pattern must be a string, not None."),
        (ObertConfig, {"update": 1}, "update must be a string or None, not 1."),
        (ObertConfig, {"score": "magnitude", "fisher_damping": 1e-6}, "fisher_damping has no effect"),
        (ObertConfig, {"score": "magnitude", "memory_gb": 2}, "memory_gb has no effect"),
        (AutoConfig, {"token_weighting": 1.5}, "token_weighting must lie between 0 and 1"),
        (AutoConfig, {"group_chunk": 0}, "group_chunk must be at least 1"),
        (AutoConfig, {"metric": "plain", "use_labels": True}, "use_labels has no effect"),
        (AutoConfig, {"metric": "plain", "token_weighting": 0.9}, "token_weighting has no effect"),
        (AutoConfig, {"fisher_temperature": 0.5}, "fisher_temperature must be finite and at least 1"),
        (AutoConfig, {"fisher_temperature": float("nan")}, "fisher_temperature must be finite and at least 1"),
        (AutoConfig, {"metric": "plain", "fisher_temperature": 4.0}, "fisher_temperature has no effect"),
        (
            AutoConfig,
            {"use_labels": True, "fisher_temperature": 4.0},
            "fisher_temperature has no effect with gradients",
        ),
        (AutoConfig, {"group_chunk": 32}, "group_chunk has no effect"),
        (PgbConfig, {"grouping": "none", "permutation_steps": 3}, "permutation_steps has no effect"),
        (PgbConfig, {"obs_block_size": 16}, "obs_block_size has no effect"),
        (PgbConfig, {"importance": "obs", "obs_damping": 0.0}, "obs_damping must be greater than 0"),
        (ObertConfig, {"score": "magnitude", "fisher_batch_size": 4}, "fisher_batch_size has no effect"),
        (ObertConfig, {"memory_gb": 0.0}, "must be greater than 0"),
        (ObertConfig, {"update": "magic"}, "update must be one of"),
        (ObertConfig, {"compensation": "independent"}, "compensation must be one of sequential, none"),
        (ObertConfig, {"pattern": "1:4"}, "removes a share of 0.75"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(config: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        config(Sparsity(0.5), **options)


def test_lists_become_tuples() -> None:
    assert AutoConfig(Sparsity(0.5), structures=["removal"]).structures == ("removal",)  # type: ignore[arg-type]


def test_the_base_class_is_no_configuration() -> None:
    with pytest.raises(OptionError, match="PruneConfig is the base class; use AutoConfig, PgbConfig or ObertConfig"):
        PruneConfig(Sparsity(0.5))


@pytest.mark.parametrize("options", [{"samples": "a"}, {"seed": -1}, {"structures": "removal"}], ids=str)
def test_options_of_a_calibration(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(options))} must"):
        CalibrationConfig(**options)


def test_a_calibration_needs_no_budget() -> None:
    shared = {each.name for each in fields(CalibrationConfig)}
    assert shared < {each.name for each in fields(AutoConfig)}
    assert "budget" not in shared
