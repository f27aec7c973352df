"""Runs the dense and the pruned model in lockstep, layer by layer, and collects the inputs of their matrices."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon import progress
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, Moments, token_mask
from bertsurgeon.plan import Role, sub_layer_of
from bertsurgeon.tasks import model_inputs


class _Stop(Exception):  # noqa: N818 - control flow, not an error
    """Raised by a hook to end a forward pass when its value has been computed."""

    def __init__(self, value: Any) -> None:
        self.value = value


Tracker = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Returns what is tracked of a module of the dense layer, from the module and from its inputs and outputs, shapes
(batch, tokens, in) and (batch, tokens, out)."""


def track_input(_: nn.Module, x: Tensor, __: Tensor) -> Tensor:
    """Tracks a module's inputs."""
    return x


def track_target(module: nn.Module, _: Tensor, output: Tensor) -> Tensor:
    """Tracks the outputs of a matrix without its bias."""
    return output if module.bias is None else output - module.bias  # type: ignore[operator]


@dataclass
class LayerInputs:
    """The inputs of one layer for one batch, in both models, and what has been computed inside the layer.

    Every matrix of the dense layer runs once, and so does every matrix of the pruned layer: what a later stage needs of
    an earlier one is kept.

    Attributes:
        dense: The dense model's hidden states, shape (batch, tokens, hidden).
        pruned: The pruned model's hidden states, shape (batch, tokens, hidden).
        mask: True for real tokens, shape (batch, tokens).
        calls: The other inputs of every layer (attention mask and so on): arguments, and arguments by name.
        attention: Path from a layer to its attention.
        first_paths: Paths to the first matrices of each sub-layer, by the path to its last one.
        layer: Index of the layer.
        tracked: What :meth:`run_dense` tracked, by path: one row for each real token.
        next_dense: The dense layer's output, shape (batch, tokens, hidden).
        pruned_attention: Output of the pruned layer's attention, if stored by :meth:`keep_attention`.
        held: Inputs of last matrices in the pruned layer, by path, shape (batch, tokens, in).
        bf16: Run both models in bfloat16 (autocast).
    """

    dense: Tensor
    pruned: Tensor
    mask: Tensor
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    attention: str
    first_paths: Mapping[str, Sequence[str]]
    layer: int = 0
    tracked: dict[str, Tensor] = field(default_factory=dict)
    next_dense: Tensor | None = None
    pruned_attention: Any = None
    held: dict[str, Tensor] = field(default_factory=dict)
    bf16: bool = False

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Computes the output of one layer, of either model, shape (batch, tokens, hidden)."""
        args, kwargs = self.calls[self.layer]
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.bf16):
            output = layer(hidden, *args, **kwargs)
        hidden_states: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden_states

    def run_dense(self, layer: nn.Module, trackers: Mapping[str, Tracker]) -> None:
        """Runs the dense layer, and stores its output and what is tracked of its modules.

        Args:
            layer: The dense model's layer.
            trackers: What is tracked, by the path from the layer to the module.
        """

        def keep(path: str, tracker: Tracker) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                if path not in self.tracked:  # a matrix may be called a second time, for positions
                    self.tracked[path] = tracker(module, arguments[0], output)[self.mask]

            return hook

        handles = [
            layer.get_submodule(path).register_forward_hook(keep(path, tracker)) for path, tracker in trackers.items()
        ]
        try:
            self.next_dense = self.run(layer, self.dense)
        finally:
            for handle in handles:
                handle.remove()

    def keep_attention(self, layer: nn.Module) -> None:
        """Runs the attention of the pruned layer and stores its output for the later stages of the layer."""
        if self.pruned_attention is None:
            self.pruned_attention = self._output_of_attention(layer)

    def clear(self) -> None:
        """Drops what was computed in the pruned layer; call it when its hidden states or its attention change."""
        self.pruned_attention = None
        self.held.clear()

    def _output_of_attention(self, layer: nn.Module) -> Any:
        def stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            raise _Stop(output)

        handle = layer.get_submodule(self.attention).register_forward_hook(stop)
        try:
            with self._shortcuts(layer):
                self.run(layer, self.pruned)
        except _Stop as stopped:
            return stopped.value
        finally:
            handle.remove()
        raise AssertionError("the layer does not use its attention")

    def pruned_inputs(self, layer: nn.Module, paths: Sequence[str]) -> dict[str, Tensor]:
        """Returns the inputs of modules inside the pruned layer for real tokens, shapes (real tokens, in), by path.

        Args:
            layer: The pruned model's layer.
            paths: Paths from the layer to the modules; the first one is computed last, and the pass ends there.
        """
        inputs: dict[str, Tensor] = {}

        def keep(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
                if path not in inputs:  # a matrix may be called a second time, for positions
                    inputs[path] = arguments[0]
                if path == paths[0]:
                    raise _Stop(None)

            return hook

        with self._shortcuts(layer):
            handles = [layer.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
            try:
                self.run(layer, self.pruned)
            except _Stop:
                if paths[0] in self.first_paths:
                    self.held[paths[0]] = inputs[paths[0]]
                return {path: values[self.mask] for path, values in inputs.items()}
            finally:
                for handle in handles:
                    handle.remove()
        raise AssertionError("the matrix is not used by its layer")

    def advance(self, layer: nn.Module) -> None:
        """Goes on to the next layer, with the output of the pruned one."""
        assert self.next_dense is not None
        with self._shortcuts(layer):
            self.pruned = self.run(layer, self.pruned)
        self.dense, self.next_dense = self.next_dense, None
        self.layer += 1
        self.tracked.clear()
        self.clear()

    @contextmanager
    def _shortcuts(self, layer: nn.Module) -> Iterator[None]:
        """Lets the pruned layer continue from what has been computed of it.

        A stored attention does not run. Where the inputs of a sub-layer's last matrix are held, its first matrices
        return zeros, and the last one gets what is held.
        """
        patched: list[nn.Module] = []

        def patch(path: str, forward: Callable[..., Any]) -> None:
            module = layer.get_submodule(path)
            module.forward = forward
            patched.append(module)

        with ExitStack() as stack:
            if self.pruned_attention is not None:
                patch(self.attention, lambda *_, **__: self.pruned_attention)
            for last, value in self.held.items():
                for first in self.first_paths[last]:
                    outputs: Any = layer.get_submodule(first).out_features
                    patch(first, lambda x, outputs=outputs: x.new_zeros(*x.shape[:-1], outputs))
                handle = layer.get_submodule(last).register_forward_pre_hook(lambda _, __, value=value: (value,))
                stack.callback(handle.remove)
            try:
                yield
            finally:
                for module in patched:
                    del module.forward


def first_layer_inputs(model: PreTrainedModel, batches: Sequence[Batch], bf16: bool = False) -> Iterator[LayerInputs]:
    """Yields the inputs of the first layer batch by batch; they are the same for both models.

    Memory, if all of them are kept: 8 bytes · hidden width · padded tokens.

    Args:
        model: The dense model.
        batches: Padded batches.
        bf16: Run both models in bfloat16 (autocast).
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

    paths = architecture.matrices
    first_paths = {paths[roles[-1]]: [paths[role] for role in roles[:-1]] for roles in encoder.sub_layers.values()}
    extra = {"use_cache": False} if architecture.decoder else {}
    for batch in batches:
        batch = {name: value.to(model.device) for name, value in model_inputs(batch).items()}
        calls.clear()
        handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in recorded]
        try:
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                model(**batch, **extra)
        except _Stop:
            hidden = calls[0][0][0] if calls[0][0] else calls[0][1]["hidden_states"]
            others = [
                (args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"})
                for args, kwargs in calls
            ]
            others *= len(layers) // len(others)
            mask = token_mask(model, batch)
            inputs = LayerInputs(hidden, hidden.clone(), mask, others, architecture.attention, first_paths)
            inputs.bf16 = bf16
            yield inputs
        finally:
            for handle in handles:
                handle.remove()


def input_moments(
    layer_inputs: Sequence[LayerInputs],
    pruned: nn.Module,
    path: str,
    *,
    width: int | None = None,
    residual: str | None = None,
    weights: Sequence[Tensor] | None = None,
    of_targets: bool = False,
    dense_only: bool = False,
    positions: str | None = None,
) -> Moments:
    """Computes the moments of the inputs of one matrix in a layer of both models.

    Args:
        layer_inputs: Inputs of that layer, batch by batch; each process has its share. The dense layer has run, and its
            matrix at ``path`` is tracked.
        pruned: The pruned model's layer, its earlier matrices already replaced.
        path: Path from the layer to the matrix.
        width: Channels that the matrix reads in the pruned model; None for all.
        residual: Path to a module whose input is the residual stream that the matrix's output is added to, to track the
            drift of the stream; None not to track it.
        weights: Weights of the tokens, one tensor of shape (real tokens,) per batch; None for equal weights.
        of_targets: Whether outputs of the dense matrix are tracked instead of its inputs.
        dense_only: Compute the moments of what is tracked alone, without running the pruned model.
        positions: Name of an argument of the layers that the matrix reads in addition to the tokens; its rows count as
            tokens.
    """
    tracked = layer_inputs[0].tracked[path]
    moments = Moments(
        tracked.shape[-1],
        paired=not dense_only,
        pruned_width=None if dense_only else width,
        drift_width=0 if residual is None else int(layer_inputs[0].dense.shape[-1]),
        of_targets=of_targets,
        device=tracked.device,
    )
    paths = [path] if residual is None else [path, residual]
    for number, inputs in enumerate(layer_inputs):
        weight = None if weights is None else weights[number]
        if dense_only:
            moments.update(inputs.tracked[path], weights=weight)
            continue
        pruned_x = inputs.pruned_inputs(pruned, paths)
        drift = None if residual is None else inputs.tracked[residual] - pruned_x[residual]
        moments.update(inputs.tracked[path], pruned_x[path], drift, weight)
        position_rows = None if positions is None else inputs.calls[inputs.layer][1].get(positions)
        if position_rows is not None:
            moments.update(position_rows, position_rows)
    moments.reduce()
    return moments


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


def lockstep(
    dense: Encoder,
    pruned: Encoder,
    layer_inputs: Sequence[LayerInputs],
    trackers: Callable[[int], Mapping[str, Tracker]],
) -> Iterator[Stage]:
    """Yields the stages of both encoders from the input to the output, and advances the inputs after each layer.

    Args:
        dense: Encoder of the dense model.
        pruned: Encoder of the pruned model, whose matrices may be replaced at each stage.
        layer_inputs: Inputs of the first layer, batch by batch; changed in place.
        trackers: Returns what is tracked of the dense layer with an index, by path.
    """
    layers = list(zip(dense.layers, pruned.layers, strict=True))
    for index, (before, after) in progress.track(enumerate(layers), "Compensating", len(layers)):
        tracked = trackers(index)
        for inputs in layer_inputs:
            inputs.run_dense(before, tracked)
        for stage in STAGES:
            roles = [role for role in stage if role in dense.roles]
            yield Stage(index, roles, before, after)
            sub_layer = sub_layer_of(roles[0])
            if dense.last_role(sub_layer) in roles:  # frees memory
                for path in (dense.architecture.matrices[role] for role in dense.sub_layers[sub_layer]):
                    for inputs in layer_inputs:
                        inputs.tracked.pop(path, None)
        if index + 1 < len(layers):
            for inputs in layer_inputs:
                inputs.advance(after)
