"""The table of pruning methods: adding one is a folder and a line."""

from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.method import AUTO
from bertsurgeon.methods.base import Method, PruneConfig
from bertsurgeon.methods.obert.method import OBERT
from bertsurgeon.methods.pgb.method import PGB

METHODS: dict[str, Method] = {method.name: method for method in (AUTO, PGB, OBERT)}
"""By name; the first one is the default."""


def get_method(config: PruneConfig) -> Method:
    """The method that a configuration is for.

    Raises:
        OptionError: If the object is no configuration of a method.
    """
    for method in METHODS.values():
        if type(config) is method.config:
            return method
    names = ", ".join(method.config.__name__ for method in METHODS.values())
    raise OptionError(
        f"prune takes the model, a configuration ({names}), the data and the tokenizer, in this order; a "
        f"{type(config).__name__} is not a configuration."
    )
