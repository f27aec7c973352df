"""Kinds of tasks: one object each that knows all that depends on the kind."""

from collections.abc import Iterable
from typing import Any

from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.tasks.types.base import Head, Outputs, Prediction, TaskType
from bertsurgeon.tasks.types.embedding import Embedding
from bertsurgeon.tasks.types.other import ImageClassification, LanguageModel, MaskedLanguageModel
from bertsurgeon.tasks.types.question import QuestionAnswering
from bertsurgeon.tasks.types.sequence import Classification, MultiLabel, Regression
from bertsurgeon.tasks.types.token import TokenClassification

TASK_TYPES: dict[str, TaskType] = {
    kind.name: kind
    for kind in (MultiLabel(), Regression(), Classification(), TokenClassification(), QuestionAnswering(), Embedding())
}
"""By name; of those that share model classes, the first one that fits a configuration is taken."""

CLASSIFICATION, REGRESSION = TASK_TYPES["classification"], TASK_TYPES["regression"]


def get_task_type(name: str) -> TaskType:
    """The kind called ``name``.

    Raises:
        OptionError: If there is none; the sentence lists those there are.
    """
    try:
        return TASK_TYPES[name]
    except KeyError:
        raise OptionError(f"There is no task type {name!r}; choose one of {', '.join(sorted(TASK_TYPES))}.") from None


HEADS: tuple[Head, ...] = (*TASK_TYPES.values(), ImageClassification(), LanguageModel(), MaskedLanguageModel())
"""Of the kinds, and others that are no tasks of ours."""


def class_names(model: Any) -> list[str]:
    """What a model is, or was before it was exported."""
    return [type(model).__name__, *(getattr(model.config, "architectures", None) or ())]


def find_head(names: Iterable[str], config: Any) -> Head | None:
    """The head of the first model class that has one; None if none has.

    Args:
        names: Of model classes.
        config: Of a model.
    """
    for name in names:
        for head in HEADS:
            if name.endswith(head.class_endings) and head.fits(config):
                return head
    return None


def class_labels(config: Any) -> tuple[str, ...] | None:
    """The names of a model's classes in the order of its outputs; None where it has none but ``LABEL_0`` and so on."""
    known = getattr(config, "id2label", None) or {}
    names = tuple(str(known[code]) for code in sorted(known))
    generic = all(name == f"LABEL_{code}" for code, name in enumerate(names))
    return None if generic or len({name.casefold() for name in names}) < len(names) else names


def check_same_head(first: Any, second: Any) -> None:
    """Checks that two models predict the same things in the same order, so that they can be compared.

    Args:
        first: Of transformers, or exported.
        second: Likewise.

    Raises:
        ModelError: If they do not.
    """
    one, other = head_of(first), head_of(second)
    outputs = [
        head.outputs_of(model.config) for head, model in ((one, first), (other, second)) if isinstance(head, TaskType)
    ]
    if type(one) is not type(other) or len(set(outputs)) > 1:
        raise ModelError(
            "The models have heads of different kinds or sizes; name the dense model that the other was made of."
        )
    names = [class_labels(model.config) for model in (first, second)]
    if outputs and names[0] and names[1] and [*map(str.casefold, names[0])] != [*map(str.casefold, names[1])]:
        raise ModelError(
            f"The models number their classes differently ({', '.join(names[0])}; {', '.join(names[1])}); name the "
            "dense model that the other was made of."
        )


def head_of(model: Any) -> Head:
    """What a model predicts.

    Args:
        model: Of transformers, or exported.

    Raises:
        ModelError: If it has no head that is known.
    """
    names = class_names(model)
    head = find_head(names, model.config)
    if head is None:
        endings = dict.fromkeys(ending for one in HEADS for ending in one.class_endings)
        raise ModelError(f"A {names[0]} has no head that is known; load a model whose class ends in {_any(endings)}.")
    return head


def task_type_of(model: Any) -> TaskType:
    """The kind of task a model has a head for.

    Args:
        model: Of transformers, or exported.

    Raises:
        ModelError: If it has a head for none.
    """
    head = find_head(class_names(model), model.config)
    if not isinstance(head, TaskType):
        endings = dict.fromkeys(ending for kind in TASK_TYPES.values() for ending in kind.class_endings)
        raise ModelError(
            f"A {type(model).__name__} has no head for a task; load a model whose class ends in {_any(endings)}."
        )
    return head


def task_type_for_texts(model: Any) -> TaskType:
    """Whose way it is to tokenize texts alone for a model: that of its kind, or of classification if it has none."""
    head = find_head(class_names(model), model.config)
    return head if isinstance(head, TaskType) else CLASSIFICATION


def _any(names: Iterable[str]) -> str:
    return " or ".join(names)


__all__ = [
    "CLASSIFICATION",
    "HEADS",
    "REGRESSION",
    "TASK_TYPES",
    "Classification",
    "Embedding",
    "Head",
    "ImageClassification",
    "LanguageModel",
    "MaskedLanguageModel",
    "MultiLabel",
    "Outputs",
    "Prediction",
    "QuestionAnswering",
    "Regression",
    "TaskType",
    "TokenClassification",
    "check_same_head",
    "class_labels",
    "class_names",
    "find_head",
    "get_task_type",
    "head_of",
    "task_type_for_texts",
    "task_type_of",
]
