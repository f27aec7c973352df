"""Units of a budget: weights, floating-point operations, or milliseconds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from bertsurgeon.plan import Dense, Grouped, LowRank, ModelPlan, Structure, SubLayerName


class Cost(Protocol):
    """Unit of a budget. The costs of matrices and sub-layers add up to the cost of the encoder."""

    def product(self, outputs: int, inputs: int) -> float:
        """Cost of one dense product of this shape."""

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Costs of the two factors of a matrix at each of these ranks, shape of ``ranks``."""

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Cost of what a sub-layer with this many channels computes besides its matrices; 0 if it is dropped."""


@dataclass(frozen=True)
class Weights:
    """Weights of the encoder's matrices."""

    def product(self, outputs: int, inputs: int) -> float:
        """Returns outputs · inputs."""
        return outputs * inputs

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Returns rank · (outputs + inputs)."""
        return ranks * (outputs + inputs)

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Returns 0: what is not a matrix is not counted."""
        return 0.0


@dataclass(frozen=True)
class Flops(Weights):
    """Floating-point operations per text (a multiply-add counts as two).

    Attributes:
        length: Tokens per text.
    """

    length: int = 128

    def product(self, outputs: int, inputs: int) -> float:
        """Returns 2 · tokens · outputs · inputs."""
        return 2 * self.length * super().product(outputs, inputs)

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Returns 2 · tokens · rank · (outputs + inputs)."""
        return 2 * self.length * super().ranks(outputs, inputs, ranks)

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Returns 4 · tokens² · channels for attention: scores and weighted sums are one product each."""
        return 4 * self.length**2 * channels if name == "attention" and channels else 0.0


@dataclass(frozen=True)
class Milliseconds:
    """Times measured on one machine, interpolated between the measured sizes.

    Attributes:
        sizes: Numbers of channels, ascending.
        products: Time of one product with ``sizes[i]`` outputs and ``sizes[j]`` inputs, shape (sizes, sizes); noise
            by which a larger product is faster than a smaller one is removed (:func:`make_monotone`).
        channels: Time per channel of what a sub-layer computes besides its matrices: attention scores, or activations.
    """

    sizes: tuple[int, ...]
    products: tuple[tuple[float, ...], ...]
    channels: dict[SubLayerName, float]

    @cached_property
    def _interpolate(self) -> RegularGridInterpolator:
        sizes = np.log2(self.sizes)
        times = np.log2(make_monotone(self.products))
        return RegularGridInterpolator((sizes, sizes), times, bounds_error=False, fill_value=None)

    def product(self, outputs: int, inputs: int) -> float:
        """Interpolates linearly between the logarithms of sizes and times."""
        return float(2 ** self._interpolate(np.log2([[outputs, inputs]]))[0])

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Adds the times of two products, one after the other."""
        if not len(ranks):
            return torch.empty(0)
        inner = ranks.numpy()
        down = np.stack([inner, np.full_like(inner, inputs)], -1)
        up = np.stack([np.full_like(inner, outputs), inner], -1)
        return torch.from_numpy(sum(2 ** self._interpolate(np.log2(shapes)) for shapes in (down, up)))

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Returns a time in proportion to the channels."""
        return self.channels[name] * channels


def make_monotone(table: ArrayLike) -> NDArray[np.float64]:
    """Makes a table of positive numbers rise along both axes, as times do with sizes.

    The result is the geometric mean of two tables that rise: the running maximum from the small sizes, and the running
    minimum from the large ones. A table that rises already is returned unchanged.

    Args:
        table: Shape (rows, columns).
    """
    above = below = np.asarray(table, dtype=np.float64)
    for axis in (0, 1):
        above = np.maximum.accumulate(above, axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis), axis)
    return np.where(above == below, above, np.sqrt(above * below))


@dataclass(frozen=True)
class FittedMilliseconds:
    """Times in a runtime that fuses products with their surroundings, so that none can be timed alone.

    Attributes:
        per_product: Time of a product of any size.
        per_weight: Time per weight of a product.
        per_input: Time per input channel of a product, which may have to be quantized.
        per_output: Time per output channel of a product.
        per_sub_layer: Time of a sub-layer that is not dropped, besides its matrices.
        per_channel: Time per channel of a sub-layer, besides its matrices.
    """

    per_product: float
    per_weight: float
    per_input: float
    per_output: float
    per_sub_layer: dict[SubLayerName, float]
    per_channel: dict[SubLayerName, float]

    def product(self, outputs: int, inputs: int) -> float:
        """Adds the times of a product, its weights, and its channels."""
        return (
            self.per_product + self.per_weight * outputs * inputs + self.per_input * inputs + self.per_output * outputs
        )

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Adds the times of two products, one after the other."""
        return (
            self.product(0, inputs)
            + self.product(outputs, 0)
            + ranks.double() * (self.per_weight * (outputs + inputs) + self.per_input + self.per_output)
        )

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Returns a constant and a time in proportion to the channels; 0 without channels."""
        return self.per_sub_layer[name] + self.per_channel[name] * channels if channels else 0.0


def plan_cost(plan: ModelPlan, cost: Cost) -> float:
    """Cost of an encoder that follows a plan.

    Args:
        plan: The plan.
        cost: Unit of the cost.
    """
    total = 0.0
    for layer in plan.layers:
        for name, roles in layer.sub_layers.items():
            if layer.is_dropped(name):
                continue
            matrices = [layer.matrices[role] for role in roles]
            total += sum(_structure_cost(matrix.structure, matrix.stored_shape, cost) for matrix in matrices)
            total += cost.sub_layer(name, matrices[0].stored_shape[0])
    return total


def _structure_cost(structure: Structure, shape: tuple[int, int], cost: Cost) -> float:
    match structure:
        case Dense():
            return cost.product(*shape)
        case LowRank():
            return float(cost.ranks(*shape, torch.tensor([structure.rank]))[0])
        case Grouped():
            return sum(cost.product(*block) for block in structure.block_shapes)
        case _:
            return 0.0
