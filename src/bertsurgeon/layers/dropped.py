"""What stands in for a whole sub-layer that was dropped: nothing but its LayerNorm.

The constant that the sub-layer contributed lives in the bias of the preceding LayerNorm (see
:func:`bertsurgeon.layers.build.drop_sub_layer`). The modules keep the parameter names of what they replace; where a
matrix was, an empty ``weight`` stays as a mark, so that a process without this library cannot load the checkpoint.
"""

from typing import Any

from torch import Tensor, nn

from bertsurgeon.layers.grouped import DroppedLinear


class DroppedBertAttention(nn.Module):
    """Stands in for ``BertAttention``: normalises the residual stream and nothing else."""

    def __init__(self, norm: nn.Module, mark: DroppedLinear) -> None:
        super().__init__()
        self.output = nn.ModuleDict({"dense": mark, "LayerNorm": norm})

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Returns the normalised hidden states, shape (batch, tokens, hidden), and no attention weights."""
        return self.output["LayerNorm"](hidden_states), None


class DroppedBertIntermediate(nn.Module):
    """Stands in for ``BertIntermediate``: hands its input on unchanged."""

    def __init__(self, mark: DroppedLinear) -> None:
        super().__init__()
        self.dense = mark

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns its input."""
        return hidden_states


class DroppedBertOutput(nn.Module):
    """Stands in for ``BertOutput``: normalises the residual stream and nothing else."""

    def __init__(self, norm: nn.Module, mark: DroppedLinear) -> None:
        super().__init__()
        self.dense = mark
        self.LayerNorm = norm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Returns the normalised ``input_tensor``, shape (batch, tokens, hidden)."""
        normalised: Tensor = self.LayerNorm(input_tensor)
        return normalised


class DroppedDistilBertAttention(nn.Module):
    """Stands in for ``DistilBertSelfAttention``: contributes zero to the residual stream."""

    def __init__(self, mark: DroppedLinear) -> None:
        super().__init__()
        self.out_lin = mark

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Returns a zero that broadcasts over the hidden states, and no attention weights."""
        return hidden_states.new_zeros(()), None


class DroppedDistilBertFeedForward(nn.Module):
    """Stands in for ``FFN``: contributes zero to the residual stream."""

    def __init__(self, mark: DroppedLinear) -> None:
        super().__init__()
        self.lin2 = mark

    def forward(self, input: Tensor) -> Tensor:
        """Returns a zero that broadcasts over the hidden states."""
        return input.new_zeros(())
