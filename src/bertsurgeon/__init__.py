"""BertSurgeon: makes fine-tuned BERT-family encoders smaller and faster in minutes.

Importing the package registers its checkpoints with transformers, so that pruned models load with
``AutoModelFor….from_pretrained``.
"""

from importlib.metadata import version

from transformers import PreTrainedModel

from bertsurgeon.benchmark import bench
from bertsurgeon.checkpoint import detach_sparse, get_plan, is_sparse, load_model, save_model
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import BertSurgeonError, ModelError
from bertsurgeon.evaluation import evaluate
from bertsurgeon.exporting import ExportConfig, export
from bertsurgeon.layer_drop import LayerDropConfig, LayerDropResult, drop_layers
from bertsurgeon.layers import GroupedLinear, LowRankLinear, dense_twin, prepare_for_inference
from bertsurgeon.methods.auto.measurements import Calibration, calibrate
from bertsurgeon.methods.report import PruneReport
from bertsurgeon.plan import ModelPlan
from bertsurgeon.pruning import prune
from bertsurgeon.recovery import TrainingConfig, recover, train
from bertsurgeon.runtime import open_exported
from bertsurgeon.vocabulary import TrimReport, trim_vocabulary

__version__ = version("bertsurgeon")

__all__ = [
    "BertSurgeonError",
    "Calibration",
    "ExportConfig",
    "GroupedLinear",
    "LayerDropConfig",
    "LayerDropResult",
    "LowRankLinear",
    "ModelPlan",
    "PruneConfig",
    "PruneReport",
    "TrainingConfig",
    "TrimReport",
    "bench",
    "calibrate",
    "drop_layers",
    "evaluate",
    "export",
    "get_plan",
    "is_sparse",
    "load_model",
    "open_exported",
    "prepare_for_inference",
    "prune",
    "recover",
    "save_model",
    "to_dense",
    "train",
    "trim_vocabulary",
]


def to_dense(model: PreTrainedModel) -> PreTrainedModel:
    """The zero-filled dense twin of a pruned or sparse model: a stock Hugging Face model with the same outputs.

    Raises:
        ModelError: If the model is not pruned.
    """
    plan = get_plan(model)
    if plan is not None:
        return dense_twin(model, plan)
    if is_sparse(model):
        return detach_sparse(model)
    raise ModelError("The model is dense already.")
