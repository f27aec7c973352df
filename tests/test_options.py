"""Options that describe themselves: metadata, flags, and the docstring made of them."""

import inspect
from dataclasses import dataclass, fields

import pytest

from bertsurgeon.options import REQUIRED, documented, option


@documented
@dataclass(frozen=True)
class Example:
    """An example.

    A second paragraph.
    """

    model_name: str = option(REQUIRED, "Name of the model.")
    update: str = option("none", "Update of the remaining weights.", choices=("obert", "none"))
    dropout: bool | None = option(None, "Whether dropout is on.", flag="--dropout/--no-dropout")
    seed: int = option(0, "Fixes every random choice, " + "and more, " * 20 + "and the last.", cli=False)


def test_defaults_are_those_of_the_fields() -> None:
    with pytest.raises(TypeError, match="model_name"):
        Example()  # type: ignore[call-arg]
    assert Example("bert") == Example("bert", "none", None, 0)


def test_metadata() -> None:
    metadata = {each.name: each.metadata for each in fields(Example)}
    assert [each["flag"] for each in metadata.values()] == [
        "--model-name",
        "--update",
        "--dropout/--no-dropout",
        "--seed",
    ]
    assert [each["cli"] for each in metadata.values()] == [True, True, True, False]
    assert metadata["update"]["choices"] == ("obert", "none")
    assert metadata["model_name"]["choices"] is None
    assert metadata["dropout"]["help"] == "Whether dropout is on."


def test_the_docstring_lists_every_field() -> None:
    doc = inspect.getdoc(Example)
    assert doc is not None
    lines = doc.splitlines()
    assert lines[:5] == ["An example.", "", "A second paragraph.", "", "Attributes:"]
    assert lines[5:8] == [
        "    model_name: Name of the model.",
        "    update: Update of the remaining weights. One of 'obert', 'none'.",
        "    dropout: Whether dropout is on.",
    ]
    assert lines[8].startswith("    seed: Fixes")
    assert all(line.startswith(" " * 8) for line in lines[9:])
    assert lines[-1].endswith("and the last.")


def test_a_field_without_help_is_refused() -> None:
    @dataclass
    class Silent:
        epochs: float = 3.0

    with pytest.raises(TypeError, match=r"Silent\.epochs has no help"):
        documented(Silent)
