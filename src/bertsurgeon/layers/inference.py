"""What changes in a pruned model that is only asked, not trained: fewer passes over the activations."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import GELUActivation

from bertsurgeon.architectures import Architecture, Encoder
from bertsurgeon.layers.linear import GroupedLinear, gather_channels

ACTIVATIONS = ("intermediate_act_fn", "activation", "activation_fn", "act")
"""Names of the activation beside (or in the parent of) the first matrix of a feed-forward part."""


def prepare_for_inference(model: PreTrainedModel) -> PreTrainedModel:
    """Lets layers do together what they would do one by one.

    Query, key and value of aligned groups read their input through one gather (on a GPU the kernel gathers). A grouped
    first matrix of a feed-forward part applies the activation itself, in the kernel where there is one; behind other
    first matrices a GELU writes over its input. Parameters and checkpoints are the same.

    Args:
        model: Dense or pruned; changed in place and returned.
    """
    encoder = Encoder(model)
    architecture = encoder.architecture
    for layer in encoder.layers:
        if model.device.type == "cpu" and architecture.position_input is None:
            _share_gather(architecture, layer)
        if "gate" not in architecture.roles:
            _fuse_activation(architecture, layer)
    return model


def _find(layer: nn.Module, path: str) -> nn.Module | None:
    """The module at ``path``; None where a sub-layer was dropped."""
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None


def _share_gather(architecture: Architecture, layer: nn.Module) -> None:
    first = [_find(layer, architecture.matrices[role]) for role in ("query", "key", "value")]
    if not all(isinstance(matrix, GroupedLinear) and matrix.gathers for matrix in first):
        return
    query, *others = [matrix for matrix in first if isinstance(matrix, GroupedLinear)]
    if not all(torch.equal(query.column_index, matrix.column_index) for matrix in others):
        return
    parent = layer.get_submodule(architecture.matrices["query"].rpartition(".")[0])
    index, chunk = query.column_index, query.column_chunk

    def gather(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        gathered = gather_channels(hidden, index.to(hidden.device), chunk)
        return ((gathered, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": gathered})

    parent.register_forward_pre_hook(gather, with_kwargs=True)
    for matrix in (query, *others):
        matrix.gathers = False


def _fuse_activation(architecture: Architecture, layer: nn.Module) -> None:
    path = architecture.matrices["intermediate"]
    matrix, parent = _find(layer, path), _find(layer, path.rpartition(".")[0])
    if matrix is None or parent is None:
        return
    for name in ACTIVATIONS:
        if _is_gelu(getattr(parent, name, None)):
            if isinstance(matrix, GroupedLinear):
                setattr(parent, name, nn.Identity())
                matrix.activation = "gelu"
            else:
                setattr(parent, name, _InPlaceGELU())


def _is_gelu(module: Any) -> bool:
    """Whether it is the exact one."""
    return isinstance(module, GELUActivation) or (isinstance(module, nn.GELU) and module.approximate == "none")


class _InPlaceGELU(nn.Module):
    """A GELU that writes over its input, which nobody else reads, where nobody differentiates or compiles."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (…, neurons), as it comes."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.gelu(x)
        written: Tensor = torch.ops.aten.gelu_(x)
        return written
