"""The plan of a whole model: what remains of each layer, sub-layer and matrix.

A plan is plain data. It is made before anything is changed, checked once, printed, saved as JSON, and applied by
:mod:`bertsurgeon.layers` and :mod:`bertsurgeon.compensation`, which make no decisions of their own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bertsurgeon.errors import PlanError, first_line
from bertsurgeon.files import read_json
from bertsurgeon.plan.structures import Dense, Dropped, Structure, structure_from_dict
from bertsurgeon.plan.units import MAX_NAMED, Channels, Units, check_channels, is_integer, unit_channels

SubLayerName = Literal["attention", "feed_forward"]
Role = Literal["query", "key", "value", "attention_output", "intermediate", "gate", "output"]

SUB_LAYERS: dict[SubLayerName, tuple[Role, ...]] = {
    "attention": ("query", "key", "value", "attention_output"),
    "feed_forward": ("intermediate", "output"),
}
"""The matrices that every layer has; the last one of each sub-layer reads its units."""

ROLES: tuple[Role, ...] = tuple(role for roles in SUB_LAYERS.values() for role in roles)

GATED: dict[SubLayerName, tuple[Role, ...]] = {**SUB_LAYERS, "feed_forward": ("intermediate", "gate", "output")}
"""The matrices of a gated layer: a neuron is an output of ``intermediate`` times the activated output of ``gate``."""

ALL_ROLES: tuple[Role, ...] = tuple(role for roles in GATED.values() for role in roles)


def sub_layers(roles: Iterable[Role]) -> dict[SubLayerName, tuple[Role, ...]]:
    """Returns the matrices of each sub-layer of a layer with these roles."""
    return GATED if "gate" in roles else SUB_LAYERS


def sub_layer_of(role: Role) -> SubLayerName:
    """Returns the sub-layer that a matrix belongs to."""
    return "attention" if role in SUB_LAYERS["attention"] else "feed_forward"


def unit_axis(role: Role) -> Literal[0, 1]:
    """Returns the axis of a matrix that runs over units: 0 (outputs), or 1 (inputs) for the last one."""
    return 1 if role == SUB_LAYERS[sub_layer_of(role)][-1] else 0


def _stored_shape(shape: tuple[int, int], role: Role, units: Mapping[SubLayerName, Units]) -> tuple[int, int]:
    """Returns the shape of a matrix without the channels of removed units."""
    kept = units.get(sub_layer_of(role))
    if kept is None:
        return shape
    channels = kept.kept * (shape[unit_axis(role)] // kept.total)
    return (shape[0], channels) if unit_axis(role) == 1 else (channels, shape[1])


@dataclass(frozen=True)
class MatrixPlan:
    """The plan of one matrix.

    Attributes:
        shape: Shape of the dense matrix, (output channels, input channels).
        structure: What is kept of the matrix that remains after whole units were removed.
        stored_shape: Shape of that remaining matrix; the dense shape if no unit is removed.
    """

    shape: tuple[int, int]
    structure: Structure
    stored_shape: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Checks the structure against the shape."""
        if self.stored_shape == (0, 0):
            object.__setattr__(self, "stored_shape", self.shape)
        self.structure.check(*self.stored_shape)

    @property
    def size(self) -> int:
        """The number of weights of the dense matrix."""
        return self.shape[0] * self.shape[1]

    @property
    def kept(self) -> int:
        """The number of weights that remain."""
        return self.structure.kept(*self.stored_shape)


@dataclass(frozen=True)
class LayerPlan:
    """The plan of one layer.

    Attributes:
        matrices: Plans of its six matrices (seven if it is gated), by role.
        units: Units that its sub-layers keep; a sub-layer that is missing keeps all its units in their order.
    """

    matrices: dict[Role, MatrixPlan]
    units: dict[SubLayerName, Units] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that matrices and units agree.

        Raises:
            PlanError: If a matrix is not stored with the channels of the kept units.
        """
        for sub_layer, units in self.units.items():
            for role in self.sub_layers[sub_layer]:
                matrix = self.matrices[role]
                channels = matrix.shape[unit_axis(role)]
                # in grouped-query attention, keys and values have fewer channels per unit than queries
                narrow = role in ("key", "value") and channels % units.total == 0
                if channels != units.total * units.width and not narrow:
                    raise PlanError(
                        f"The plan is damaged: the units of the {sub_layer} do not fit its {role}. Prune again."
                    )
                if matrix.stored_shape != _stored_shape(matrix.shape, role, self.units):
                    raise PlanError(
                        f"The plan is damaged: the {role} is not stored with the channels of its units. Prune again."
                    )

    @classmethod
    def build(
        cls,
        shapes: Mapping[Role, tuple[int, int]],
        structures: Mapping[Role, Structure],
        units: dict[SubLayerName, Units] | None = None,
    ) -> "LayerPlan":
        """Makes the plan of a layer from its dense shapes.

        Args:
            shapes: Dense shapes, (output channels, input channels), by role.
            structures: What is kept of each matrix, by role.
            units: Units that the sub-layers keep; None for all.

        Raises:
            PlanError: If shapes, structures and units contradict each other.
        """
        units = units or {}
        return cls(
            {
                role: MatrixPlan(shapes[role], structures[role], _stored_shape(shapes[role], role, units))
                for role in ALL_ROLES
                if role in shapes
            },
            units,
        )

    @property
    def sub_layers(self) -> dict[SubLayerName, tuple[Role, ...]]:
        """The roles of each sub-layer."""
        return sub_layers(self.matrices)

    def is_dropped(self, sub_layer: SubLayerName) -> bool:
        """Returns whether the whole sub-layer is dropped: its last matrix outputs a constant."""
        return isinstance(self.matrices[SUB_LAYERS[sub_layer][-1]].structure, Dropped)

    def channels(self, role: Role) -> tuple[Channels | None, Channels | None]:
        """Returns the stored output and input channels of the dense matrix, in their order; None for all channels."""
        units = self.units.get(sub_layer_of(role))
        axis = unit_axis(role)
        kept = None if units is None else unit_channels(units.order, self.matrices[role].shape[axis] // units.total)
        return (None, kept) if axis == 1 else (kept, None)


@dataclass(frozen=True)
class ModelPlan:
    """The plan of all layers of one encoder.

    Attributes:
        architecture: Name in the table of architectures.
        layers: Plans of the layers, from the input to the output.
    """

    architecture: str
    layers: tuple[LayerPlan, ...]

    def __iter__(self) -> Iterator[tuple[int, Role, MatrixPlan]]:
        """Yields every matrix, from the input to the output, as (layer, role, plan)."""
        for index, layer in enumerate(self.layers):
            for roles in layer.sub_layers.values():
                for role in roles:
                    yield index, role, layer.matrices[role]

    @property
    def size(self) -> int:
        """The number of weights of the dense encoder (matrices only)."""
        return sum(matrix.size for _, _, matrix in self)

    @property
    def kept(self) -> int:
        """The number of weights that remain in the encoder."""
        return sum(matrix.kept for _, _, matrix in self)

    @property
    def sparsity(self) -> float:
        """The share of the encoder's weights that is removed, 0 to 1."""
        return 1 - self.kept / self.size

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {"architecture": self.architecture, "layers": [_layer_to_dict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ModelPlan":
        """Reads the plain data that :meth:`to_dict` returns.

        Raises:
            PlanError: If the data is damaged or contradicts itself.
        """
        try:
            check_channels(data, MAX_NAMED)
            if not isinstance(data["layers"], list) or not isinstance(data["architecture"], str):
                raise TypeError("layers is a list, architecture a name")
            return cls(data["architecture"], tuple(_layer_from_dict(layer) for layer in data["layers"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            raise PlanError(
                f"The plan is damaged: it cannot be read ({type(error).__name__}: {first_line(error)[:80]}). Prune "
                "again."
            ) from error

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        path = Path(path)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "ModelPlan":
        """Reads a plan from JSON.

        Raises:
            PlanError: If the file is missing or not a plan.
        """
        path = Path(path)
        try:
            return cls.from_dict(read_json(path))
        except (OSError, ValueError) as error:
            raise PlanError(f"{path} cannot be read as a plan ({error}); check the path, or prune again.") from error


def _layer_to_dict(layer: LayerPlan) -> dict[str, Any]:
    data: dict[str, Any] = {
        role: {"shape": list(matrix.shape), **matrix.structure.to_dict()} for role, matrix in layer.matrices.items()
    }
    if layer.units:
        data["units"] = {sub_layer: units.to_dict() for sub_layer, units in layer.units.items()}
    return data


def _layer_from_dict(data: dict[str, Any]) -> LayerPlan:
    kept = data.get("units", {})
    if not isinstance(kept, dict):
        raise TypeError("units is an object")
    units = {name: Units.from_dict(kept[name]) for name in SUB_LAYERS if name in kept}
    roles = [role for role in ALL_ROLES if role in ROLES or role in data]
    shapes = {role: _shape_from_list(data[role]["shape"]) for role in roles}
    return LayerPlan.build(shapes, {role: structure_from_dict(data[role]) for role in roles}, units)


def _shape_from_list(data: Any) -> tuple[int, int]:
    rows, columns = data
    if not all(is_integer(size) and size > 0 for size in (rows, columns)):
        raise TypeError("a shape is two whole numbers above 0")
    return rows, columns


def fold_constants(structures: dict[Role, Structure], positional: bool = False) -> dict[Role, Structure]:
    """Drops matrices of a layer that no longer have any effect; what the layer computes does not change.

    A sub-layer without its last matrix, without values, or without intermediate activations outputs a constant, so all
    of it is dropped. Constant keys make attention uniform for all queries, so without keys the queries are dropped.

    Args:
        structures: Structures by role.
        positional: Whether attention scores depend on positions through queries and keys (rotary or relative). Constant
            keys then do not make attention uniform, and the queries are kept.

    Returns:
        Structures by role.
    """
    folded = dict(structures)
    dropped = {role for role, structure in structures.items() if isinstance(structure, Dropped)}
    if dropped & {"value", "attention_output"}:
        folded.update(dict.fromkeys(SUB_LAYERS["attention"], Dropped()))
    elif "key" in dropped and not positional:
        folded["query"] = Dropped()
    *neurons, output = sub_layers(structures)["feed_forward"]
    if output in dropped or set(neurons) <= dropped:
        folded.update(dict.fromkeys((*neurons, output), Dropped()))
    return folded


def dense_plan(architecture: str, shapes: list[dict[Role, tuple[int, int]]]) -> ModelPlan:
    """Makes the plan that keeps everything.

    Args:
        architecture: Name in the table of architectures.
        shapes: Dense shapes by role, layer by layer.
    """
    return ModelPlan(
        architecture,
        tuple(LayerPlan.build(layer, dict.fromkeys(layer, Dense())) for layer in shapes),
    )
