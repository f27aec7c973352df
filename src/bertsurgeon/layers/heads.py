"""What modules know of their heads beside the matrices: numbers and biases that must follow when heads are removed."""

from typing import Any

from torch import nn

from bertsurgeon.architectures import Encoder
from bertsurgeon.plan import LayerPlan


def update_head_counts(encoder: Encoder, layer: int, plan: LayerPlan) -> None:
    """Tells a layer's attention which heads are left.

    Most modules find out from the shapes of what their matrices return; for the others the table names what they count.

    Args:
        encoder: Changed in place.
        layer: Index of the layer.
        plan: What the layer keeps.
    """
    units = plan.units.get("attention")
    if units is None or plan.is_dropped("attention"):
        return
    architecture, module = encoder.architecture, encoder.layers[layer]
    for path in architecture.head_counts:
        _set(module, path, units.kept)
    for path in architecture.head_channels:
        _set(module, path, units.kept * units.width)
    if architecture.head_bias is not None:
        _select_biases(module.get_submodule(architecture.attention), architecture.head_bias, list(units.order))


def _set(module: nn.Module, path: str, value: int) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, value)


def _select_biases(attention: nn.Module, name: str, heads: list[int]) -> None:
    def select(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get(name) is not None:
            kwargs = {**kwargs, name: kwargs[name][:, heads]}
        return args, kwargs

    attention.register_forward_pre_hook(select, with_kwargs=True)
