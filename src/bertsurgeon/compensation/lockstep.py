"""Carrying hidden states through the encoder, layer by layer, for the dense and the pruned model side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, Moments, token_mask
from bertsurgeon.plan import Role
from bertsurgeon.tasks import model_inputs


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
        calls: What else each layer is called with (attention mask and so on): arguments, and arguments by name.
        attention: Path from a layer to its attention.
        layer: Index of the next layer.
        dense_attention: What the dense layer's attention returned, once kept (:meth:`keep_attention`).
        pruned_attention: Likewise.
    """

    dense: Tensor
    pruned: Tensor
    mask: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    attention: str
    layer: int = 0
    dense_attention: Any = None
    pruned_attention: Any = None

    def run(self, layer: nn.Module, hidden: Tensor, attention: Any = None) -> Tensor:
        """One layer's output for ``hidden``; its attention returns ``attention``, if that is known already."""
        module = layer.get_submodule(self.attention)
        args, kwargs = self.calls[self.layer]
        if attention is not None:
            module.forward = lambda *_, **__: attention
        try:
            output = layer(hidden, *args, **kwargs)
        finally:
            if attention is not None:
                del module.forward
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def keep_attention(self, dense: nn.Module, pruned: nn.Module) -> None:
        """Runs both layers' attention, once for all that follows in the layer."""
        if self.dense_attention is None:
            self.dense_attention = self._attention_of(dense, self.dense)
            self.pruned_attention = self._attention_of(pruned, self.pruned)

    def forget_attention(self) -> None:
        """To be called when the hidden states or the attention change."""
        self.dense_attention = self.pruned_attention = None

    def _attention_of(self, layer: nn.Module, hidden: Tensor) -> Any:
        def stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            raise _Reached(output)

        handle = layer.get_submodule(self.attention).register_forward_hook(stop)
        try:
            self.run(layer, hidden)
        except _Reached as reached:
            return reached.value
        finally:
            handle.remove()
        raise AssertionError("the layer does not use its attention")

    def inputs_of(
        self, layer: nn.Module, paths: Sequence[str], hidden: Tensor, attention: Any = None
    ) -> dict[str, Tensor]:
        """What reaches the matrices at ``paths`` inside ``layer``, padding excluded, shapes (real tokens, in).

        The first path is the one computed last; nothing after it runs.
        """
        inputs: dict[str, Tensor] = {}

        def keep(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                if path not in inputs:  # after the tokens a matrix may read positions, too
                    inputs[path] = arguments[0][self.mask]
                if path == paths[0]:
                    raise _Reached(None)

            return hook

        handles = [layer.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
        try:
            self.run(layer, hidden, attention)
        except _Reached:
            return inputs
        finally:
            for handle in handles:
                handle.remove()
        raise AssertionError("the matrix is not used by its layer")


def first_layer_inputs(model: PreTrainedModel, batches: Sequence[Batch]) -> Iterator[State]:
    """The states before the first layer, the same for both models.

    Memory, once they are all held: 8 bytes · hidden width · padded tokens.
    """
    encoder = Encoder(model)
    architecture, layers = encoder.architecture, encoder.layers
    # layers of different types are called differently (with a window, for instance), others all alike
    asked = layers if getattr(model.config, "layer_types", None) else layers[:1]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        if len(calls) == len(asked):
            raise _Reached(None)

    extra = {"use_cache": False} if architecture.decoder else {}
    for batch in batches:
        batch = {name: value.to(model.device) for name, value in model_inputs(batch).items()}
        calls.clear()
        handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in asked]
        try:
            model(**batch, **extra)
        except _Reached:
            hidden = calls[0][0][0] if calls[0][0] else calls[0][1]["hidden_states"]
            others = [
                (args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"})
                for args, kwargs in calls
            ]
            others *= len(layers) // len(others)
            yield State(hidden, hidden.clone(), token_mask(model, batch), others, architecture.attention)
        finally:
            for handle in handles:
                handle.remove()


def input_moments(
    states: Sequence[State],
    dense: nn.Module,
    pruned: nn.Module,
    path: str,
    *,
    width: int | None = None,
    residual: str | None = None,
    weights: Sequence[Tensor] | None = None,
    targets_of: Tensor | None = None,
    dense_only: bool = False,
    positions: str | None = None,
) -> Moments:
    """Moments of the inputs of the matrix at ``path`` in a layer of both models.

    Args:
        states: Before that layer; of several processes, each has its own.
        dense: The dense model's layer.
        pruned: The pruned model's layer, its earlier matrices replaced already.
        path: Path from the layer to the matrix.
        width: Channels the matrix reads in the pruned model, if not all.
        residual: Follow the drift of the residual stream that the matrix' output is added to: it is what enters the
            module at this path.
        weights: How much each token counts, one (tokens,) per state; None for equal weights.
        targets_of: The dense weight, to follow what leaves the dense matrix instead of what enters it.
        dense_only: Leave the pruned model out: moments of the dense inputs alone.
        positions: Name of an argument of the layers that the matrix reads beside the tokens; its rows count like them.
    """
    inputs: Any = dense.get_submodule(path).in_features
    moments = Moments(
        inputs if targets_of is None else len(targets_of),
        paired=not dense_only,
        pruned_width=width,
        drift_width=0 if residual is None else int(states[0].dense.shape[-1]),
        of_targets=targets_of is not None,
    )
    paths = [path] if residual is None else [path, residual]
    for number, state in enumerate(states):
        weight = None if weights is None else weights[number]
        x = state.inputs_of(dense, paths, state.dense, state.dense_attention)
        if dense_only:
            moments.update(x[path], weights=weight)
            continue
        seen = state.inputs_of(pruned, paths, state.pruned, state.pruned_attention)
        drift = None if residual is None else x[residual] - seen[residual]
        followed = x[path] if targets_of is None else x[path] @ targets_of.T
        moments.update(followed, seen[path], drift, weight)
        read = None if positions is None else state.calls[state.layer][1].get(positions)
        if read is not None:
            moments.update(read, read)
    moments.reduce()
    return moments


@torch.no_grad()
def advance(states: Sequence[State], dense: nn.Module, pruned: nn.Module) -> None:
    """Runs one whole layer of each model on all states, in place."""
    for state in states:
        state.dense = state.run(dense, state.dense, state.dense_attention)
        state.pruned = state.run(pruned, state.pruned, state.pruned_attention)
        state.layer += 1
        state.forget_attention()


STAGES: tuple[tuple[Role, ...], ...] = (
    ("query", "key", "value"),
    ("attention_output",),
    ("intermediate", "gate"),
    ("output",),
)
"""Matrices that can be compensated together, in the order in which a layer computes them."""


class Stage(NamedTuple):
    """Matrices of one layer that read the same.

    Attributes:
        layer: Its index.
        roles: Of the matrices, those that the architecture has.
        dense: The dense model's layer.
        pruned: The pruned model's.
    """

    layer: int
    roles: list[Role]
    dense: nn.Module
    pruned: nn.Module


def walk(dense: Encoder, pruned: Encoder, states: Sequence[State]) -> Iterator[Stage]:
    """Goes through both encoders side by side; behind each layer's last stage the states move on.

    Args:
        dense: The dense model.
        pruned: The pruned model, whose matrices may change at each stage.
        states: Before the first layer.
    """
    layers = list(zip(dense.layers, pruned.layers, strict=True))
    for index, (before, after) in progress.track(enumerate(layers), "Compensating", len(layers)):
        for stage in STAGES:
            yield Stage(index, [role for role in stage if role in dense.roles], before, after)
        if index + 1 < len(layers):
            advance(states, before, after)
