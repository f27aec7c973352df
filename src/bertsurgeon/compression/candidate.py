"""A candidate of a search: what makes it, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from bertsurgeon.compression.bounds import Quality
from bertsurgeon.runtime import Precision


@dataclass(frozen=True)
class Spec:
    """What makes a candidate.

    Attributes:
        precision: Precision in the runtime.
        share: Cost of the pruned encoder divided by that of the dense one; None for the dense model.
        recovered: Whether the pruned model is trained afterwards.
    """

    precision: Precision
    share: float | None = None
    recovered: bool = False


@dataclass(frozen=True)
class Candidate:
    """A candidate that was made and measured.

    Attributes:
        spec: What makes it.
        name: Name in reports.
        folder: Its folder in the work folder.
        entry: What was measured, as plain data: ``removed``, ``predicted_error``, ``encoder_weights``, ``parameters``,
            ``flops``, ``file_bytes``, ``latency``, ``relative_time``, ``metrics``, ``seconds`` and ``error``.
        agreement: Agreement with the dense model, in percent; None for a failed export.
        quality: Loss against the bound; None for a failed export.
    """

    spec: Spec
    name: str
    folder: Path
    entry: dict[str, Any]
    agreement: float | None
    quality: Quality | None

    @property
    def is_dense(self) -> bool:
        """True for the dense model, in whatever precision."""
        return self.spec.share is None

    @property
    def relative_time(self) -> float:
        """Latency divided by that of the dense model in the runtime, timed in turns; infinite for a failed export."""
        return float(self.entry["relative_time"] or inf)

    @property
    def seconds(self) -> float:
        """What it took to make and measure it."""
        return float(self.entry["seconds"])
