"""Options of ``zero``."""

from dataclasses import dataclass
from typing import ClassVar

from bertsurgeon.budgets import Budget, Sparsity
from bertsurgeon.methods.base import PruneConfig
from bertsurgeon.options import documented, option


@documented
@dataclass(frozen=True)
class ZeroConfig(PruneConfig):
    """Options of a method that drops the last feed-forward parts."""

    method: ClassVar[str] = "zero"
    budgets: ClassVar[tuple[type[Budget], ...]] = (Sparsity,)
    first_layer: int = option(1, "First layer that may lose its feed-forward part.")
