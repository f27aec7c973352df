"""Registration with transformers: pruned models load and save through ``from_pretrained`` and ``save_pretrained``.

transformers lets third parties prepare a model's modules before its weights are loaded through its registry of
*quantizers*; pruning needs exactly that. Importing :mod:`bertsurgeon` registers the method ``bertsurgeon``.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bertsurgeon.checkpoint.packed import Packing, hook_packed, install_packed, packed_state, restore_model
from bertsurgeon.errors import CheckpointError, PlanError
from bertsurgeon.layers import install_plan, reset_indices
from bertsurgeon.plan import ModelPlan

METHOD = "bertsurgeon"
NAMES = "_weight_conversions"
"""Where transformers keeps how a model's tensors are called in files, None for what it does by itself."""
FORMAT_VERSION = 2
"""The newest; a model without zeros is written as version 1, which earlier readers know."""


@register_quantization_config(METHOD)
class BertSurgeonConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of a pruned model's ``config.json``.

    Args:
        plan: The plan, or the plain data its ``to_dict`` wrote.
        format_version: Of the checkpoint; see ``docs/format.md``.
        sparse: How zeros are stored, or the plain data of that; None where there are none to speak of.
        **kwargs: Ignored, so that later minor additions can be read.

    Raises:
        CheckpointError: If the format is newer than this version, or the plan is damaged.
    """

    def __init__(
        self,
        plan: ModelPlan | dict[str, Any] | None = None,
        format_version: int = FORMAT_VERSION,
        sparse: Packing | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(format_version, int) or not 1 <= format_version <= FORMAT_VERSION:
            raise CheckpointError(
                f"The model was saved in format {format_version}, this version of bertsurgeon reads up to "
                f"{FORMAT_VERSION}; update bertsurgeon."
            )
        self.quant_method = METHOD  # type: ignore[assignment]  # the enumeration only lists transformers' own
        try:
            self.plan = plan if isinstance(plan, ModelPlan) else ModelPlan.from_dict(plan or {})
        except PlanError as error:
            raise CheckpointError(f"config.json is damaged: {error}") from error
        self.packing = Packing.read(sparse) if isinstance(sparse, dict) else sparse

    @property
    def format_version(self) -> int:
        """The version it is written in."""
        return 1 if self.packing is None else 2

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        entry = {"quant_method": METHOD, "format_version": self.format_version, "plan": self.plan.to_dict()}
        return entry if self.packing is None else {**entry, "sparse": self.packing.to_dict()}

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything; there are no defaults worth leaving out."""
        return self.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sparsity={self.plan.sparsity:.4f}, format_version={self.format_version})"


@register_quantizer(METHOD)
class BertSurgeonQuantizer(HfQuantizer):
    """Puts the plan's layers into a freshly built model before transformers loads its weights."""

    quantization_config: BertSurgeonConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        install_plan(model, self.quantization_config.plan)
        if self.quantization_config.packing is not None:
            install_packed(model, self.quantization_config.packing)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        if self.quantization_config.packing is not None:
            restore_model(model)
            hook_packed(model)
        reset_indices(model)
        return model

    def update_weight_conversions(self, weight_conversions: list[Any], model: PreTrainedModel) -> list[Any]:
        """None: our files use the names of the model's modules, not those of the first release of its weights."""
        return []

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        """The tensors of the file; the numbers of values go to the model's configuration."""
        config = model.config.quantization_config
        if config.packing is None:
            return None, {}
        state, config.packing = packed_state(model, config.packing)
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


def attach_plan(model: PreTrainedModel, plan: ModelPlan, packing: Packing | None = None) -> None:
    """Marks a pruned model so that ``save_pretrained`` writes its plan and the Trainer accepts it.

    Args:
        model: With the plan's layers.
        plan: Its plan.
        packing: How its zeros are stored, if it is sparse as well.
    """
    config = BertSurgeonConfig(plan, sparse=packing)
    mark(model, config, BertSurgeonQuantizer(config, pre_quantized=True))


def mark(model: PreTrainedModel, config: QuantizationConfigMixin, quantizer: HfQuantizer) -> None:
    """Leaves the marks that ``from_pretrained`` leaves on models of a registered method."""
    model.config.quantization_config = config
    marks: dict[str, Any] = {
        "hf_quantizer": quantizer,
        "is_quantized": True,
        "quantization_method": config.quant_method,
        NAMES: [],  # tensors are saved under the names of the model's modules
    }
    for name, value in marks.items():
        setattr(model, name, value)


def get_plan(model: PreTrainedModel) -> ModelPlan | None:
    """The plan a model was pruned with, or None for a dense model."""
    config = getattr(model.config, "quantization_config", None)
    return config.plan if isinstance(config, BertSurgeonConfig) else None
