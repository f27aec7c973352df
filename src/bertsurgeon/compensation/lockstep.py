"""Runs the dense and the pruned model in lockstep, layer by layer, and collects the inputs of their matrices."""

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


class _Stop(Exception):  # noqa: N818 - control flow, not an error
    """Raised by a hook to end a forward pass when its value has been computed."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class LayerInputs:
    """The inputs of one layer for one batch, in both models.

    Attributes:
        dense: The dense model's hidden states, shape (batch, tokens, hidden).
        pruned: The pruned model's hidden states, shape (batch, tokens, hidden).
        mask: True for real tokens, shape (batch, tokens).
        calls: The other inputs of every layer (attention mask and so on): arguments, and arguments by name.
        attention: Path from a layer to its attention.
        layer: Index of the layer.
        dense_attention: Output of the dense layer's attention, if stored by :meth:`keep_attention`.
        pruned_attention: Output of the pruned layer's attention, if stored by :meth:`keep_attention`.
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
        """Computes the output of one layer.

        Args:
            layer: The layer, of either model.
            hidden: Its hidden states, shape (batch, tokens, hidden).
            attention: Output of its attention, which then does not run; None to run it.

        Returns:
            Shape (batch, tokens, hidden).
        """
        module = layer.get_submodule(self.attention)
        args, kwargs = self.calls[self.layer]
        if attention is not None:
            module.forward = lambda *_, **__: attention
        try:
            output = layer(hidden, *args, **kwargs)
        finally:
            if attention is not None:
                del module.forward
        hidden_states: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden_states

    def keep_attention(self, dense: nn.Module, pruned: nn.Module) -> None:
        """Runs the attention of both layers and stores the outputs for the later stages of the layer."""
        if self.dense_attention is None:
            self.dense_attention = self._attention_of(dense, self.dense)
            self.pruned_attention = self._attention_of(pruned, self.pruned)

    def clear_attention(self) -> None:
        """Drops the stored outputs; call it when the hidden states or the attention change."""
        self.dense_attention = self.pruned_attention = None

    def _attention_of(self, layer: nn.Module, hidden: Tensor) -> Any:
        """Computes the output of a layer's attention module."""

        def stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            raise _Stop(output)

        handle = layer.get_submodule(self.attention).register_forward_hook(stop)
        try:
            self.run(layer, hidden)
        except _Stop as stopped:
            return stopped.value
        finally:
            handle.remove()
        raise AssertionError("the layer does not use its attention")

    def inputs_of(
        self, layer: nn.Module, paths: Sequence[str], hidden: Tensor, attention: Any = None
    ) -> dict[str, Tensor]:
        """Returns the inputs of modules inside a layer for real tokens, shapes (real tokens, in), by path.

        Args:
            layer: The layer, of either model.
            paths: Paths from the layer to the modules; the first one is computed last, and the pass ends there.
            hidden: Hidden states before the layer, shape (batch, tokens, hidden).
            attention: Output of its attention, see :meth:`run`.
        """
        inputs: dict[str, Tensor] = {}

        def keep(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                if path not in inputs:  # a matrix may be called a second time, for positions
                    inputs[path] = arguments[0][self.mask]
                if path == paths[0]:
                    raise _Stop(None)

            return hook

        handles = [layer.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
        try:
            self.run(layer, hidden, attention)
        except _Stop:
            return inputs
        finally:
            for handle in handles:
                handle.remove()
        raise AssertionError("the matrix is not used by its layer")


def first_layer_inputs(model: PreTrainedModel, batches: Sequence[Batch]) -> Iterator[LayerInputs]:
    """Yields the inputs of the first layer batch by batch; they are the same for both models.

    Memory, if all of them are kept: 8 bytes · hidden width · padded tokens.

    Args:
        model: The dense model.
        batches: Padded batches.
    """
    encoder = Encoder(model)
    architecture, layers = encoder.architecture, encoder.layers
    # layers of different types are called with different arguments (a window, for instance), others all alike
    recorded = layers if getattr(model.config, "layer_types", None) else layers[:1]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        if len(calls) == len(recorded):
            raise _Stop(None)

    extra = {"use_cache": False} if architecture.decoder else {}
    for batch in batches:
        batch = {name: value.to(model.device) for name, value in model_inputs(batch).items()}
        calls.clear()
        handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in recorded]
        try:
            model(**batch, **extra)
        except _Stop:
            hidden = calls[0][0][0] if calls[0][0] else calls[0][1]["hidden_states"]
            others = [
                (args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"})
                for args, kwargs in calls
            ]
            others *= len(layers) // len(others)
            yield LayerInputs(hidden, hidden.clone(), token_mask(model, batch), others, architecture.attention)
        finally:
            for handle in handles:
                handle.remove()


def input_moments(
    layer_inputs: Sequence[LayerInputs],
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
    """Computes the moments of the inputs of one matrix in a layer of both models.

    Args:
        layer_inputs: Inputs of that layer, batch by batch; each process has its share.
        dense: The dense model's layer.
        pruned: The pruned model's layer, its earlier matrices already replaced.
        path: Path from the layer to the matrix.
        width: Channels that the matrix reads in the pruned model; None for all.
        residual: Path to a module whose input is the residual stream that the matrix's output is added to, to track the
            drift of the stream; None not to track it.
        weights: Weights of the tokens, one tensor of shape (real tokens,) per batch; None for equal weights.
        targets_of: The dense weight, to track the outputs of the dense matrix instead of its inputs; None for inputs.
        dense_only: Compute the moments of the dense inputs alone, without running the pruned model.
        positions: Name of an argument of the layers that the matrix reads in addition to the tokens; its rows count as
            tokens.
    """
    in_features: Any = dense.get_submodule(path).in_features
    moments = Moments(
        in_features if targets_of is None else len(targets_of),
        paired=not dense_only,
        pruned_width=width,
        drift_width=0 if residual is None else int(layer_inputs[0].dense.shape[-1]),
        of_targets=targets_of is not None,
        device=layer_inputs[0].dense.device,
    )
    paths = [path] if residual is None else [path, residual]
    for number, inputs in enumerate(layer_inputs):
        weight = None if weights is None else weights[number]
        x = inputs.inputs_of(dense, paths, inputs.dense, inputs.dense_attention)
        if dense_only:
            moments.update(x[path], weights=weight)
            continue
        pruned_x = inputs.inputs_of(pruned, paths, inputs.pruned, inputs.pruned_attention)
        drift = None if residual is None else x[residual] - pruned_x[residual]
        tracked = x[path] if targets_of is None else x[path] @ targets_of.T
        moments.update(tracked, pruned_x[path], drift, weight)
        position_rows = None if positions is None else inputs.calls[inputs.layer][1].get(positions)
        if position_rows is not None:
            moments.update(position_rows, position_rows)
    moments.reduce()
    return moments


@torch.no_grad()
def advance(layer_inputs: Sequence[LayerInputs], dense: nn.Module, pruned: nn.Module) -> None:
    """Runs one whole layer of each model on all batches, in place."""
    for inputs in layer_inputs:
        inputs.dense = inputs.run(dense, inputs.dense, inputs.dense_attention)
        inputs.pruned = inputs.run(pruned, inputs.pruned, inputs.pruned_attention)
        inputs.layer += 1
        inputs.clear_attention()


STAGES: tuple[tuple[Role, ...], ...] = (
    ("query", "key", "value"),
    ("attention_output",),
    ("intermediate", "gate"),
    ("output",),
)
"""Matrices that can be compensated together, in the order in which a layer computes them."""


class Stage(NamedTuple):
    """Matrices of one layer that read the same input.

    Attributes:
        layer: Index of the layer.
        roles: The matrices that the architecture has.
        dense: The dense model's layer.
        pruned: The pruned model's layer.
    """

    layer: int
    roles: list[Role]
    dense: nn.Module
    pruned: nn.Module


def lockstep(dense: Encoder, pruned: Encoder, layer_inputs: Sequence[LayerInputs]) -> Iterator[Stage]:
    """Yields the stages of both encoders from the input to the output, and advances the inputs after each layer.

    Args:
        dense: Encoder of the dense model.
        pruned: Encoder of the pruned model, whose matrices may be replaced at each stage.
        layer_inputs: Inputs of the first layer, batch by batch; changed in place.
    """
    layers = list(zip(dense.layers, pruned.layers, strict=True))
    for index, (before, after) in progress.track(enumerate(layers), "Compensating", len(layers)):
        for stage in STAGES:
            yield Stage(index, [role for role in stage if role in dense.roles], before, after)
        if index + 1 < len(layers):
            advance(layer_inputs, before, after)
