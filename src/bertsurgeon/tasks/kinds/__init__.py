"""Kinds of tasks: one object each that knows all that depends on the kind."""

from collections.abc import Iterable
from typing import Any

from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.tasks.kinds.base import Kind, Outputs, Prediction
from bertsurgeon.tasks.kinds.question import QuestionAnswering
from bertsurgeon.tasks.kinds.sequence import Classification, MultiLabel, Regression
from bertsurgeon.tasks.kinds.token import TokenClassification

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (MultiLabel(), Regression(), Classification(), TokenClassification(), QuestionAnswering())
}
"""By name; of those that share a model class, the first one that fits a configuration is taken."""

CLASSIFICATION, REGRESSION = KINDS["classification"], KINDS["regression"]


def get_kind(name: str) -> Kind:
    """The kind called ``name``.

    Raises:
        OptionError: If there is none; the sentence lists those there are.
    """
    try:
        return KINDS[name]
    except KeyError:
        raise OptionError(f"There is no task type {name!r}; choose one of {', '.join(sorted(KINDS))}.") from None


def find_kind(names: Iterable[str], config: Any) -> Kind | None:
    """The kind of the first model class that is for a task; None if none is.

    Args:
        names: Of model classes.
        config: Of a model.
    """
    for name in names:
        for kind in KINDS.values():
            if name.endswith(kind.class_ending) and kind.fits(config):
                return kind
    return None


def class_names(model: Any) -> list[str]:
    """What a model is, or was before it was exported."""
    return [type(model).__name__, *(getattr(model.config, "architectures", None) or ())]


def kind_of(model: Any) -> Kind:
    """The kind of task a model has a head for.

    Args:
        model: Of transformers, or exported.

    Raises:
        ModelError: If it has a head for none.
    """
    names = class_names(model)
    kind = find_kind(names, model.config)
    if kind is None:
        endings = sorted({kind.class_ending for kind in KINDS.values()})
        raise ModelError(
            f"A {names[0]} has no head for a task; load a model whose class ends in {' or '.join(endings)}."
        )
    return kind


__all__ = [
    "CLASSIFICATION",
    "KINDS",
    "REGRESSION",
    "Classification",
    "Kind",
    "MultiLabel",
    "Outputs",
    "Prediction",
    "QuestionAnswering",
    "Regression",
    "TokenClassification",
    "class_names",
    "find_kind",
    "get_kind",
    "kind_of",
]
