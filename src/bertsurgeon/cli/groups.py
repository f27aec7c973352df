"""Options that always come together: a dataclass in a command's signature stands for one option per field."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")


class Without:
    """Names fields of a group that a command has no use for; they keep their defaults.

    Args:
        *names: Of the fields.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


def grouped(command: Callable[P, R]) -> Callable[P, R]:
    """Gives a command one option for every field of its dataclass parameters, and hands it the dataclasses.

    The fields' annotations (``Annotated[…, typer.Option(…)]``) and defaults are those of the options. Typer reads them
    from the signature this leaves behind.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind, left_out = _group_of(parameter.annotation)
        if kind is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(kind, include_extras=True)
        options = [field for field in fields(kind) if field.name not in left_out]
        groups[name] = kind, [field.name for field in options]
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in options
        ]

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = dict(kwargs)
        for name, (kind, names) in groups.items():
            given[name] = kind(**{field: given.pop(field) for field in names if field in given})
        call: Callable[..., R] = command
        return call(*args, **given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _group_of(annotation: Any) -> tuple[type[Any] | None, tuple[str, ...]]:
    """The dataclass that an annotation names, and the fields it leaves out."""
    kind, *more = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return None, ()
    return kind, tuple(name for one in more if isinstance(one, Without) for name in one.names)
