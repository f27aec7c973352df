"""Which tensors of a model's file are packed, and into what."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint.packing import (
    BITMAPS,
    SCALES,
    can_be_int8,
    expect_packed,
    pack_tensor,
    restore_packed,
    unpack_on_load,
)
from bertsurgeon.errors import CheckpointError
from bertsurgeon.layers import dequantize_rows, quantize_rows
from bertsurgeon.plan import ALL_ROLES

DAMAGED = "config.json is damaged: its entry for sparse matrices cannot be read."


@dataclass(frozen=True)
class Packing:
    """How the zeros of a model are stored.

    Attributes:
        block: Consecutive weights of a row that share a bit.
        values: Values that are stored, by layer and matrix; counted when the model is saved.
        int8: Whether they are integers with a scale for each row, which is so where that loses nothing.
        embeddings: Names, inside the base model, of embeddings that are stored so.
    """

    block: int = 1
    values: tuple[dict[str, int], ...] = ()
    int8: bool = False
    embeddings: tuple[str, ...] = ()

    @classmethod
    def read(cls, entry: dict[str, Any]) -> "Packing":
        """Reads what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: If it is something else.
        """
        block, values = entry.get("block", 1), entry.get("values") or []
        int8, embeddings = entry.get("int8", False), entry.get("embeddings", [])
        names = {*ALL_ROLES, *(f"{role}.up" for role in ALL_ROLES)}
        if not (
            _is_count(block, 1)
            and isinstance(values, list)
            and all(isinstance(one, dict) and set(one) <= names for one in values)
            and all(_is_count(number, 0) for one in values for number in one.values())
            and isinstance(int8, bool)
            and isinstance(embeddings, list)
            and all(isinstance(name, str) for name in embeddings)
        ):
            raise CheckpointError(DAMAGED)
        return cls(block, tuple(values), int8, tuple(embeddings))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``config.json``."""
        entry: dict[str, Any] = {"block": self.block, "values": list(self.values)}
        return entry | ({"int8": self.int8, "embeddings": list(self.embeddings)} if self.has_integers else {})

    @property
    def has_integers(self) -> bool:
        """Whether anything is stored in INT8."""
        return self.int8 or bool(self.embeddings)


@dataclass(frozen=True)
class _Place:
    """One tensor of the encoder: its module, its name there, and how ``config.json`` calls it."""

    entry: str
    path: str
    module: nn.Module
    tensor: str

    @property
    def weight(self) -> Tensor:
        return self.module.get_parameter(self.tensor)


def hook_packed(model: PreTrainedModel) -> None:
    """Lets ``load_state_dict`` of a model take packed tensors as well as whole ones."""
    for layer in _places(model):
        for module in {id(place.module): place.module for place in layer}.values():
            module.register_load_state_dict_pre_hook(unpack_on_load)
    for _, embedding in _embeddings(model):
        embedding.register_load_state_dict_pre_hook(unpack_on_load)


def count_kept(model: PreTrainedModel) -> list[dict[str, int]]:
    """Weights that are not zero, by layer and role; roles of which nothing is left are absent."""
    counts: list[dict[str, int]] = []
    for layer in _places(model):
        counts.append({})
        for place in layer:
            role = place.entry.partition(".")[0]
            counts[-1][role] = counts[-1].get(role, 0) + int(place.weight.count_nonzero())
    return counts


def packed_state(model: PreTrainedModel, packing: Packing) -> tuple[dict[str, Tensor], Packing]:
    """The tensors of a model's file, and the packing with what was counted."""
    state: dict[str, Tensor] = model.state_dict()
    places = _places(model)
    int8 = all(can_be_int8(place.weight) for layer in places for place in layer)
    values = tuple(
        {place.entry: pack_tensor(state, place.path, place.tensor, packing.block, int8) for place in layer}
        for layer in places
    )
    tied = set(model.all_tied_weights_keys.values())
    prefix = _prefix(model)
    names = []
    for name, embedding in _embeddings(model):
        key = f"{prefix}{name}.weight"
        if key not in tied and can_be_int8(embedding.weight):
            state[key], state[f"{prefix}{name}.{SCALES['weight']}"] = quantize_rows(embedding.weight)
            names.append(name)
    return state, replace(packing, values=values, int8=int8, embeddings=tuple(names))


def install_packed(model: PreTrainedModel, packing: Packing) -> None:
    """Gives a freshly built model, with its plan's layers if it has a plan, the tensors of the file.

    Raises:
        CheckpointError: If the packing does not fit the model.
    """
    places = _places(model)
    if len(packing.values) != len(places):
        raise CheckpointError(
            f"config.json is damaged: it counts the values of {len(packing.values)} layers, the model has "
            f"{len(places)}."
        )
    for layer, counts in zip(places, packing.values, strict=True):
        if {place.entry for place in layer} != set(counts):
            raise CheckpointError(DAMAGED)
        for place in layer:
            rows, columns = place.weight.shape
            if columns % packing.block or not counts[place.entry] <= rows * columns:
                raise CheckpointError(
                    f"config.json is damaged: its block or number of values does not fit {place.path}."
                )
    for layer, counts in zip(places, packing.values, strict=True):
        for place in layer:
            shape = tuple(place.weight.shape)
            expect_packed(place.module, place.tensor, counts[place.entry], packing.block, packing.int8)
            setattr(place.module, _shape_name(place.tensor), shape)
    known = dict(_embeddings(model))
    for name in packing.embeddings:
        if name not in known:
            raise CheckpointError(f"config.json is damaged: the model has no embedding {name}.")
        weight = known[name].weight
        del known[name]._parameters["weight"]
        known[name].register_buffer("weight", torch.zeros_like(weight, dtype=torch.int8))
        known[name].register_buffer(SCALES["weight"], weight.new_zeros(len(weight), dtype=torch.float32))


def restore_model(model: PreTrainedModel) -> None:
    """Makes a model of what :func:`install_packed` had loaded.

    Raises:
        CheckpointError: If values and bitmap of a matrix do not fit each other.
    """
    encoder = Encoder(model)
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    for layer in range(len(encoder.layers)):
        for role in encoder.roles:
            module = encoder.find_matrix(layer, role)
            for tensor in BITMAPS:
                shape = getattr(module, _shape_name(tensor), None)
                if module is not None and shape is not None:
                    restore_packed(module, tensor, shape, encoder.matrix_name(layer, role), dtype)
                    delattr(module, _shape_name(tensor))
    for _, embedding in _embeddings(model):
        scales = embedding._buffers.pop(SCALES["weight"], None)
        if scales is not None:
            integers = embedding._buffers.pop("weight")
            assert integers is not None
            embedding.register_parameter("weight", nn.Parameter(dequantize_rows(integers, scales).to(dtype)))


def _shape_name(tensor: str) -> str:
    return f"_shape_of_{tensor}"


def _prefix(model: PreTrainedModel) -> str:
    base = Encoder(model).base
    return "" if base is model else f"{model.base_model_prefix}."


def _places(model: PreTrainedModel) -> list[list[_Place]]:
    """The tensors of the encoder's matrices, by layer."""
    encoder = Encoder(model)
    places: list[list[_Place]] = []
    for layer in range(len(encoder.layers)):
        places.append([])
        for role in encoder.roles:
            path, module = encoder.matrix_name(layer, role), encoder.find_matrix(layer, role)
            for tensor in BITMAPS:
                if module is not None and tensor in module._parameters:
                    entry = role if tensor == "weight" else f"{role}.{tensor}"
                    places[-1].append(_Place(entry, path, module, tensor))
    return places


def _embeddings(model: PreTrainedModel) -> Iterator[tuple[str, nn.Embedding]]:
    """The embeddings before the first layer, and their names inside the base model."""
    base = Encoder(model).base
    for name, module in base.named_modules():
        if isinstance(module, nn.Embedding):
            yield name, module


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
