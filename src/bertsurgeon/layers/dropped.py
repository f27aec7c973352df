"""What remains where a matrix or a whole sub-layer was dropped: a bias, and the norm that the sub-layer contained.

In a post-norm model the constant that a dropped sub-layer contributes is added to the bias of the preceding norm, in a
pre-norm model it is the bias of a :class:`DroppedLinear` (see :func:`bertsurgeon.layers.build.drop_sub_layer`). The
modules keep the parameter names of what they replace. Where the sub-layer's last matrix was, a :class:`DroppedLinear`
stays as a placeholder: its empty ``weight`` keeps a process without this library from loading the checkpoint.
"""

from typing import Any

import torch
from torch import Tensor, nn


class DroppedLinear(nn.Module):
    """A linear map without weights: it outputs its bias (PGB: a matrix with no group left).

    Args:
        in_features: Input channels.
        out_features: Output channels.
        bias: Whether the layer has a bias; without one it outputs zeros.

    Attributes:
        weight: Empty, shape (0, in_features).
        bias: Shape (out_features,), or None.
    """

    weight: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight", torch.zeros(0, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None) -> "DroppedLinear":
        """Makes the layer that keeps only the bias of a dense layer.

        Args:
            weight: Dense weight, shape (out_features, in_features), of which only shape, type and device matter.
            bias: Shape (out_features,), or None.
        """
        layer = cls(weight.shape[1], weight.shape[0], bias is not None).to(weight.device, weight.dtype)
        if layer.bias is not None and bias is not None:
            layer.bias.data.copy_(bias)
        return layer

    def dense_weight(self) -> Tensor:
        """Returns the weight as a dense matrix of zeros, shape (out_features, in_features)."""
        return self.weight.new_zeros(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        zeros = x.new_zeros(*x.shape[:-1], self.out_features)
        # not bias.expand: a view of a parameter requires gradients even under no_grad, which breaks tracing
        return zeros if self.bias is None else zeros + self.bias

    def extra_repr(self) -> str:
        """Describes the layer when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class DroppedNormedAttention(nn.Module):
    """Replaces an attention that adds to the residual stream and normalizes it itself (as ``BertAttention``).

    Args:
        norm_path: Path from the replaced module to its norm.
        norm: Norm of the residual stream.
        last_path: Path from the replaced module to its last matrix.
        placeholder: Stays at ``last_path``.
    """

    def __init__(self, norm_path: str, norm: nn.Module, last_path: str, placeholder: DroppedLinear) -> None:
        super().__init__()
        _add_at(self, last_path, placeholder)
        _add_at(self, norm_path, norm)
        self._norm_path = norm_path

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Returns the normalized hidden states, shape (batch, tokens, hidden), and no attention weights."""
        return self.get_submodule(self._norm_path)(hidden_states), None


class DroppedBertIntermediate(nn.Module):
    """Replaces ``BertIntermediate`` and returns its input unchanged.

    Args:
        placeholder: Stays where the matrix was.
    """

    def __init__(self, placeholder: DroppedLinear) -> None:
        super().__init__()
        self.dense = placeholder

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Returns the input."""
        return hidden_states


class DroppedBertOutput(nn.Module):
    """Replaces ``BertOutput`` and only normalizes the residual stream.

    Args:
        norm: Norm of the residual stream.
        placeholder: Stays where the matrix was.
    """

    def __init__(self, norm: nn.Module, placeholder: DroppedLinear) -> None:
        super().__init__()
        self.dense = placeholder
        self.LayerNorm = norm

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Returns the normalized ``input_tensor``, shape (batch, tokens, hidden)."""
        normalized: Tensor = self.LayerNorm(input_tensor)
        return normalized


class DroppedFeedForward(nn.Module):
    """Replaces a module whose output its layer adds to the residual stream; it contributes a constant.

    Args:
        last_path: Path from the replaced module to its last matrix.
        placeholder: Stays at ``last_path``; its bias is the constant, which is zero without one.
    """

    def __init__(self, last_path: str, placeholder: DroppedLinear) -> None:
        super().__init__()
        _add_at(self, last_path, placeholder)
        self._last_path = last_path

    def constant(self, hidden_states: Tensor) -> Tensor:
        """Returns what is added to the residual stream: shape (hidden,), or a zero of shape ()."""
        bias: Tensor | None = self.get_submodule(self._last_path).bias  # type: ignore[assignment]
        return hidden_states.new_zeros(()) if bias is None else bias.to(hidden_states.dtype)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns a constant that broadcasts over the hidden states."""
        return self.constant(hidden_states)


class DroppedAttention(DroppedFeedForward):
    """Replaces an attention whose output its layer adds to the residual stream; it contributes a constant.

    If keys and values are cached, it caches one channel for each token, since models read the number of tokens so far
    from the cache of any layer.

    Args:
        last_path: Path from the replaced module to its last matrix.
        placeholder: Stays at ``last_path``; its bias is the constant, which is zero without one.
        index: Index of the layer in the cache.
    """

    def __init__(self, last_path: str, placeholder: DroppedLinear, index: int) -> None:
        super().__init__(last_path, placeholder)
        self.layer_idx = index

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        """Returns a constant that broadcasts over the hidden states, and no attention weights."""
        cache = kwargs.get("past_key_values")
        if cache is not None:
            tokens = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(tokens, tokens, self.layer_idx)
        return self.constant(hidden_states), None


def _add_at(root: nn.Module, path: str, module: nn.Module) -> None:
    """Registers a module under a dotted path; parents that are missing are created."""
    parent, _, name = path.rpartition(".")
    for part in parent.split(".") if parent else ():
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(name, module)
