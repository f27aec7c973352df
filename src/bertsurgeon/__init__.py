"""BertSurgeon: makes fine-tuned BERT-family encoders smaller and faster in minutes.

Importing the package registers its checkpoints with transformers, so that pruned models load with
``AutoModelFor….from_pretrained``. Everything else is imported when it is first used: a process that only loads models
needs torch, transformers, safetensors and numpy, and waits for nothing more.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bertsurgeon.checkpoint import hf_quantizer as _registration  # registers the checkpoint format

if TYPE_CHECKING:
    from bertsurgeon.benchmark import BenchmarkConfig, BenchmarkReport
    from bertsurgeon.benchmark.bench import bench
    from bertsurgeon.budgets import Budget, Flops, Groups, Sparsity, Speedup, Threshold
    from bertsurgeon.checkpoint import get_plan, is_sparse, load_model, save_model, to_dense
    from bertsurgeon.compression import CompressConfig, CompressData
    from bertsurgeon.compression.compress import CompressResult, compress
    from bertsurgeon.errors import BertSurgeonError
    from bertsurgeon.evaluation import evaluate
    from bertsurgeon.exporting import ExportConfig
    from bertsurgeon.exporting.export import export
    from bertsurgeon.layer_drop import LayerDropConfig, LayerDropResult, drop_layers
    from bertsurgeon.layers import GroupedLinear, LowRankLinear, prepare_for_inference, undo_prepare_for_inference
    from bertsurgeon.methods.auto.config import AutoConfig, CalibrationConfig
    from bertsurgeon.methods.auto.measurements import Calibration, calibrate
    from bertsurgeon.methods.base import PruneConfig, PruneReport, PruneResult
    from bertsurgeon.methods.obert.config import ObertConfig
    from bertsurgeon.methods.pgb.config import PgbConfig
    from bertsurgeon.plan import ModelPlan
    from bertsurgeon.pruning import prune
    from bertsurgeon.recovery import RefitReport, TrainingConfig, TrainingReport, recover, refit_embeddings, train
    from bertsurgeon.runtime import open_exported
    from bertsurgeon.vocabulary import TrimReport, TrimResult, trim_vocabulary
    from bertsurgeon.workflows.verify import Verification, verify

_MODULES = {
    "benchmark": ("BenchmarkConfig", "BenchmarkReport", "bench"),
    "budgets": ("Budget", "Flops", "Groups", "Sparsity", "Speedup", "Threshold"),
    "checkpoint": ("get_plan", "is_sparse", "load_model", "save_model", "to_dense"),
    "compression": ("CompressConfig", "CompressData", "CompressResult", "compress"),
    "errors": ("BertSurgeonError",),
    "evaluation": ("evaluate",),
    "exporting": ("ExportConfig", "export"),
    "layer_drop": ("LayerDropConfig", "LayerDropResult", "drop_layers"),
    "layers": ("GroupedLinear", "LowRankLinear", "prepare_for_inference", "undo_prepare_for_inference"),
    "methods.auto.config": ("AutoConfig", "CalibrationConfig"),
    "methods.auto.measurements": ("Calibration", "calibrate"),
    "methods.base": ("PruneConfig", "PruneReport", "PruneResult"),
    "methods.obert.config": ("ObertConfig",),
    "methods.pgb.config": ("PgbConfig",),
    "plan": ("ModelPlan",),
    "pruning": ("prune",),
    "recovery": ("RefitReport", "TrainingConfig", "TrainingReport", "recover", "refit_embeddings", "train"),
    "runtime": ("open_exported",),
    "vocabulary": ("TrimReport", "TrimResult", "trim_vocabulary"),
    "workflows.verify": ("Verification", "verify"),
}
"""Where each public name is defined."""

RENAMED = {"TrainingOptions": "TrainingConfig"}
"""Names of version 0.1, and what replaced them."""

__version__ = version("bertsurgeon")

__all__ = [
    "AutoConfig",
    "BenchmarkConfig",
    "BenchmarkReport",
    "BertSurgeonError",
    "Budget",
    "Calibration",
    "CalibrationConfig",
    "CompressConfig",
    "CompressData",
    "CompressResult",
    "ExportConfig",
    "Flops",
    "GroupedLinear",
    "Groups",
    "LayerDropConfig",
    "LayerDropResult",
    "LowRankLinear",
    "ModelPlan",
    "ObertConfig",
    "PgbConfig",
    "PruneConfig",
    "PruneReport",
    "PruneResult",
    "RefitReport",
    "Sparsity",
    "Speedup",
    "Threshold",
    "TrainingConfig",
    "TrainingReport",
    "TrimReport",
    "TrimResult",
    "Verification",
    "bench",
    "calibrate",
    "compress",
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
    "refit_embeddings",
    "save_model",
    "to_dense",
    "train",
    "trim_vocabulary",
    "undo_prepare_for_inference",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"bertsurgeon.{module}"), name)
            globals()[name] = value
            return value
    if name in RENAMED:
        raise AttributeError(f"bertsurgeon.{name} has been renamed; use bertsurgeon.{RENAMED[name]}.")
    raise AttributeError(f"module 'bertsurgeon' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are not imported yet included."""
    return sorted({*globals(), *__all__})
