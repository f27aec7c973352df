"""Costs of the parts of an encoder in the target of a search, as plain data that the work folder keeps."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon.benchmark import random_inputs
from bertsurgeon.methods.auto.costs import Cost, FittedMilliseconds, Milliseconds, Weights
from bertsurgeon.methods.auto.latency_model import DeploymentTarget
from bertsurgeon.methods.auto.measurements import Calibration
from bertsurgeon.methods.auto.method import measure_target_costs

PROBES = 10
"""Encoders that are timed; each takes an export, and a search has other uses for the time of more."""

_CLASSES: dict[str, type[Any]] = {each.__name__: each for each in (Weights, Milliseconds, FittedMilliseconds)}


@dataclass(frozen=True)
class Costs:
    """Costs, and the time that it took to measure them.

    Attributes:
        cost: Unit of the budgets.
        seconds: Wall-clock time of the measurement.
    """

    cost: Cost
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data."""
        fields: Any = self.cost
        return {"class": type(self.cost).__name__, "fields": asdict(fields), "seconds": self.seconds}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Costs:
        """Returns what :meth:`to_dict` described."""
        fields = dict(data["fields"])
        if data["class"] == "Milliseconds":
            fields["sizes"] = tuple(fields["sizes"])
            fields["products"] = tuple(tuple(row) for row in fields["products"])
        return cls(_CLASSES[data["class"]](**fields), data["seconds"])


def measure_costs(
    model: PreTrainedModel, calibration: Calibration, objective: str, target: tuple[str, Any, int, int], seed: int
) -> Costs:
    """Measures what the parts of an encoder cost.

    Args:
        model: The dense model, without fused matrices.
        calibration: Curves of its sub-layers.
        objective: ``speed`` counts milliseconds in the target, ``size`` counts weights.
        target: Runtime, precision, texts per batch, tokens per text.
        seed: Fixes the encoders that are timed.
    """
    if objective == "size":
        return Costs(Weights(), 0.0)
    start = time.perf_counter()
    runtime, precision, batch_size, length = target
    deployment = DeploymentTarget(runtime, precision, random_inputs([model], batch_size, length))  # type: ignore[arg-type]
    return Costs(measure_target_costs(model, calibration, deployment, seed, PROBES), time.perf_counter() - start)
