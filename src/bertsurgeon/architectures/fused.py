"""Matrices that a model computes as one, taken apart for pruning and put together again.

Once each role has a linear layer of its own, everything else in the library is the same for all architectures. The
layers lie where the fused one was, under the names of their roles, so that nothing around them changes.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bertsurgeon.architectures.encoder import Encoder
from bertsurgeon.architectures.table import Architecture
from bertsurgeon.plan import Role


class SplitLinear(nn.Module):
    """Linear maps of the same input, their outputs side by side.

    Args:
        parts: By role, in the order of their outputs.
    """

    def __init__(self, parts: dict[Role, nn.Module]) -> None:
        super().__init__()
        for role, part in parts.items():
            self.add_module(role, part)

    @property
    def weight(self) -> Tensor:
        """The first part's: models whose code initialises the fused matrix by its name find one that is loaded."""
        return next(self.children()).get_parameter("weight")

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, Σ out_features)."""
        return torch.cat([part(x) for part in self.children()], -1)


def unfuse(model: PreTrainedModel) -> PreTrainedModel:
    """A model with the same outputs in which every matrix is a linear layer: a copy where something is fused.

    Args:
        model: Dense; left as it is.
    """
    encoder = Encoder(model)
    if not any(_fused(encoder.architecture, layer) for layer in encoder.layers):
        return model
    copy = deepcopy(model)
    unfuse_in_place(copy)
    return copy


def unfuse_in_place(model: PreTrainedModel) -> None:
    """Gives every matrix of a dense model a linear layer of its own; also on the meta device."""
    encoder = Encoder(model)
    architecture = encoder.architecture
    for layer in encoder.layers:
        for path, module in _fused(architecture, layer).items():
            weight = module.weight.detach().T if isinstance(module, Conv1D) else module.weight.detach()
            bias = None if module.bias is None else module.bias.detach()
            roles = architecture.fused.get(path)
            if roles is None:
                layer.set_submodule(path, _linear(weight, bias))
                continue
            size = len(weight) // len(roles)
            biases = [None] * len(roles) if bias is None else bias.split(size)
            parts = zip(weight.split(size), biases, strict=True)
            layer.set_submodule(path, SplitLinear(dict(zip(roles, (_linear(*part) for part in parts), strict=True))))


def fuse_in_place(model: PreTrainedModel, stock: PreTrainedModel) -> None:
    """Undoes :func:`unfuse_in_place`.

    Args:
        model: With linear layers at all matrices.
        stock: A model of the same class and sizes as the class makes it; on any device, its values do not matter.
    """
    encoder = Encoder(model)
    architecture = encoder.architecture
    layers = zip(encoder.layers, Encoder(stock).layers, strict=True)
    for layer, original in layers:
        for path, module in _fused(architecture, original).items():
            parts = [
                part
                for part in ([*layer.get_submodule(path).children()] or [layer.get_submodule(path)])
                if isinstance(part, nn.Linear)
            ]
            weight = torch.cat([part.weight.detach() for part in parts])
            biases = [part.bias.detach() for part in parts if part.bias is not None]
            whole = deepcopy(module).to_empty(device=weight.device).to(weight.dtype)
            with torch.no_grad():
                whole.weight.copy_(weight.T if isinstance(module, Conv1D) else weight)
                if whole.bias is not None:
                    whole.bias.copy_(torch.cat(biases))
            layer.set_submodule(path, whole)


def _fused(architecture: Architecture, layer: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """What is fused in a layer, or no linear layer, by its path."""
    names = {name for name, _ in layer.named_modules()}
    found = {path: layer.get_submodule(path) for path in architecture.fused if path in names}
    found |= {path: layer.get_submodule(path) for path in architecture.matrices.values() if path in names}
    return {
        path: module
        for path, module in found.items()
        if isinstance(module, Conv1D) or (isinstance(module, nn.Linear) and path in architecture.fused)
    }


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear: nn.Linear = nn.utils.skip_init(
        nn.Linear, weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear
