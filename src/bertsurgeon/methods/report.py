"""What pruning did."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import check_finite, get_plan, is_sparse
from bertsurgeon.config import PruneConfig
from bertsurgeon.errors import ModelError
from bertsurgeon.plan import ModelPlan

T = TypeVar("T")


@dataclass(frozen=True)
class SparseReport:
    """What ``obert`` did to matrices that keep their shapes.

    Attributes:
        kept: Weights that are left, by layer and role.
        sparsity: Share of the weights that the encoder had that is zero.
        gradients: The Fisher information is the mean of this many.
        passes: Over the data, in all rounds.
        precision: Bits of the numbers the Fisher information was inverted in.
    """

    kept: list[dict[str, int]]
    sparsity: float
    gradients: int
    passes: int
    precision: int


@dataclass
class PruneReport:
    """What pruning did.

    Attributes:
        plan: What each matrix keeps; for ``obert`` what it was before, dense or pruned by another method.
        config: The options.
        samples: Calibration sequences used.
        tokens: Calibration tokens used, padding excluded.
        seconds: Time of each step.
        sparse: For ``obert``, else None.
    """

    plan: ModelPlan
    config: PruneConfig
    samples: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)
    sparse: SparseReport | None = None

    @property
    def sparsity(self) -> float:
        """Share of the encoder's weights that is gone."""
        return 1 - self.kept / self.plan.size

    @property
    def kept(self) -> int:
        """Weights that remain in the encoder."""
        return self.plan.kept if self.sparse is None else sum(sum(layer.values()) for layer in self.sparse.kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the plan (which the checkpoint holds)."""
        return {
            "config": self.config.to_dict(),
            "encoder_weights": {"dense": self.plan.size, "kept": self.kept},
            "sparsity": self.sparsity,
            "sparse": None if self.sparse is None else asdict(self.sparse),
            "samples": self.samples,
            "tokens": self.tokens,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


def timed(seconds: dict[str, float], name: str, step: Callable[[], T]) -> T:
    """Runs a step and keeps how long it took."""
    start = time.perf_counter()
    result = step()
    seconds[name] = time.perf_counter() - start
    return result


def check_dense(model: PreTrainedModel) -> None:
    """Checks that a model is supported, dense and sound.

    Raises:
        ModelError: If it is not.
    """
    if get_plan(model) is not None:
        raise ModelError("The model is pruned already; start from the dense one, or prune on with the method obert.")
    if is_sparse(model):
        raise ModelError("The model is sparse already; only the method obert prunes it further.")
    check_matrices(model)


def check_matrices(model: PreTrainedModel) -> None:
    """Checks that a model is supported and sound; its matrices may hold zeros, or be what a plan left of them.

    Raises:
        ModelError: If it is not.
    """
    encoder = Encoder(model)
    encoder.architecture.check_config(model.config)
    check_finite(model)
    if get_plan(model) is None:
        _ = encoder.shapes
