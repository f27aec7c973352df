"""What stands in for a whole sub-layer that was dropped: a constant, and the norm where the sub-layer has its own.

In a post-norm model the constant that the sub-layer contributed lives in the bias of the preceding norm, in a pre-norm
model beside the mark (see :func:`bertsurgeon.layers.build.drop_sub_layer`). The modules keep the parameter names of
what they replace; where a matrix was, an empty ``weight`` stays as a mark, so that a process without this library
cannot load the checkpoint.
"""

from typing import Any

from torch import Tensor, nn

from bertsurgeon.layers.grouped import DroppedLinear


class DroppedNormedAttention(nn.Module):
    """Stands in for an attention that adds to the residual stream and normalises it itself (as ``BertAttention``).

    Args:
        norm_path: Where the norm lies in what is replaced.
        norm: Normalises the residual stream.
        mark_path: Where the last matrix was.
        mark: Stands there.
    """

    def __init__(self, norm_path: str, norm: nn.Module, mark_path: str, mark: DroppedLinear) -> None:
        super().__init__()
        _place(self, mark_path, mark)
        _place(self, norm_path, norm)
        self._norm_path = norm_path

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Returns the normalised hidden states, shape (batch, tokens, hidden), and no attention weights."""
        return self.get_submodule(self._norm_path)(hidden_states), None


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


class DroppedFeedForward(nn.Module):
    """Stands in for a module whose output its layer adds to the residual stream: contributes a constant.

    Args:
        mark_path: Where the last matrix was in what is replaced.
        mark: Stands there; its bias is the constant, zero without one.
    """

    def __init__(self, mark_path: str, mark: DroppedLinear) -> None:
        super().__init__()
        _place(self, mark_path, mark)
        self._mark_path = mark_path

    def constant(self, hidden_states: Tensor) -> Tensor:
        """What is added to the residual stream: shape (hidden,), or a zero."""
        bias: Tensor | None = self.get_submodule(self._mark_path).bias  # type: ignore[assignment]
        return hidden_states.new_zeros(()) if bias is None else bias.to(hidden_states.dtype)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns a constant that broadcasts over the hidden states."""
        return self.constant(hidden_states)


class DroppedAttention(DroppedFeedForward):
    """Stands in for an attention whose output its layer adds to the residual stream: contributes a constant.

    Where keys and values are cached it puts as many into the cache as there are tokens, one channel wide, since models
    ask the cache of any layer how many tokens they have seen.

    Args:
        mark_path: Where the last matrix was in what is replaced.
        mark: Stands there; its bias is the constant, zero without one.
        index: Of the layer, in the cache.
    """

    def __init__(self, mark_path: str, mark: DroppedLinear, index: int) -> None:
        super().__init__(mark_path, mark)
        self.layer_idx = index

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        """Returns a constant that broadcasts over the hidden states, and no attention weights."""
        cache = kwargs.get("past_key_values")
        if cache is not None:
            seen = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(seen, seen, self.layer_idx)
        return self.constant(hidden_states), None


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Registers a module under a dotted path, with containers on the way."""
    parent, _, name = path.rpartition(".")
    for part in parent.split(".") if parent else ():
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(name, module)
