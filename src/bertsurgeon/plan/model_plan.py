"""The plan of a whole model: for each layer, sub-layer and matrix, what remains.

A plan is plain data: made before anything is changed, checked once, printed, saved as JSON, and applied by code that
decides nothing (:mod:`bertsurgeon.layers`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bertsurgeon.errors import PlanError
from bertsurgeon.plan.structures import Dense, Dropped, Structure, structure_from_dict

SubLayerName = Literal["attention", "feed_forward"]
Role = Literal["query", "key", "value", "attention_output", "intermediate", "output"]

SUB_LAYERS: dict[SubLayerName, tuple[Role, ...]] = {
    "attention": ("query", "key", "value", "attention_output"),
    "feed_forward": ("intermediate", "output"),
}
ROLES: tuple[Role, ...] = tuple(role for roles in SUB_LAYERS.values() for role in roles)


@dataclass(frozen=True)
class MatrixPlan:
    """One matrix: its dense shape and what it becomes."""

    shape: tuple[int, int]
    structure: Structure

    def __post_init__(self) -> None:
        """Checks the structure against the shape."""
        self.structure.check(*self.shape)

    @property
    def size(self) -> int:
        """Weights of the dense matrix."""
        return self.shape[0] * self.shape[1]

    @property
    def kept(self) -> int:
        """Weights that remain."""
        return self.structure.kept(*self.shape)


@dataclass(frozen=True)
class LayerPlan:
    """One encoder layer: a plan for each of its six matrices."""

    matrices: dict[Role, MatrixPlan]

    def is_dropped(self, sub_layer: SubLayerName) -> bool:
        """Whether the whole sub-layer is gone: its last matrix outputs a constant."""
        return isinstance(self.matrices[SUB_LAYERS[sub_layer][-1]].structure, Dropped)


@dataclass(frozen=True)
class ModelPlan:
    """All layers of one encoder.

    Attributes:
        architecture: Name in the table of architectures.
        layers: From the input to the output.
    """

    architecture: str
    layers: tuple[LayerPlan, ...]

    def __iter__(self) -> Iterator[tuple[int, Role, MatrixPlan]]:
        """Every matrix, from the input to the output, as (layer, role, plan)."""
        for index, layer in enumerate(self.layers):
            for role in ROLES:
                yield index, role, layer.matrices[role]

    @property
    def size(self) -> int:
        """Weights of the dense encoder (matrices only)."""
        return sum(matrix.size for _, _, matrix in self)

    @property
    def kept(self) -> int:
        """Weights that remain in the encoder."""
        return sum(matrix.kept for _, _, matrix in self)

    @property
    def sparsity(self) -> float:
        """Share of the encoder's weights that is gone."""
        return 1 - self.kept / self.size

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; specified in ``docs/format.md``."""
        return {
            "architecture": self.architecture,
            "layers": [
                {
                    role: {"shape": list(matrix.shape), **matrix.structure.to_dict()}
                    for role, matrix in layer.matrices.items()
                }
                for layer in self.layers
            ],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ModelPlan":
        """Reads the plain data that :meth:`to_dict` wrote.

        Raises:
            PlanError: If the data is damaged or contradicts itself.
        """
        try:
            layers = tuple(
                LayerPlan(
                    {
                        role: MatrixPlan(
                            (layer[role]["shape"][0], layer[role]["shape"][1]),
                            structure_from_dict(layer[role]),
                        )
                        for role in ROLES
                    }
                )
                for layer in data["layers"]
            )
            return cls(str(data["architecture"]), layers)
        except (KeyError, TypeError, IndexError) as error:
            raise PlanError(f"The plan is damaged ({error!r}).") from error

    def save(self, path: Path) -> None:
        """Writes the plan as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "ModelPlan":
        """Reads a plan from JSON.

        Raises:
            PlanError: If the file is missing or not a plan.
        """
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise PlanError(f"{path} cannot be read as a plan ({error}).") from error


def fold_constants(structures: dict[Role, Structure]) -> dict[Role, Structure]:
    """Drops what no longer has any effect in a layer, without changing what the layer computes.

    A sub-layer without its last matrix, without values, or without intermediate activations outputs a constant: all of
    it goes. Keys that are all alike make attention uniform, whatever the queries are: without keys the queries go.
    """
    folded = dict(structures)
    gone = {role for role, structure in structures.items() if isinstance(structure, Dropped)}
    if gone & {"value", "attention_output"}:
        folded.update(dict.fromkeys(SUB_LAYERS["attention"], Dropped()))
    elif "key" in gone:
        folded["query"] = Dropped()
    if gone & set(SUB_LAYERS["feed_forward"]):
        folded.update(dict.fromkeys(SUB_LAYERS["feed_forward"], Dropped()))
    return folded


def dense_plan(architecture: str, shapes: list[dict[Role, tuple[int, int]]]) -> ModelPlan:
    """The plan that keeps everything."""
    return ModelPlan(
        architecture,
        tuple(LayerPlan({role: MatrixPlan(layer[role], Dense()) for role in ROLES}) for layer in shapes),
    )
