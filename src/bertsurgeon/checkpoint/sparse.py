"""Registration of sparse models with transformers: stock modules in memory, packed matrices on disk.

A sparse model is a stock dense model with zeros. It is marked, so that ``save_pretrained`` stores only what is left and
``from_pretrained`` (after ``import bertsurgeon``) gives the zeros back. A model pruned by a plan may be sparse as well:
its mark is the plan's, which then says how the zeros are stored.
"""

from copy import deepcopy
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bertsurgeon.architectures import fuse_in_place, unfuse_in_place
from bertsurgeon.checkpoint.hf_quantizer import NAMES, BertSurgeonQuantizer, attach_plan, get_plan, mark
from bertsurgeon.checkpoint.packed import DAMAGED, Packing, hook_packed, install_packed, restore_model
from bertsurgeon.embedder import new_model_like
from bertsurgeon.errors import CheckpointError
from bertsurgeon.plan import ALL_ROLES, ROLES

SPARSE_METHOD = "bertsurgeon-sparse"
SPARSE_FORMAT_VERSION = 2
"""The newest; a model without integers is written as version 1, which earlier readers know."""


@register_quantization_config(SPARSE_METHOD)
class SparseConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of a sparse model's ``config.json``.

    Args:
        block: Consecutive weights of a row that share a bit.
        format_version: Of the checkpoint; see ``docs/format.md``.
        **kwargs: The rest of what is stored, see :class:`bertsurgeon.checkpoint.packed.Packing`; others are ignored,
            so that later minor additions can be read.

    Raises:
        CheckpointError: If the format is newer than this version, or the entry is damaged.
    """

    def __init__(self, block: int = 1, format_version: int = SPARSE_FORMAT_VERSION, **kwargs: Any) -> None:
        if not isinstance(format_version, int) or not 1 <= format_version <= SPARSE_FORMAT_VERSION:
            raise CheckpointError(
                f"The model was saved in the sparse format {format_version}, this version of bertsurgeon reads up to "
                f"{SPARSE_FORMAT_VERSION}; update bertsurgeon."
            )
        self.quant_method = SPARSE_METHOD  # type: ignore[assignment]  # the enumeration only lists transformers' own
        self.packing = Packing.read({"block": block, **kwargs})
        if any(not set(ROLES) <= set(layer) <= set(ALL_ROLES) for layer in self.packing.values):
            raise CheckpointError(DAMAGED)

    @property
    def format_version(self) -> int:
        """The version it is written in."""
        return 2 if self.packing.has_integers else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        return {"quant_method": SPARSE_METHOD, "format_version": self.format_version, **self.packing.to_dict()}

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything; there are no defaults worth leaving out."""
        return self.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(block={self.packing.block}, format_version={self.format_version})"


@register_quantizer(SPARSE_METHOD)
class SparseQuantizer(BertSurgeonQuantizer):
    """Puts packed matrices into a freshly built model while it is loaded, and writes them when it is saved."""

    quantization_config: SparseConfig  # type: ignore[assignment]  # of another method

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        unfuse_in_place(model)
        install_packed(model, self.quantization_config.packing)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        restore_model(model)
        hook_packed(model)
        return model


def attach_sparse(model: PreTrainedModel, block: int) -> None:
    """Marks a model so that ``save_pretrained`` packs the matrices of its encoder, one bit per ``block`` weights.

    Args:
        model: With a plan or without.
        block: See :class:`bertsurgeon.checkpoint.packed.Packing`.
    """
    if not is_sparse(model):
        hook_packed(model)
    plan = get_plan(model)
    if plan is not None:
        attach_plan(model, plan, Packing(block))
    else:
        config = SparseConfig(block)
        mark(model, config, SparseQuantizer(config, pre_quantized=True))


def detach_sparse(model: PreTrainedModel) -> PreTrainedModel:
    """A stock copy of a sparse model without a plan, which is saved with all its zeros."""
    copy = deepcopy(model)
    quantizer: Any = copy.hf_quantizer
    quantizer.remove_quantization_config(copy)
    setattr(copy, NAMES, None)
    with torch.device("meta"):
        stock = new_model_like(copy, copy.config)
    fuse_in_place(copy, stock)
    return copy


def is_sparse(model: PreTrainedModel) -> bool:
    """Whether a model is marked as sparse, with a plan or without."""
    return sparse_block(model) is not None


def sparse_block(model: PreTrainedModel) -> int | None:
    """Weights that share a bit in a sparse model's file; None for other models."""
    packing: Packing | None = getattr(getattr(model.config, "quantization_config", None), "packing", None)
    return None if packing is None else packing.block
