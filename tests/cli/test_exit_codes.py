"""Every class of errors that a user can act on, and every exit code."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer
from huggingface_hub.errors import LocalTokenNotFoundError
from typer.testing import CliRunner

from bertsurgeon import ModelPlan, Sparsity, load_model, verify
from bertsurgeon.cli.app import BAD_INPUT, guarded
from bertsurgeon.cli.interrupts import INTERRUPTED
from bertsurgeon.errors import (
    BertSurgeonError,
    CheckpointError,
    DataError,
    ExportError,
    HubError,
    ModelError,
    OptionError,
    PlanError,
)
from bertsurgeon.runtime import require
from bertsurgeon.tasks import load_user_task
from bertsurgeon.workflows.hub import check_upload
from cli_helpers import run

TRIGGERS: dict[type[BertSurgeonError], Callable[[Path], object]] = {
    OptionError: lambda _: Sparsity(1.5),
    DataError: lambda folder: load_user_task(folder / "absent.csv", folder / "absent.csv"),
    ModelError: lambda folder: load_model(folder / "absent"),
    PlanError: lambda folder: ModelPlan.load(folder / "absent.json"),
    CheckpointError: lambda folder: verify(folder / "absent"),
    ExportError: lambda _: require("no_such_package", "onnx"),
    HubError: lambda _: check_upload("user/model", Mock(whoami=Mock(side_effect=LocalTokenNotFoundError("no token")))),
}


def command(action: Callable[[], object]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @guarded
    def act() -> None:
        action()

    return app


def test_every_class_has_a_trigger() -> None:
    assert set(TRIGGERS) == set(BertSurgeonError.__subclasses__())


@pytest.mark.parametrize("error", TRIGGERS, ids=lambda error: error.__name__)
def test_every_error_is_one_sentence_and_exit_code_2(error: type[BertSurgeonError], tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        TRIGGERS[error](tmp_path)
    assert type(caught.value) is error
    result = CliRunner().invoke(command(lambda: TRIGGERS[error](tmp_path)))
    assert result.exit_code == BAD_INPUT == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line == f"Error: {caught.value}"
    assert line.endswith((".", "]'."))


def test_0_if_nothing_is_wrong() -> None:
    assert run("--version").exit_code == 0
    assert CliRunner().invoke(command(lambda: None)).exit_code == 0


def test_1_with_the_exception_for_a_bug() -> None:
    result = CliRunner().invoke(command(lambda: 1 / 0))
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [("prune", "--no-such-option"), ("no-such-command",), ("verify",)])
def test_2_for_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_130_for_an_interrupt() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(command(interrupt))
    assert result.exit_code == INTERRUPTED == 130
    assert "Interrupted" in result.stderr
