"""The dense matrices that an encoder's layers are made of, whatever a plan has made of them.

A linear layer is one matrix, a grouped layer one for each group, a low rank two, and a dropped matrix none.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bertsurgeon.architectures import Encoder
from bertsurgeon.errors import ModelError
from bertsurgeon.layers.grouped import DroppedLinear, GroupedLinear
from bertsurgeon.layers.low_rank import LowRankLinear
from bertsurgeon.plan import Role

PartKey = tuple[int, Role, int]
"""Layer, role, and the number of the part in what stands there."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Part:
    """One dense matrix, and how to find what goes in and comes out of it.

    Attributes:
        weight: The parameter, or a view of its values, shape (out, in).
        inputs: From the layer's inputs, shape (…, layer's in), to the part's.
        outputs: From gradients of the layer's outputs, shape (…, layer's out), to those of the part's.
    """

    weight: Tensor
    inputs: Callable[[Tensor], Tensor] = _same
    outputs: Callable[[Tensor], Tensor] = _same


def dense_parts(module: nn.Module) -> list[Part]:
    """The dense matrices of a layer.

    Raises:
        ModelError: If the layer is of an unknown kind.
    """
    match module:
        case DroppedLinear():
            return []
        case GroupedLinear():
            return [
                Part(block.detach(), lambda x, c=columns: x[..., c], lambda delta, r=rows: delta[..., r])  # type: ignore[misc]
                for block, rows, columns in module.blocks()
            ]
        case LowRankLinear():
            down, up = module.weight, module.up
            return [
                Part(down, outputs=lambda delta: delta @ up.detach().to(delta)),
                Part(up, inputs=lambda x: x @ down.detach().to(x).t()),
            ]
        case nn.Linear():
            return [Part(module.weight)]
    raise ModelError(f"A {type(module).__name__} stands where a linear layer was expected; its weights are unknown.")


def model_parts(encoder: Encoder) -> dict[PartKey, Part]:
    """The dense matrices of an encoder, from the input to the output."""
    found: dict[PartKey, Part] = {}
    for layer in range(len(encoder.layers)):
        for role in encoder.roles:
            matrix = encoder.find_matrix(layer, role)
            if matrix is not None:
                found |= {(layer, role, number): part for number, part in enumerate(dense_parts(matrix))}
    return found
