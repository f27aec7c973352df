"""Reading of recipes: packaged ones by name, and a user's YAML files, with errors as one sentence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from bertsurgeon.errors import OptionError
from bertsurgeon.files import check_depth
from bertsurgeon.gradual.recipes import Recipe

PACKAGED = files("bertsurgeon.gradual") / "recipes"
SUFFIX = ".yaml"

MAX_BYTES = 2**18
"""Size of the largest recipe; those of the package have about a thousand bytes."""

MAX_PARTS = 5_000
"""Most lists or sections in a recipe."""

SHOWN_LENGTH = 60
"""Most characters of a wrong value that an error shows."""

RENAMED_KEYS = {"hardness": "distillation_weight", "at_once": "micro_batch_size"}
"""Keys of version 0.1.0, and what they are called now."""


class _Loader(yaml.SafeLoader):
    """Reads 1e-7 as a number, as YAML 1.2 does; in PyYAML's YAML 1.1 it is a string, as it has no point."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """Returns a section, whose keys must differ; PyYAML would take the last of two equal ones."""
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice} is there twice", node.start_mark)
    content: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return content


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def packaged_recipes() -> list[str]:
    """Returns the names of the recipes in the package."""
    return sorted(file.name.removesuffix(SUFFIX) for file in PACKAGED.iterdir() if file.name.endswith(SUFFIX))


def load_recipe(name: str | Path) -> Recipe:
    """Reads a recipe.

    Args:
        name: Name of a packaged recipe, or path of a YAML file.

    Raises:
        OptionError: If there is no such recipe, or it is not valid; the message names the file and the key.
    """
    packaged = packaged_recipes()
    file = PACKAGED / f"{name}{SUFFIX}" if str(name) in packaged else Path(name)
    if not file.is_file():
        raise OptionError(f"There is no recipe {name}; name a YAML file, or one of {', '.join(packaged)}.")
    try:
        content = _read_yaml(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise OptionError(f"{name} cannot be read as YAML: {problem.rstrip('.')[:400]}.") from error
    try:
        for key in content if isinstance(content, dict) else ():
            if content[key] is None:  # pydantic would take an empty section for one that is left out
                raise OptionError(f"The key {key} has no value; give it one, or remove it.")
        return TypeAdapter(Recipe).validate_python(content)
    except ValidationError as error:
        raise OptionError(f"The recipe {name} is not valid: {_explain(error.errors())}") from error
    except OptionError as error:
        raise OptionError(f"The recipe {name} is not valid: {error}") from error


def _read_yaml(file: Any) -> Any:
    """Returns the content of a YAML file within bounds.

    Raises:
        YAMLError: If it is no YAML, or holds a tag that makes objects.
        ValueError: If it is too large or nested too deeply, with aliases counted each time, or a value is invalid.
    """
    with file.open("rb") as stream:
        text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES // 2**10} kB")
    if max(text.count(mark) for mark in (b"[", b"{", b"- ")) > MAX_PARTS:
        raise ValueError(f"it holds more than {MAX_PARTS:,} lists or sections")
    content = yaml.load(text.decode("utf-8"), Loader=_Loader)
    check_depth(content)
    return content


def _explain(errors: Sequence[Mapping[str, Any]]) -> str:
    """Returns one sentence about the first of pydantic's errors; unknown keys, often misspelled ones, come first."""
    error = min(errors, key=lambda each: each["type"] != "unexpected_keyword_argument")
    kind, location = error["type"], [str(part) for part in error["loc"]]
    shown = _shorten(repr(error["input"]))
    section, key = location[:-1], ".".join(location)
    if kind == "unexpected_keyword_argument":
        if location[-1] in RENAMED_KEYS:
            return f"The key {key} is now called {RENAMED_KEYS[location[-1]]}."
        return f"There is no key {_shorten(key)}; allowed are {_allowed_keys(section)}."
    if kind in ("missing", "missing_argument"):
        return f"The key {key} is missing."
    if kind == "dataclass_type":
        subject = f"The section {key}" if location else "It"
        return f"{subject} must hold keys with values, of {_allowed_keys(location)}, not {shown}."
    if location[:2] == ["learning_rate", "rewinds"]:
        return (
            "learning_rate.rewinds must be none, pruning, a number of epochs between rewinds, or a list of epochs, not "
            f"{shown}."
        )
    expected = {"float_type": "a number", "int_type": "a whole number", "string_type": "a string"}
    if kind == "literal_error":
        expected[kind] = f"one of {error['ctx']['expected']}"
    return f"{key} must be {expected[kind]}, not {shown}." if kind in expected else f"{key}: {error['msg']}."


def _shorten(text: str) -> str:
    """Returns a text of at most ``SHOWN_LENGTH`` characters."""
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 1]}…"


def _allowed_keys(section: Sequence[str]) -> str:
    """Returns the names of the keys of a section, of the whole recipe for an empty path."""
    hint = get_type_hints(Recipe)[section[0]] if section else Recipe
    kind = next(each for each in (hint, *get_args(hint)) if is_dataclass(each))  # a section may be X | None
    return ", ".join(each.name for each in fields(kind))
