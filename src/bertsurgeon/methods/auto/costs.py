"""What a choice costs: weights, floating-point operations, or milliseconds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from bertsurgeon.plan import Dense, Grouped, LowRank, ModelPlan, Structure, SubLayerName


class Cost(Protocol):
    """A budget's unit. Costs of matrices and sub-layers add up to the cost of the encoder."""

    def product(self, outputs: int, inputs: int) -> float:
        """Of one dense product of this shape."""

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Of the same matrix through bottlenecks of these widths, shape of ``ranks``."""

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Of what a sub-layer of this many channels does beside its matrices; 0 for one that is dropped."""


@dataclass(frozen=True)
class Weights:
    """Weights of the encoder's matrices."""

    def product(self, outputs: int, inputs: int) -> float:
        """Outputs · inputs."""
        return outputs * inputs

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Rank · (outputs + inputs)."""
        return ranks * (outputs + inputs)

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """Nothing."""
        return 0.0


@dataclass(frozen=True)
class Flops(Weights):
    """Floating-point operations per text (a multiply-add counts as two).

    Attributes:
        length: Tokens per text.
    """

    length: int = 128

    def product(self, outputs: int, inputs: int) -> float:
        """2 · tokens · outputs · inputs."""
        return 2 * self.length * super().product(outputs, inputs)

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """2 · tokens · rank · (outputs + inputs)."""
        return 2 * self.length * super().ranks(outputs, inputs, ranks)

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """The two products of attention, 4 · tokens² · channels."""
        return 4 * self.length**2 * channels if name == "attention" and channels else 0.0


@dataclass(frozen=True)
class Milliseconds:
    """Measured time on one machine, interpolated between measured sizes.

    Attributes:
        sizes: Ascending numbers of channels.
        products: Time of one product with ``sizes[i]`` outputs and ``sizes[j]`` inputs, shape (sizes, sizes).
        channels: Time of what a sub-layer does per channel beside its matrices: attention scores, or activations.
    """

    sizes: tuple[int, ...]
    products: tuple[tuple[float, ...], ...]
    channels: dict[SubLayerName, float]

    @cached_property
    def _interpolate(self) -> RegularGridInterpolator:
        sizes = np.log2(self.sizes)
        return RegularGridInterpolator((sizes, sizes), np.log2(self.products), bounds_error=False, fill_value=None)

    def product(self, outputs: int, inputs: int) -> float:
        """Interpolated between the logarithms of sizes and times."""
        return float(2 ** self._interpolate(np.log2([[outputs, inputs]]))[0])

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Two products, one after the other."""
        if not len(ranks):
            return torch.empty(0)
        inner = ranks.numpy()
        down = np.stack([inner, np.full_like(inner, inputs)], -1)
        up = np.stack([np.full_like(inner, outputs), inner], -1)
        return torch.from_numpy(sum(2 ** self._interpolate(np.log2(side)) for side in (down, up)))

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """In proportion to the channels."""
        return self.channels[name] * channels


@dataclass(frozen=True)
class FittedMilliseconds:
    """Time in a runtime that fuses products with what is around them, so that none can be timed alone.

    Attributes:
        per_product: Of a product, however small.
        per_weight: Of a weight of one.
        per_input: Of an input channel of one, which may have to be quantized.
        per_output: Of an output channel of one.
        per_sub_layer: Of a sub-layer that is there, beside its matrices.
        per_channel: Of a channel of a sub-layer, beside its matrices.
    """

    per_product: float
    per_weight: float
    per_input: float
    per_output: float
    per_sub_layer: dict[SubLayerName, float]
    per_channel: dict[SubLayerName, float]

    def product(self, outputs: int, inputs: int) -> float:
        """What a product takes, and its weights and channels do."""
        return (
            self.per_product + self.per_weight * outputs * inputs + self.per_input * inputs + self.per_output * outputs
        )

    def ranks(self, outputs: int, inputs: int, ranks: Tensor) -> Tensor:
        """Two products, one after the other."""
        return (
            self.product(0, inputs)
            + self.product(outputs, 0)
            + ranks.double() * (self.per_weight * (outputs + inputs) + self.per_input + self.per_output)
        )

    def sub_layer(self, name: SubLayerName, channels: int) -> float:
        """In proportion to the channels, and something more if there are any."""
        return self.per_sub_layer[name] + self.per_channel[name] * channels if channels else 0.0


def plan_cost(plan: ModelPlan, cost: Cost) -> float:
    """Of an encoder that follows a plan."""
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
