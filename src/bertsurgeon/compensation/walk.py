"""Carrying hidden states through the encoder, layer by layer, for the dense and the pruned model side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Architecture
from bertsurgeon.calibration import Batch, Moments
from bertsurgeon.plan import Role


class _Reached(Exception):  # noqa: N818 - control flow, not an error
    """Raised by a hook to end a forward pass where its value is known."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class State:
    """One batch between two layers.

    Attributes:
        dense: The dense model's hidden states, shape (batch, tokens, hidden).
        pruned: The pruned model's.
        mask: True for real tokens, shape (batch, tokens).
        args: What else the layers are called with (attention mask and so on).
        kwargs: Likewise, by name.
    """

    dense: Tensor
    pruned: Tensor
    mask: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """One layer's output for ``hidden``."""
        output = layer(hidden, *self.args, **self.kwargs)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def input_of(self, layer: nn.Module, matrix: nn.Module, hidden: Tensor) -> Tensor:
        """What reaches ``matrix`` inside ``layer``, padding excluded, shape (real tokens, in)."""

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _Reached(inputs[0])

        handle = matrix.register_forward_pre_hook(stop)
        try:
            self.run(layer, hidden)
        except _Reached as reached:
            value: Tensor = reached.value[self.mask]
            return value
        finally:
            handle.remove()
        raise AssertionError("the matrix is not used by its layer")


def first_states(model: PreTrainedModel, architecture: Architecture, batches: Sequence[Batch]) -> Iterator[State]:
    """The states before the first layer, the same for both models.

    Memory, once they are all held: 8 bytes · hidden width · padded tokens.
    """

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached((args, kwargs))

    first = architecture.layers(model)[0]
    for batch in batches:
        batch = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        handle = first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            model(**batch)
        except _Reached as reached:
            args, kwargs = reached.value
            hidden = args[0] if args else kwargs.pop("hidden_states")
            yield State(hidden, hidden.clone(), batch["attention_mask"].bool(), args[1:], kwargs)
        finally:
            handle.remove()


def input_moments(
    states: Sequence[State], dense: nn.Module, pruned: nn.Module, path: str, dense_only: bool = False
) -> Moments:
    """Moments of the inputs of the matrix at ``path`` in a layer of both models.

    Args:
        states: Before that layer.
        dense: The dense model's layer.
        pruned: The pruned model's layer, its earlier matrices replaced already.
        path: Path from the layer to the matrix.
        dense_only: Leave the pruned model out: moments of the dense inputs alone.
    """
    dense_matrix, pruned_matrix = dense.get_submodule(path), pruned.get_submodule(path)
    assert isinstance(dense_matrix, nn.Linear)
    moments = Moments(dense_matrix.in_features, paired=not dense_only)
    for state in states:
        x = state.input_of(dense, dense_matrix, state.dense)
        moments.update(x, None if dense_only else state.input_of(pruned, pruned_matrix, state.pruned))
    return moments


@torch.no_grad()
def advance(states: Sequence[State], dense: nn.Module, pruned: nn.Module) -> None:
    """Runs one whole layer of each model on all states, in place."""
    for state in states:
        state.dense = state.run(dense, state.dense)
        state.pruned = state.run(pruned, state.pruned)


STAGES: tuple[tuple[Role, ...], ...] = (
    ("query", "key", "value"),
    ("attention_output",),
    ("intermediate",),
    ("output",),
)
"""Matrices that can be compensated together, in the order in which a layer computes them."""
