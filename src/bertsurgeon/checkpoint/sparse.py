"""Registration of sparse models with transformers: stock modules in memory, packed matrices on disk.

A sparse model is a stock dense model with zeros. It is marked, so that ``save_pretrained`` stores only what is left and
``from_pretrained`` (after ``import bertsurgeon``) gives the zeros back.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bertsurgeon.architectures import fuse_in_place, get_architecture, unfuse_in_place
from bertsurgeon.checkpoint.packing import BITMAP, WEIGHT, PackedLinear, count_values, pack, unpack_on_load
from bertsurgeon.checkpoint.quantization import NAMES, BertSurgeonQuantizer, mark
from bertsurgeon.errors import CheckpointError
from bertsurgeon.plan import ALL_ROLES, ROLES

SPARSE_METHOD = "bertsurgeon-sparse"
SPARSE_FORMAT_VERSION = 1


@register_quantization_config(SPARSE_METHOD)
class SparseConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of a sparse model's ``config.json``.

    Args:
        block: Consecutive weights of a row that share a bit.
        values: Values that are stored, by layer and role; counted when the model is saved.
        format_version: Of the checkpoint; see ``docs/format.md``.
        **kwargs: Ignored, so that later minor additions can be read.

    Raises:
        CheckpointError: If the format is newer than this version, or the entry is damaged.
    """

    def __init__(
        self,
        block: int = 1,
        values: list[dict[str, int]] | None = None,
        format_version: int = SPARSE_FORMAT_VERSION,
        **kwargs: Any,
    ) -> None:
        if not isinstance(format_version, int) or not 1 <= format_version <= SPARSE_FORMAT_VERSION:
            raise CheckpointError(
                f"The model was saved in the sparse format {format_version}, this version of bertsurgeon reads up to "
                f"{SPARSE_FORMAT_VERSION}; update bertsurgeon."
            )
        self.quant_method = SPARSE_METHOD  # type: ignore[assignment]  # the enumeration only lists transformers' own
        self.format_version = format_version
        self.block = block
        self.values = values or []
        if not _is_count(block, 1) or not all(
            isinstance(layer, dict)
            and set(ROLES) <= set(layer) <= set(ALL_ROLES)
            and all(_is_count(n, 0) for n in layer.values())
            for layer in self.values
        ):
            raise CheckpointError("config.json is damaged: its entry for sparse matrices cannot be read.")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        return {
            "quant_method": SPARSE_METHOD,
            "format_version": self.format_version,
            "block": self.block,
            "values": self.values,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything; there are no defaults worth leaving out."""
        return self.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(block={self.block}, format_version={self.format_version})"


@register_quantizer(SPARSE_METHOD)
class SparseQuantizer(BertSurgeonQuantizer):
    """Puts packed matrices into a freshly built model while it is loaded, and writes them when it is saved."""

    quantization_config: SparseConfig  # type: ignore[assignment]  # of another method

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        install_packed(model, self.quantization_config)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        unpack_model(model)
        _hook(model)
        return model

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors of the file; the numbers of values go to the model's configuration."""
        config = model.config.quantization_config
        state: dict[str, Tensor] = model.state_dict()
        config.values = []
        for layer in _names(model):
            counts = {}
            for role, name in layer.items():
                weight = state[f"{name}.{WEIGHT}"]
                state[f"{name}.{WEIGHT}"], state[f"{name}.{BITMAP}"] = pack(weight, config.block)
                counts[role] = state[f"{name}.{WEIGHT}"].numel()
            config.values.append(counts)
        return state, {}


def attach_sparse(model: PreTrainedModel, block: int) -> None:
    """Marks a model so that ``save_pretrained`` packs the matrices of its encoder, one bit per ``block`` weights."""
    if not is_sparse(model):
        _hook(model)
    config = SparseConfig(block)
    mark(model, config, SparseQuantizer(config, pre_quantized=True))


def detach_sparse(model: PreTrainedModel) -> PreTrainedModel:
    """A stock copy of a sparse model, which is saved with all its zeros."""
    copy = deepcopy(model)
    quantizer: Any = copy.hf_quantizer
    quantizer.remove_quantization_config(copy)
    setattr(copy, NAMES, None)
    with torch.device("meta"):
        stock = type(copy)(copy.config)
    fuse_in_place(copy, stock)
    return copy


def is_sparse(model: PreTrainedModel) -> bool:
    """Whether a model is marked as sparse."""
    return isinstance(getattr(model.config, "quantization_config", None), SparseConfig)


def sparse_block(model: PreTrainedModel) -> int | None:
    """Weights that share a bit in a sparse model's file; None for other models."""
    config = getattr(model.config, "quantization_config", None)
    return config.block if isinstance(config, SparseConfig) else None


def count_kept(model: PreTrainedModel) -> list[dict[str, int]]:
    """Weights that are not zero, by layer and role."""
    return [
        {role: count_values(model.get_parameter(f"{name}.{WEIGHT}"), 1) for role, name in layer.items()}
        for layer in _names(model)
    ]


def install_packed(model: PreTrainedModel, config: SparseConfig) -> None:
    """Puts packed matrices in the places of a dense model's.

    Raises:
        CheckpointError: If the configuration does not fit the model.
    """
    unfuse_in_place(model)
    names = _names(model)
    if len(config.values) != len(names):
        raise CheckpointError(
            f"config.json is damaged: it counts the values of {len(config.values)} layers, the model has {len(names)}."
        )
    for layer, counts in zip(names, config.values, strict=True):
        if set(layer) != set(counts):
            raise CheckpointError("config.json is damaged: it counts the values of other matrices than the model has.")
        for role, name in layer.items():
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            if linear.in_features % config.block or not counts[role] <= linear.weight.numel():
                raise CheckpointError(f"config.json is damaged: its block or number of values does not fit {name}.")
            model.set_submodule(name, PackedLinear(linear, counts[role], config.block))


def unpack_model(model: PreTrainedModel) -> None:
    """Replaces packed matrices, now loaded, by linear layers.

    Raises:
        CheckpointError: If values and bitmap of one do not fit each other.
    """
    for layer in _names(model):
        for name in layer.values():
            packed = model.get_submodule(name)
            assert isinstance(packed, PackedLinear)
            model.set_submodule(name, packed.unpacked(name).train(packed.training))


def _hook(model: PreTrainedModel) -> None:
    for layer in _names(model):
        for name in layer.values():
            model.get_submodule(name).register_load_state_dict_pre_hook(unpack_on_load)


def _names(model: PreTrainedModel) -> list[dict[str, str]]:
    """Names of the matrices, by layer and role."""
    architecture = get_architecture(model.config.model_type)
    return [
        {role: architecture.matrix_name(model, layer, role) for role in architecture.roles}
        for layer in range(len(architecture.layers(model)))
    ]


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
