"""What a choice costs: weights, floating-point operations, or milliseconds."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bertsurgeon.plan import SubLayerName


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
