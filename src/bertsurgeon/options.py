"""Options that describe themselves: one help text for the documentation of a class and for the command line.

The fields of a configuration are declared with :func:`option`, and the class is decorated with :func:`documented`::

    @documented
    @dataclass(frozen=True)
    class TrainingConfig:
        "Training options."

        epochs: float = option(3.0, "Passes over the training data.")

``fields(TrainingConfig)`` then holds the help, the choices and the flag of every option in its metadata.
"""

from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from inspect import cleandoc
from textwrap import wrap
from typing import Any, TypeVar

from bertsurgeon.errors import OptionError

C = TypeVar("C", bound=type)

REQUIRED: Any = MISSING
"""Default of an option that must be given."""

LINE_LENGTH = 100


def option(
    default: Any, help: str, *, choices: Sequence[Any] | None = None, flag: str | None = None, cli: bool = True
) -> Any:
    """Declares a dataclass field with its help.

    Args:
        default: Default of the field; :data:`REQUIRED` for none.
        help: What the option does, in one or more sentences; a default of ``None`` is explained here.
        choices: The values that are allowed, if they can be listed.
        flag: Name on the command line, such as ``--dropout/--no-dropout``; None for the field's name with dashes.
        cli: True if the command line offers the option.

    Returns:
        A :func:`dataclasses.field` with the metadata ``help``, ``choices``, ``flag`` and ``cli``. ``flag`` is completed
        by :func:`documented`, as a field has no name before its class exists.
    """
    metadata = {"help": help, "choices": None if choices is None else tuple(choices), "flag": flag, "cli": cli}
    return field(default=default, metadata=metadata)


def documented(cls: C) -> C:
    """Completes a dataclass whose fields are declared with :func:`option`.

    The flags that are not set become the names of the fields with dashes, and the docstring of the class gains an
    "Attributes:" section with the help of every field.

    Raises:
        TypeError: If a field has no help.
    """
    lines = [cleandoc(cls.__doc__ or ""), "", "Attributes:"]
    for each in fields(cls):
        metadata = dict(each.metadata)
        if not metadata.get("help"):
            raise TypeError(f"{cls.__name__}.{each.name} has no help; declare it with bertsurgeon.options.option().")
        if metadata["flag"] is None:
            metadata["flag"] = "--" + each.name.replace("_", "-")
        each.metadata = metadata  # type: ignore[assignment]  # dataclasses reads it only
        text = f"{each.name}: {metadata['help']}"
        if metadata["choices"]:
            text += f" One of {', '.join(map(repr, metadata['choices']))}."
        lines += wrap(text, LINE_LENGTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    cls.__doc__ = "\n".join(lines) + "\n"
    return cls


def check_config(
    config: object, expected: type | tuple[type, ...], verb: str, *, optional: bool = False, model: str = "the model"
) -> None:
    """Checks that the second argument of a public function is its configuration.

    Args:
        config: What was passed.
        expected: Class of the configuration, or several classes.
        verb: Name of the function.
        optional: True if None stands for the defaults.
        model: The first argument, in words.

    Raises:
        OptionError: If it is something else, as in calls with another order of the arguments.
    """
    if isinstance(config, expected) or (optional and config is None):
        return
    classes = expected if isinstance(expected, tuple) else (expected,)
    names = " or ".join(with_article(each.__name__) for each in classes)
    raise OptionError(
        f"{verb} takes {model}, {names}, the data and the tokenizer, in this order; "
        f"{with_article(type(config).__name__)} is not {names}."
    )


def check_not_given(config: Any, missing: str, names: Sequence[str] | None = None) -> None:
    """Refuses options that have no effect without another one.

    Args:
        config: A configuration whose fields are declared with :func:`option`.
        missing: Flag of the option that is missing.
        names: The fields; None for all.

    Raises:
        OptionError: If one of them differs from its default.
    """
    for each in fields(config):
        if (names is None or each.name in names) and getattr(config, each.name) != each.default:
            flag = each.metadata["flag"].partition("/")[0]
            raise OptionError(f"{flag} has no effect without {missing}; give that as well.")


def with_article(name: str) -> str:
    """Returns a name after its indefinite article."""
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
