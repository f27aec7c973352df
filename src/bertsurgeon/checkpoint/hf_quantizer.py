"""Registration with transformers: pruned and sparse models load by ``from_pretrained`` and save by ``save_pretrained``.

transformers lets third parties prepare a model's modules before its weights are loaded through its registry of
*quantizers*; pruning needs exactly that. Importing :mod:`bertsurgeon` registers two methods. ``bertsurgeon`` is for
models with a plan, which may be sparse as well. ``bertsurgeon-sparse`` is for sparse models without a plan: their
modules are stock, and the matrices in their files are packed.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bertsurgeon.architectures import fuse_in_place, unfuse_in_place
from bertsurgeon.checkpoint.integrity import check_digests
from bertsurgeon.checkpoint.packed import DAMAGED, Packing, hook_packed, install_packed, packed_state, restore_model
from bertsurgeon.embedder import new_model_like
from bertsurgeon.errors import CheckpointError, ModelError, PlanError
from bertsurgeon.files import DamagedFileError, Digests, make_digests
from bertsurgeon.layers import dense_twin, install_plan, reset_indices
from bertsurgeon.plan import ALL_ROLES, ROLES, ModelPlan

METHOD = "bertsurgeon"
SPARSE_METHOD = "bertsurgeon-sparse"

FORMAT_VERSION = 2
"""Newest version of the format with a plan; a model without zeros is written as version 1."""

SPARSE_FORMAT_VERSION = 2
"""Newest version of the sparse format; a model without integers is written as version 1."""

_CONVERSIONS = "_weight_conversions"
"""Attribute in which transformers keeps how tensors are renamed in files; None selects the architecture's rules."""


@register_quantization_config(METHOD)
class BertSurgeonConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` in the ``config.json`` of a model with a plan.

    Args:
        plan: The plan, or the plain data that its ``to_dict`` wrote.
        format_version: Version of the checkpoint; see ``docs/format.md``.
        sparse: How zeros are stored, or the plain data of that; None if every weight is stored.
        digests: Plain data of the digests of the files; None if there are none, as in checkpoints of 0.1.0.
        **kwargs: Ignored, so that later minor additions can be read.

    Attributes:
        digests: Digests of the files until the model is loaded, and after it was saved.

    Raises:
        CheckpointError: If the format is newer than this version of the library, or the plan is damaged.
    """

    def __init__(
        self,
        plan: ModelPlan | dict[str, Any] | None = None,
        format_version: int = FORMAT_VERSION,
        sparse: Packing | dict[str, Any] | None = None,
        digests: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_version(format_version, FORMAT_VERSION, "format")
        self.quant_method = METHOD  # type: ignore[assignment]  # the enumeration only lists transformers' own
        try:
            self.plan = plan if isinstance(plan, ModelPlan) else ModelPlan.from_dict(plan or {})
        except PlanError as error:
            raise CheckpointError(f"config.json is damaged: {error}") from error
        if not isinstance(sparse, Packing | dict | None):
            raise CheckpointError(DAMAGED)
        self.packing = Packing.read(sparse) if isinstance(sparse, dict) else sparse
        self.digests = _read_digests(digests)

    @property
    def format_version(self) -> int:
        """The lowest version that can express this entry."""
        return 1 if self.packing is None else 2

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for ``config.json``."""
        entry = {"quant_method": METHOD, "format_version": self.format_version, "plan": self.plan.to_dict()}
        if self.packing is not None:
            entry["sparse"] = self.packing.to_dict()
        return entry | _digests_entry(self.digests)

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns the same as :meth:`to_dict`; no entry has a default that could be left out."""
        return self.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sparsity={self.plan.sparsity:.4f}, format_version={self.format_version})"


@register_quantization_config(SPARSE_METHOD)
class SparseConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` in the ``config.json`` of a sparse model without a plan.

    Args:
        block: Consecutive weights of a row that share a bit.
        format_version: Version of the checkpoint; see ``docs/format.md``.
        digests: See :class:`BertSurgeonConfig`.
        **kwargs: The other fields of :class:`bertsurgeon.checkpoint.Packing`; unknown ones are ignored, so that later
            minor additions can be read.

    Raises:
        CheckpointError: If the format is newer than this version of the library, or the entry is damaged.
    """

    def __init__(
        self,
        block: int = 1,
        format_version: int = SPARSE_FORMAT_VERSION,
        digests: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_version(format_version, SPARSE_FORMAT_VERSION, "sparse format")
        self.quant_method = SPARSE_METHOD  # type: ignore[assignment]  # the enumeration only lists transformers' own
        self.packing = Packing.read({"block": block, **kwargs})
        if any(not set(ROLES) <= set(layer) <= set(ALL_ROLES) for layer in self.packing.values):
            raise CheckpointError(DAMAGED)
        self.digests = _read_digests(digests)

    @property
    def format_version(self) -> int:
        """The lowest version that can express this entry."""
        return 2 if self.packing.has_integers else 1

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for ``config.json``."""
        entry = {"quant_method": SPARSE_METHOD, "format_version": self.format_version, **self.packing.to_dict()}
        return entry | _digests_entry(self.digests)

    def to_diff_dict(self) -> dict[str, Any]:
        """Returns the same as :meth:`to_dict`; no entry has a default that could be left out."""
        return self.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(block={self.packing.block}, format_version={self.format_version})"


def _read_digests(data: dict[str, Any] | None) -> Digests | None:
    try:
        return None if data is None else Digests.from_dict(data)
    except DamagedFileError as error:
        raise CheckpointError(f"config.json is damaged: {error}; copy the model again.") from error


def _digests_entry(digests: Digests | None) -> dict[str, Any]:
    return {} if digests is None else {"digests": digests.to_dict()}


def _check_version(version: object, newest: int, name: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= newest:
        raise CheckpointError(
            f"The model was saved in {name} {version}, this version of bertsurgeon reads up to {newest}; update "
            "bertsurgeon."
        )


@register_quantizer(METHOD)
class BertSurgeonQuantizer(HfQuantizer):
    """Puts the plan's layers into a freshly built model before transformers loads its weights."""

    quantization_config: BertSurgeonConfig

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        self._check_digests(checkpoint_files)
        install_plan(model, self.quantization_config.plan)
        if self.quantization_config.packing is not None:
            install_packed(model, self.quantization_config.packing)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.quantization_config.packing is not None:
            restore_model(model)
            hook_packed(model)
        reset_indices(model)
        _allow_casts(model)
        return model

    def _check_digests(self, checkpoint_files: Sequence[str] | None) -> None:
        """Checks the files before anything is loaded, and removes the digests: weights in memory may change."""
        digests = self.quantization_config.digests
        if digests is not None and checkpoint_files:
            check_digests(Path(checkpoint_files[0]).parent, [Path(file) for file in checkpoint_files], digests)
        self.quantization_config.digests = None

    def update_weight_conversions(self, weight_conversions: list[Any], model: PreTrainedModel) -> list[Any]:
        """Returns no conversions: files use the names of the model's modules, not those of its first release."""
        return []

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        """Returns the tensors of the file (None for those of the model); counts and digests go to the configuration."""
        config = model.config.quantization_config
        state = None
        if config.packing is not None:
            state, config.packing = packed_state(model, config.packing)
        config.digests = None
        config.digests = make_digests(_saved_tensors(model, state), json.loads(model.config.to_json_string()))
        return state, {}

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Pruned models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Pruned models can be trained."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """All parameters of pruned models can be trained, without adapters."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Pruned models can be compiled."""
        return True


@register_quantizer(SPARSE_METHOD)
class SparseQuantizer(BertSurgeonQuantizer):
    """Puts packed matrices into a freshly built model while it is loaded, and writes them when it is saved."""

    quantization_config: SparseConfig  # type: ignore[assignment]  # of another method

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> PreTrainedModel:
        self._check_digests(checkpoint_files)
        unfuse_in_place(model)
        install_packed(model, self.quantization_config.packing)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        restore_model(model)
        hook_packed(model)
        _allow_casts(model)
        return model


def _saved_tensors(model: PreTrainedModel, state: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Returns the tensors that ``save_pretrained`` writes: without those that are tied to others, or left out."""
    omitted = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    tensors = model.state_dict() if state is None else state
    return {name: tensor for name, tensor in tensors.items() if name not in omitted}


def attach_plan(model: PreTrainedModel, plan: ModelPlan, packing: Packing | None = None) -> None:
    """Attaches a plan to a pruned model, so that ``save_pretrained`` writes it.

    Args:
        model: A model with the plan's layers.
        plan: Its plan.
        packing: How its zeros are stored, if it is sparse as well.
    """
    config = BertSurgeonConfig(plan, sparse=packing)
    _attach(model, config, BertSurgeonQuantizer(config, pre_quantized=True))


def attach_sparse(model: PreTrainedModel, block: int) -> None:
    """Declares a model sparse: ``save_pretrained`` packs the matrices of its encoder, one bit per ``block`` weights.

    Args:
        model: A model with a plan or without.
        block: See :class:`bertsurgeon.checkpoint.Packing`.
    """
    if not is_sparse(model):
        hook_packed(model)
    plan = get_plan(model)
    if plan is not None:
        attach_plan(model, plan, Packing(block))
    else:
        config = SparseConfig(block)
        _attach(model, config, SparseQuantizer(config, pre_quantized=True))


def detach_sparse(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a stock copy of a sparse model without a plan; it is saved with all its zeros."""
    copy = deepcopy(model)
    quantizer: Any = copy.hf_quantizer
    quantizer.remove_quantization_config(copy)
    setattr(copy, _CONVERSIONS, None)
    with torch.device("meta"):
        stock = new_model_like(copy, copy.config)
    fuse_in_place(copy, stock)
    return copy


def get_plan(model: PreTrainedModel) -> ModelPlan | None:
    """Returns the plan that a model was pruned with; None for dense models, and for sparse ones without a plan."""
    config = getattr(model.config, "quantization_config", None)
    return config.plan if isinstance(config, BertSurgeonConfig) else None


def is_sparse(model: PreTrainedModel) -> bool:
    """Returns whether a model was declared sparse (see :func:`attach_sparse`), with a plan or without."""
    return sparse_block(model) is not None


def sparse_block(model: PreTrainedModel) -> int | None:
    """Returns how many weights share a bit in the file of a sparse model; None for other models."""
    packing: Packing | None = getattr(getattr(model.config, "quantization_config", None), "packing", None)
    return None if packing is None else packing.block


def _attach(model: PreTrainedModel, config: QuantizationConfigMixin, quantizer: HfQuantizer) -> None:
    """Sets the attributes that ``from_pretrained`` sets on models of a registered method."""
    model.config.quantization_config = config
    attributes: dict[str, Any] = {
        "hf_quantizer": quantizer,
        "quantization_method": config.quant_method,
        _CONVERSIONS: [],  # tensors are saved under the names of the model's modules
    }
    for name, value in attributes.items():
        setattr(model, name, value)
    _allow_casts(model)


def _allow_casts(model: PreTrainedModel) -> None:
    """Makes ``half`` and ``float`` work, which transformers refuses for quantized models: ours hold plain weights."""
    whole: Any = model  # the attribute has no type in transformers
    whole.is_quantized = False


def to_dense(model: PreTrainedModel) -> PreTrainedModel:
    """Makes the zero-filled dense twin of a pruned or sparse model: a stock model with the same outputs.

    Args:
        model: What :func:`bertsurgeon.prune` returned, or a loaded checkpoint; left as it is.

    Raises:
        ModelError: If the model is dense already, or the stock model lacks a bias that compensation added.
    """
    plan = get_plan(model)
    if plan is not None:
        return dense_twin(model, plan)
    if is_sparse(model):
        return detach_sparse(model)
    raise ModelError("The model is dense already.")
