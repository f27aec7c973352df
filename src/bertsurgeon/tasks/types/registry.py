"""The table of all heads and task types, and the functions that find a model's entry in it."""

from collections.abc import Iterable
from typing import Any

from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.tasks.types.base import TaskType
from bertsurgeon.tasks.types.embedding import Embedding
from bertsurgeon.tasks.types.heads import Head, ImageClassification, LanguageModel, MaskedLanguageModel
from bertsurgeon.tasks.types.question import QuestionAnswering
from bertsurgeon.tasks.types.sequence import Classification, MultiLabel, Regression
from bertsurgeon.tasks.types.token import TokenClassification

TASK_TYPES: dict[str, TaskType] = {
    task_type.name: task_type
    for task_type in (
        MultiLabel(),
        Regression(),
        Classification(),
        TokenClassification(),
        QuestionAnswering(),
        Embedding(),
    )
}
"""Task types by name. Of those that share model classes, the first one that fits a configuration applies."""

CLASSIFICATION, REGRESSION = TASK_TYPES["classification"], TASK_TYPES["regression"]

HEADS: tuple[Head, ...] = (*TASK_TYPES.values(), ImageClassification(), LanguageModel(), MaskedLanguageModel())
"""All task types, and heads of models that can be pruned without a task."""


def get_task_type(name: str) -> TaskType:
    """Returns the task type with a name.

    Args:
        name: A key of :data:`TASK_TYPES`.

    Raises:
        OptionError: If there is none.
    """
    try:
        return TASK_TYPES[name]
    except KeyError:
        raise OptionError(f"There is no task type {name!r}; choose one of {', '.join(sorted(TASK_TYPES))}.") from None


def model_class_names(model: Any) -> list[str]:
    """Returns the name of a model's class, and of the one it was exported from.

    Args:
        model: Model of transformers, or an exported one.
    """
    return [type(model).__name__, *(getattr(model.config, "architectures", None) or ())]


def label_names(config: Any) -> tuple[str, ...] | None:
    """Returns the names of a model's classes in the order of its outputs; None if they are ``LABEL_0`` and so on.

    Args:
        config: Configuration of the model.
    """
    id2label = getattr(config, "id2label", None) or {}
    names = tuple(str(id2label[code]) for code in sorted(id2label))
    generic = all(name == f"LABEL_{code}" for code, name in enumerate(names))
    return None if generic or len({name.casefold() for name in names}) < len(names) else names


def find_head(names: Iterable[str], config: Any) -> Head | None:
    """Returns the head of the first model class that has one, or None.

    Args:
        names: Names of model classes.
        config: Configuration of the model.
    """
    for name in names:
        for head in HEADS:
            if name.endswith(head.class_endings) and head.fits(config):
                return head
    return None


def head_of(model: Any) -> Head:
    """Returns the head of a model.

    Args:
        model: Model of transformers, or an exported one.

    Raises:
        ModelError: If it has no supported head.
    """
    names = model_class_names(model)
    head = find_head(names, model.config)
    if head is None:
        raise ModelError(f"A {names[0]} has no supported head; load a model whose class ends in {_endings(HEADS)}.")
    return head


def task_type_of(model: Any) -> TaskType:
    """Returns the type of task that a model has a head for.

    Args:
        model: Model of transformers, or an exported one.

    Raises:
        ModelError: If there is none.
    """
    head = find_head(model_class_names(model), model.config)
    if not isinstance(head, TaskType):
        raise ModelError(
            f"A {type(model).__name__} has no head for a task; load a model whose class ends in "
            f"{_endings(TASK_TYPES.values())}."
        )
    return head


def task_type_for_texts(model: Any) -> TaskType:
    """Returns the task type that tokenizes unlabeled texts for a model: its own, or classification if it has none.

    Args:
        model: Model of transformers, or an exported one.
    """
    head = find_head(model_class_names(model), model.config)
    return head if isinstance(head, TaskType) else CLASSIFICATION


def check_same_head(first: Any, second: Any) -> None:
    """Checks that two models predict the same values in the same order, so that they can be compared.

    Args:
        first: Model of transformers, or an exported one.
        second: Model of transformers, or an exported one.

    Raises:
        ModelError: If they do not.
    """
    head, other_head = head_of(first), head_of(second)
    widths = {
        one.num_outputs_of(model.config)
        for one, model in ((head, first), (other_head, second))
        if isinstance(one, TaskType)
    }
    if type(head) is not type(other_head) or len(widths) > 1:
        raise ModelError(
            "The models have heads of different types or sizes; pass the dense model that the other was made from."
        )
    names, other_names = label_names(first.config), label_names(second.config)
    if widths and names and other_names and [*map(str.casefold, names)] != [*map(str.casefold, other_names)]:
        raise ModelError(
            f"The models number their classes differently ({', '.join(names)}; {', '.join(other_names)}); pass the "
            "dense model that the other was made from."
        )


def _endings(heads: Iterable[Head]) -> str:
    return " or ".join(dict.fromkeys(ending for head in heads for ending in head.class_endings))
