"""What pruning did."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bertsurgeon.config import PruneConfig
from bertsurgeon.plan import ModelPlan

T = TypeVar("T")


@dataclass
class PruneReport:
    """What pruning did.

    Attributes:
        plan: What each matrix keeps.
        config: The options.
        samples: Calibration sequences used.
        tokens: Calibration tokens used, padding excluded.
        seconds: Time of each step.
    """

    plan: ModelPlan
    config: PruneConfig
    samples: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of the encoder's weights that is gone."""
        return self.plan.sparsity

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the plan (which the checkpoint holds)."""
        return {
            "config": self.config.to_dict(),
            "encoder_weights": {"dense": self.plan.size, "kept": self.plan.kept},
            "sparsity": self.sparsity,
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
