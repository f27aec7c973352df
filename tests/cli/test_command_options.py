"""Command-line options that are made from configuration classes."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from bertsurgeon import AutoConfig, Flops, Groups, ObertConfig, PgbConfig, Sparsity, Speedup, Threshold
from bertsurgeon.cli import options as opt
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.registry import METHODS
from bertsurgeon.options import REQUIRED, documented, option


@documented
@dataclass(frozen=True)
class Example:
    """Options of all types."""

    level: Literal["low", "high"] = option("low", "How much.", choices=("low", "high"))
    sizes: tuple[int, ...] = option((1, 8), "Several numbers.", flag="--size")
    names: tuple[str, ...] = option(("a", "b"), "Several names.")
    rate: float | None = option(None, "A number, or nothing.")
    folder: Path | None = option(None, "A folder.")
    fast: bool = option(False, "A switch.")
    both: bool | None = option(None, "A switch with two sides.", flag="--both/--no-both")
    hidden: int = option(3, "No option.", cli=False)


@documented
@dataclass(frozen=True)
class Needy:
    """Options beside a value that the command computes."""

    value: int = option(REQUIRED, "Computed.", cli=False)
    factor: int = option(2, "Multiplies it.")


@pytest.fixture
def invoke() -> Callable[..., Any]:
    """Runs a command with one option group of each kind, which prints what it is passed."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @opt.expand
    def command(
        *,
        example: Annotated[Example, opt.Panel("Example", without=("rate",))],
        make_needy: Annotated[Needy, opt.Panel("Needy")],
        plain: Annotated[int, typer.Option("--plain")] = 7,
    ) -> None:
        make: Any = make_needy
        typer.echo(json.dumps({**asdict(example), **asdict(make(5)), "plain": plain}, default=str))

    return lambda *arguments: CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


def test_defaults_are_those_of_the_class(invoke: Callable[..., Any]) -> None:
    expected = {**asdict(Example()), "sizes": [1, 8], "names": ["a", "b"], "value": 5, "factor": 2, "plain": 7}
    assert json.loads(invoke().stdout) == expected


def test_what_is_typed_reaches_the_class(invoke: Callable[..., Any]) -> None:
    arguments = ["--level", "high", "--size", "4,16", "--names", "x", "--folder", "here", "--fast", "--no-both"]
    result = json.loads(invoke(*arguments, "--factor", "3", "--plain", "1").stdout)
    assert (result["level"], result["sizes"], result["names"]) == ("high", [4, 16], ["x"])
    assert (result["folder"], result["fast"], result["both"]) == ("here", True, False)
    assert (result["factor"], result["plain"], result["hidden"], result["rate"]) == (3, 1, 3, None)


def test_options_that_do_not_exist(invoke: Callable[..., Any]) -> None:
    for name in ("--hidden", "--rate", "--value", "--example"):
        assert invoke(name, "1").exit_code == 2


def test_help_comes_from_the_class(invoke: Callable[..., Any]) -> None:
    text = invoke("--help").stdout
    for words in ("How much. One of low, high.", "Several numbers.", "[default: 1,8]", "--no-both", "Example", "Needy"):
        assert words in text


def test_numbers_that_are_none(invoke: Callable[..., Any]) -> None:
    error = invoke("--size", "1,x").exception
    assert isinstance(error, OptionError)
    assert str(error) == "--size must be numbers separated by commas, such as 1,8, not '1,x'."


OPTIONS = opt.MethodOptions(METHODS)


@pytest.mark.parametrize(
    ("method", "values", "expected"),
    [
        ("auto", {"sparsity": "0.5"}, [AutoConfig(Sparsity(0.5), seed=4)]),
        ("auto", {"sparsity": "0.5,0.75"}, [AutoConfig(Sparsity(0.5), seed=4), AutoConfig(Sparsity(0.75), seed=4)]),
        ("auto", {"flops": "0.5", "flops_length": 64}, [AutoConfig(Flops(0.5, 64), seed=4)]),
        (
            "auto",
            {"speedup": "2", "speedup_runtime": "onnx", "speedup_precision": "int8", "structures": "removal,groups"},
            [AutoConfig(Speedup(2, "onnx", "int8"), structures=("removal", "groups"), seed=4)],
        ),
        ("pgb", {"threshold": "1e-5", "grouping": "assign"}, [PgbConfig(Threshold(1e-5), grouping="assign", seed=4)]),
        ("pgb", {"groups": "2,3"}, [PgbConfig(Groups(2), seed=4), PgbConfig(Groups(3), seed=4)]),
        (
            "obert",
            {"sparsity": "0.9", "compensation": "none", "samples": 64},
            [ObertConfig(Sparsity(0.9), compensation="none", samples=64, seed=4)],
        ),
    ],
    ids=str,
)
def test_configurations_from_options(method: str, values: dict[str, Any], expected: list[Any]) -> None:
    assert OPTIONS.configs(method, values, seed=4) == expected


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("magic", {"sparsity": "0.5"}, "method must be one of auto, pgb, obert, not 'magic'"),
        ("auto", {}, "Name a budget, such as --sparsity 0.5.*--flops, --speedup.*'bertsurgeon compress'"),
        ("auto", {"sparsity": "0.5", "flops": "0.5"}, "exactly one budget"),
        ("auto", {"sparsity": "half"}, "--sparsity must be a number"),
        ("auto", {"sparsity": "0.5,0.50"}, "twice"),
        ("pgb", {"groups": "2.5"}, "--groups must be a number"),
        ("auto", {"sparsity": "0.5", "speedup_length": 64}, "--speedup-length has no effect without --speedup"),
        (
            "auto",
            {"threshold": "1e-5"},
            "--threshold is not a budget of the method auto, which takes --sparsity or --flops",
        ),
        ("auto", {"sparsity": "0.5", "max_groups": 6}, "--max-groups is an option of the method pgb, not of auto"),
        ("auto", {"sparsity": "0.5", "compensation": "none"}, "of the methods pgb and obert, not of auto"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other(method: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        OPTIONS.configs(method, values, seed=0)


def test_options_have_distinct_names() -> None:
    names = [parameter.name for parameter in OPTIONS.parameters()]
    assert len(names) == len(set(names))
    assert {"sparsity", "speedup_runtime", "max_groups", "fisher_damping", "structures", "samples"} <= set(names)
