"""Command-line options made from configuration classes: every help text stands once, in the metadata of its field.

A parameter of a command whose annotation is a configuration class becomes one option per field (:func:`expand`). The
options of ``prune`` are the union of those of all methods and budgets (:class:`MethodOptions`).
"""

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from bertsurgeon.budgets import BUDGETS, Budget, Sparsity
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.base import Method, PruneConfig

P = ParamSpec("P")
R = TypeVar("R")

Model = Annotated[str, typer.Argument(help="Model folder, hub id, or 'minilm' for the packaged all-MiniLM-L6-v2.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output folder if a bertsurgeon command wrote it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Random seed: fixes every random choice.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that a killed process left.")]
Refit = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit",
        help="Embedders: bring the embeddings nearer to the dense model's by a matrix after the pooling, a regression "
        "on the texts. Default: yes, if there are enough.",
    ),
]

BUDGET_PANEL = "Budget (one of them)"


class Panel:
    """Annotation of a parameter: the heading of its options in the help, and fields that are no options.

    Args:
        title: The heading.
        without: Names of fields that keep their defaults.
    """

    def __init__(self, title: str, without: Sequence[str] = ()) -> None:
        self.title = title
        self.without = tuple(without)


def expand(command: Callable[P, R]) -> Callable[P, R]:
    """Gives a command one option for every field of its configuration parameters, and passes it the configurations.

    A parameter ``data: Annotated[DataConfig, Panel("Data")]`` becomes the options of the class; fields declared with
    ``cli=False`` keep their defaults. If such a field has none, the command is passed a function that takes its value
    and returns the configuration.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], dict[str, Field[Any]]]] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        config, panel = _config_of(parameter.annotation)
        if config is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(config)
        options = {
            each.name: each for each in fields(config) if each.metadata["cli"] and each.name not in panel.without
        }
        groups[name] = config, options
        parameters += [
            _parameter(each, hints[each.name], panel.title, required=each.default is MISSING)
            for each in options.values()
        ]

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        values: dict[str, Any] = dict(kwargs)
        for name, (config, options) in groups.items():
            chosen = {field: values.pop(field) for field in options if field in values}
            parsed = {field: parse_value(options[field], value) for field, value in chosen.items()}
            make: Callable[..., Any] = config
            is_complete = all(each.default is not MISSING or each.name in options for each in fields(config))
            values[name] = make(**parsed) if is_complete else functools.partial(make, **parsed)
        call: Callable[..., R] = command
        return call(*args, **values)

    return _with_signature(run, parameters)


def _config_of(annotation: Any) -> tuple[type[Any] | None, Panel]:
    """The configuration class that an annotation names, and its panel."""
    config, *extras = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if not (isinstance(config, type) and is_dataclass(config)):
        return None, Panel("")
    return config, next(extra for extra in extras if isinstance(extra, Panel))


def _parameter(
    each: "Field[Any]", hint: Any, panel: str, *, required: bool = False, unset: bool = False, prefix: str = ""
) -> inspect.Parameter:
    """The parameter that typer makes an option of.

    Args:
        each: The field.
        hint: Its type.
        panel: Heading in the help.
        required: The option has no default.
        unset: The default is None, so that a command sees whether the option is given; the help shows the true one.
        prefix: Start of the help text.
    """
    flag, help_text = each.metadata["flag"], prefix + each.metadata["help"]
    choices = [str(choice) for choice in each.metadata["choices"] or ()]
    if not all(re.search(rf"\b{re.escape(choice)}\b( \(|,|:| or |\.|$)", help_text) for choice in choices):
        help_text += f" One of {', '.join(choices)}."
    if isinstance(each.default, tuple):
        help_text += " Separated by commas."
    default = inspect.Parameter.empty if required else _to_text(each.default)
    if unset:
        if each.default not in (None, MISSING) and not isinstance(each.default, bool):
            help_text += f" Default: {default}."
        default = None
    annotation = _typer_type(hint)
    if default is None and type(None) not in get_args(annotation):
        annotation = annotation | None
    info = typer.Option(flag, help=help_text, show_default=default is not None, rich_help_panel=panel)
    name = each.name if not unset else parameter_name(flag)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def parameter_name(flag: str) -> str:
    """The name of the parameter of an option: ``--max-groups`` is ``max_groups``."""
    return flag.partition("/")[0].removeprefix("--").replace("-", "_")


def _typer_type(hint: Any) -> Any:
    """The type of an option that typer reads; names of choices and lists of names are text, checked by the class."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [_typer_type(one) for one in get_args(hint) if one is not type(None)]
        return inner[0] | None
    return str if get_origin(hint) in (Literal, tuple) else hint


def _to_text(value: Any) -> Any:
    """A default as it is typed: a tuple as comma-separated text."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def parse_value(each: "Field[Any]", value: Any) -> Any:
    """The value of a field from what was typed.

    Raises:
        OptionError: If one of several comma-separated values is no number where numbers are expected.
    """
    if not (isinstance(each.default, tuple) and isinstance(value, str)):
        return value
    kind = type(each.default[0])
    try:
        return tuple(kind(part) for part in value.split(","))
    except ValueError:
        raise OptionError(
            f"{each.metadata['flag']} must be numbers separated by commas, such as {_to_text(each.default)}, not "
            f"{value!r}."
        ) from None


def _with_signature(run: Callable[P, R], parameters: Sequence[inspect.Parameter]) -> Callable[P, R]:
    run.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


class MethodOptions:
    """The options of ``prune``: every budget, and every option of every method.

    Args:
        methods: The methods by name, see :data:`bertsurgeon.methods.registry.METHODS`.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = dict(methods)
        accepted = {budget for method in self.methods.values() for budget in method.config.budgets}
        self._budgets = [budget for budget in BUDGETS if budget in accepted]
        self._options: dict[str, dict[str, Field[Any]]] = {}  # by name, then by method
        for name, method in self.methods.items():
            for each in fields(method.config):
                if each.metadata["cli"]:
                    self._options.setdefault(each.name, {})[name] = each

    def parameters(self) -> list[inspect.Parameter]:
        """The parameters for typer; all default to None, so that :meth:`configs` sees which are given."""
        parameters = []
        for budget in self._budgets:
            owners = [name for name, method in self.methods.items() if budget in method.config.budgets]
            hints = get_type_hints(budget)
            for number, each in enumerate(fields(budget)):
                prefix = "" if number or len(owners) == len(self.methods) else f"{', '.join(owners)}: "
                hint = hints[each.name]
                if number == 0:
                    hint = str  # several amounts, as 0.5,0.75, make several models
                if budget is Sparsity:
                    prefix = "Several, separated by commas, make several models. "
                parameters.append(_parameter(each, hint, BUDGET_PANEL, unset=True, prefix=prefix))
        shared = {each.name: each for each in fields(PruneConfig)}
        for name, by_method in self._options.items():
            in_all = len(by_method) == len(self.methods)
            panel = "All methods" if in_all else f"Method {' and '.join(by_method)}"
            hint = get_type_hints(self.methods[next(iter(by_method))].config)[name]
            if in_all and name in shared:
                parameters.append(_parameter(shared[name], hint, panel, unset=True))
                continue
            prefix = ""
            first, *others = by_method.items()
            if any(each.metadata["help"] != first[1].metadata["help"] for _, each in others):
                prefix = " ".join(f"{owner}: {each.metadata['help']}" for owner, each in others) + f" {first[0]}: "
            parameters.append(_parameter(first[1], hint, panel, unset=True, prefix=prefix))
        return parameters

    def configs(self, method: str, values: Mapping[str, Any], seed: int) -> list[PruneConfig]:
        """Makes the configuration for every budget that is given.

        Args:
            method: Name of the method.
            values: The options by parameter name; None for those that are not given.
            seed: Random seed.

        Raises:
            OptionError: If there is no such method, there is not exactly one kind of budget, or an option belongs to
                another method.
        """
        if method not in self.methods:
            raise OptionError(f"method must be one of {', '.join(self.methods)}, not {method!r}.")
        config = self.methods[method].config
        options = {}
        for name, owners in self._options.items():
            flag = next(iter(owners.values())).metadata["flag"]
            value = values.get(parameter_name(flag))
            if value is None:
                continue
            if method not in owners:
                word = "methods" if len(owners) > 1 else "method"
                raise OptionError(f"{flag} is an option of the {word} {' and '.join(owners)}, not of {method}.")
            options[name] = parse_value(owners[method], value)
        budgets = self._parse_budgets(values)
        flags = [fields(budget)[0].metadata["flag"] for budget in config.budgets]
        if not isinstance(budgets[0], config.budgets):
            flag = fields(budgets[0])[0].metadata["flag"]
            raise OptionError(f"{flag} is not a budget of the method {method}, which takes {' or '.join(flags)}.")
        return [config(budget, seed=seed, **options) for budget in budgets]

    def _parse_budgets(self, values: Mapping[str, Any]) -> list[Budget]:
        """The budgets that are given: all of one kind, at least one."""
        chosen: list[Budget] = []
        kinds = 0
        for budget in self._budgets:
            first, *others = fields(budget)
            amounts = values.get(parameter_name(first.metadata["flag"]))
            extras = {
                each.name: value
                for each in others
                if (value := values.get(parameter_name(each.metadata["flag"]))) is not None
            }
            if amounts is None:
                if extras:
                    flag = next(each.metadata["flag"] for each in others if each.name in extras)
                    raise OptionError(f"{flag} has no effect without {first.metadata['flag']}; give that as well.")
                continue
            kinds += 1
            kind = get_type_hints(budget)[first.name]
            make: Callable[..., Budget] = budget
            chosen += [make(amount, **extras) for amount in _parse_amounts(first.metadata["flag"], amounts, kind)]
        flags = [fields(budget)[0].metadata["flag"] for budget in self._budgets]
        if kinds == 0:
            raise OptionError(
                "Name a budget, such as --sparsity 0.5, which removes half of the encoder's weights "
                f"({', '.join(flags[1:-1])} and {flags[-1]} are others); or let 'bertsurgeon compress' search for the "
                "smallest model that holds your bound on the loss of quality."
            )
        if kinds > 1:
            raise OptionError(f"Give exactly one budget: {', '.join(flags[:-1])} or {flags[-1]}.")
        return chosen


def _parse_amounts(flag: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """The amounts of a budget: a number, or several separated by commas.

    Raises:
        OptionError: If one is no number, or is named twice.
    """
    try:
        amounts = [kind(part) for part in str(text).split(",")]
    except ValueError:
        raise OptionError(f"{flag} must be a number, or several separated by commas, not {text!r}.") from None
    if len(set(amounts)) != len(amounts):
        raise OptionError(f"{flag} names an amount twice: {text}.")
    return amounts


def add_options(command: Callable[..., R], parameters: Iterable[inspect.Parameter], into: str) -> Callable[..., R]:
    """Adds options to a command, which receives their values as one mapping.

    Args:
        command: A command, expanded already, with a parameter ``into``.
        parameters: The options.
        into: Name of the parameter that receives the values by name.
    """
    signature = inspect.signature(command, eval_str=True)
    added = list(parameters)
    names = [parameter.name for parameter in added]
    clashes = set(names) & set(signature.parameters)
    if clashes:
        raise TypeError(
            f"{min(clashes)} is an option of the command already; give the field of the method another name."
        )
    merged: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        merged += added if parameter.name == into else [parameter]

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> R:
        values = {name: kwargs.pop(name) for name in names if name in kwargs}
        return command(*args, **{**kwargs, into: values})

    return _with_signature(run, merged)
