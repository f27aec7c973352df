"""What pruning did."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from bertsurgeon.config import PruneConfig
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
