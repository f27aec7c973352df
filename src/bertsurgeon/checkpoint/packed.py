"""Packed tensors: matrices with zeros as a bitmap and the values that remain; specified in ``docs/format.md``.

:func:`pack` and :func:`unpack` convert one matrix. :class:`Packing` describes how a whole model is stored; the other
functions apply it to a model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.errors import CheckpointError
from bertsurgeon.layers import dequantize_rows, is_on_grid, quantize_rows
from bertsurgeon.plan import ALL_ROLES

BITMAPS = {"weight": "bitmap", "up": "up_bitmap"}
"""Names of the tensors with the bits, by the names of those with the values."""

SCALES = {"weight": "scale", "up": "up_scale"}
"""Names of the tensors with the rows' scales, if values are stored in INT8, by the names of those with the values."""

DAMAGED = "config.json is damaged: its entry for sparse matrices cannot be read; copy the model again."


@dataclass(frozen=True)
class Packing:
    """How the zeros of a model are stored.

    Attributes:
        block: Consecutive weights of a row that share a bit.
        values: Number of stored values, by layer and matrix; counted when the model is saved.
        int8: Values are integers with a scale for each row. Writers set it where that is exact.
        embeddings: Names, inside the base model, of embeddings that are stored as integers and scales.
    """

    block: int = 1
    values: tuple[dict[str, int], ...] = ()
    int8: bool = False
    embeddings: tuple[str, ...] = ()

    @classmethod
    def read(cls, entry: dict[str, Any]) -> "Packing":
        """Reads what :meth:`to_dict` wrote.

        Raises:
            CheckpointError: If the entry has a field of another type or range.
        """
        block, values = entry.get("block", 1), entry.get("values") or []
        int8, embeddings = entry.get("int8", False), entry.get("embeddings", [])
        names = {*ALL_ROLES, *(f"{role}.up" for role in ALL_ROLES)}
        if not (
            _is_integer(block, least=1)
            and isinstance(values, list)
            and all(isinstance(layer, dict) and set(layer) <= names for layer in values)
            and all(_is_integer(count, least=0) for layer in values for count in layer.values())
            and isinstance(int8, bool)
            and isinstance(embeddings, list)
            and all(isinstance(name, str) for name in embeddings)
        ):
            raise CheckpointError(DAMAGED)
        return cls(block, tuple(values), int8, tuple(embeddings))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for ``config.json``."""
        entry: dict[str, Any] = {"block": self.block, "values": list(self.values)}
        return entry | ({"int8": self.int8, "embeddings": list(self.embeddings)} if self.has_integers else {})

    @property
    def has_integers(self) -> bool:
        """Whether matrices or embeddings are stored in INT8."""
        return self.int8 or bool(self.embeddings)


def bitmap_bytes(rows: int, columns: int, block: int) -> int:
    """Returns the bytes of a bitmap with one bit for every ``block`` consecutive weights of a row."""
    return -(-rows * columns // block // 8)


def pack(weight: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Returns the values of all blocks that hold a non-zero weight, and the bitmap of these blocks.

    Args:
        weight: Shape (rows, columns).
        block: Weights of a block; divides the columns.

    Returns:
        Values, shape (stored blocks · block,), of the weight's type; and the bitmap, uint8.
    """
    blocks = weight.detach().reshape(-1, block)
    is_stored = (blocks != 0).any(1)
    bitmap = np.packbits(is_stored.cpu().numpy(), bitorder="little")
    return blocks[is_stored].flatten(), torch.from_numpy(bitmap)


def unpack(values: Tensor, bitmap: Tensor, shape: tuple[int, int], name: str) -> Tensor:
    """Returns the matrix that was packed, bit for bit.

    The size of a block follows from the numbers of values and of set bits.

    Args:
        values: Shape (values,).
        bitmap: Shape (bytes,), uint8.
        shape: Shape of the matrix.
        name: Name of the matrix, for errors.

    Raises:
        CheckpointError: If values, bitmap and shape do not fit each other.
    """
    size = shape[0] * shape[1]
    bits = np.unpackbits(bitmap.cpu().numpy(), bitorder="little")
    stored = int(bits.sum())
    weight = torch.zeros(size, dtype=values.dtype, device=values.device)
    if stored == 0 and values.numel() == 0:
        return weight.reshape(shape)
    block = values.numel() // stored if stored else 0
    blocks = size // block if block else 0
    if not block or block * stored != values.numel() or size % block or bitmap.numel() != -(-blocks // 8):
        raise CheckpointError(f"The bitmap of {name} does not fit its values; copy the model again.")
    if bits[blocks:].any():
        raise CheckpointError(f"The bitmap of {name} names weights that do not exist; copy the model again.")
    weight.reshape(-1, block)[torch.from_numpy(bits[:blocks]).bool().to(values.device)] = values.reshape(-1, block)
    return weight.reshape(shape)


@dataclass(frozen=True)
class _Packable:
    """One tensor of the encoder that is packed.

    Attributes:
        entry: Its name in ``config.json``.
        path: Name of its module in the model.
        module: The module.
        tensor: Its name in the module, ``weight`` or ``up``.
    """

    entry: str
    path: str
    module: nn.Module
    tensor: str

    @property
    def weight(self) -> Tensor:
        return self.module.get_parameter(self.tensor)


def hook_packed(model: PreTrainedModel) -> None:
    """Lets ``load_state_dict`` of a model accept packed tensors as well as whole ones."""
    for layer in _packables(model):
        for module in {id(packable.module): packable.module for packable in layer}.values():
            module.register_load_state_dict_pre_hook(_unpack_on_load)
    for _, embedding in _embeddings(model):
        embedding.register_load_state_dict_pre_hook(_unpack_on_load)


def count_kept(model: PreTrainedModel) -> list[dict[str, int]]:
    """Returns the number of non-zero weights, by layer and role; roles whose matrix was dropped are absent."""
    counts: list[dict[str, int]] = []
    for layer in _packables(model):
        counts.append({})
        for packable in layer:
            role = packable.entry.partition(".")[0]
            counts[-1][role] = counts[-1].get(role, 0) + int(packable.weight.count_nonzero())
    return counts


def packed_state(model: PreTrainedModel, packing: Packing) -> tuple[dict[str, Tensor], Packing]:
    """Returns the tensors of a model's file, and the packing with the counts of stored values."""
    state: dict[str, Tensor] = model.state_dict()
    layers = _packables(model)
    int8 = all(_can_be_int8(packable.weight) for layer in layers for packable in layer)
    values = tuple(
        {packable.entry: _pack_in_state(state, packable, packing.block, int8) for packable in layer} for layer in layers
    )
    tied = set(model.all_tied_weights_keys.values())
    prefix = _prefix(model)
    names = []
    for name, embedding in _embeddings(model):
        key = f"{prefix}{name}.weight"
        if key not in tied and _can_be_int8(embedding.weight):
            state[key], state[f"{prefix}{name}.{SCALES['weight']}"] = quantize_rows(embedding.weight)
            names.append(name)
    return state, replace(packing, values=values, int8=int8, embeddings=tuple(names))


def install_packed(model: PreTrainedModel, packing: Packing) -> None:
    """Gives a freshly built model the tensors of the file in the place of its own, to be loaded into.

    Args:
        model: The model, with its plan's layers if it has a plan.
        packing: How its file stores it.

    Raises:
        CheckpointError: If the packing does not fit the model.
    """
    layers = _packables(model)
    if len(packing.values) != len(layers):
        raise CheckpointError(
            f"config.json is damaged: it counts the values of {len(packing.values)} layers, the model has "
            f"{len(layers)}; copy the model again."
        )
    for layer, counts in zip(layers, packing.values, strict=True):
        if {packable.entry for packable in layer} != set(counts):
            raise CheckpointError(DAMAGED)
        for packable in layer:
            rows, columns = packable.weight.shape
            if columns % packing.block or not counts[packable.entry] <= rows * columns:
                raise CheckpointError(
                    f"config.json is damaged: its block or number of values does not fit {packable.path}; copy the "
                    "model again."
                )
    for layer, counts in zip(layers, packing.values, strict=True):
        for packable in layer:
            shape = tuple(packable.weight.shape)
            _expect_packed(packable, counts[packable.entry], packing)
            setattr(packable.module, _shape_name(packable.tensor), shape)
    embeddings = dict(_embeddings(model))
    for name in packing.embeddings:
        if name not in embeddings:
            raise CheckpointError(f"config.json is damaged: the model has no embedding {name}; copy the model again.")
        weight = embeddings[name].weight
        del embeddings[name]._parameters["weight"]
        embeddings[name].register_buffer("weight", torch.zeros_like(weight, dtype=torch.int8))
        embeddings[name].register_buffer(SCALES["weight"], weight.new_zeros(len(weight), dtype=torch.float32))


def restore_model(model: PreTrainedModel) -> None:
    """Unpacks all tensors that :func:`install_packed` prepared, after they were loaded.

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
                    _restore_packed(module, tensor, shape, encoder.matrix_name(layer, role), dtype)
                    delattr(module, _shape_name(tensor))
    for _, embedding in _embeddings(model):
        scales = embedding._buffers.pop(SCALES["weight"], None)
        if scales is not None:
            integers = embedding._buffers.pop("weight")
            assert integers is not None
            embedding.register_parameter("weight", nn.Parameter(dequantize_rows(integers, scales).to(dtype)))


def _pack_in_state(state: dict[str, Tensor], packable: _Packable, block: int, int8: bool) -> int:
    """Replaces one tensor of a state, in place, by its packed form; returns the number of values."""
    module, tensor = packable.path, packable.tensor
    weight = state[f"{module}.{tensor}"]
    if int8:
        weight, state[f"{module}.{SCALES[tensor]}"] = quantize_rows(weight)
    values, bitmap = pack(weight, block)
    state[f"{module}.{tensor}"], state[f"{module}.{BITMAPS[tensor]}"] = values, bitmap
    return values.numel()


def _expect_packed(packable: _Packable, values: int, packing: Packing) -> None:
    """Replaces one parameter of a module by empty tensors in the shapes of the file."""
    module, tensor, weight = packable.module, packable.tensor, packable.weight
    bitmap = weight.new_zeros(bitmap_bytes(weight.shape[0], weight.shape[1], packing.block), dtype=torch.uint8)
    del module._parameters[tensor]
    if packing.int8:
        module.register_buffer(tensor, weight.new_zeros(values, dtype=torch.int8))
        module.register_buffer(SCALES[tensor], weight.new_zeros(len(weight), dtype=torch.float32))
    else:
        module.register_parameter(tensor, nn.Parameter(weight.new_empty(values)))
    module.register_buffer(BITMAPS[tensor], bitmap)


def _restore_packed(module: nn.Module, tensor: str, shape: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    """Replaces the loaded tensors of the file by the parameter that they stand for.

    Args:
        module: The module.
        tensor: The parameter's name in the module.
        shape: Shape of the matrix.
        name: Name of the matrix, for errors.
        dtype: Type of a parameter that was stored in INT8.

    Raises:
        CheckpointError: If values and bitmap do not fit each other.
    """
    weight = unpack(getattr(module, tensor).detach(), module.get_buffer(BITMAPS[tensor]), shape, name)
    scales = module._buffers.pop(SCALES[tensor], None)
    if scales is not None:
        weight = dequantize_rows(weight, scales).to(dtype)
    del module._buffers[BITMAPS[tensor]]
    module._parameters.pop(tensor, None)
    module._buffers.pop(tensor, None)
    module.register_parameter(tensor, nn.Parameter(weight))


def _unpack_on_load(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Unpacks the tensors of a module in a state that is being loaded; the Trainer resumes from such states."""
    for tensor in BITMAPS:
        name = prefix + tensor
        values, bitmap, scales = (state.get(prefix + n) for n in (tensor, BITMAPS[tensor], SCALES[tensor]))
        if values is not None and bitmap is not None:
            rows, columns = module.get_parameter(tensor).shape
            state[name] = unpack(values, bitmap, (rows, columns), prefix.removesuffix("."))
            del state[prefix + BITMAPS[tensor]]
        if values is not None and scales is not None:
            state[name] = dequantize_rows(state[name], scales)
            del state[prefix + SCALES[tensor]]


def _can_be_int8(weight: Tensor) -> bool:
    """Returns whether integers and scales express a weight of shape (rows, columns) exactly."""
    return weight.numel() > 0 and is_on_grid(weight)


def _shape_name(tensor: str) -> str:
    return f"_shape_of_{tensor}"


def _prefix(model: PreTrainedModel) -> str:
    base = Encoder(model).base
    return "" if base is model else f"{model.base_model_prefix}."


def _packables(model: PreTrainedModel) -> list[list[_Packable]]:
    """Returns the tensors of the encoder's matrices, by layer."""
    encoder = Encoder(model)
    layers: list[list[_Packable]] = []
    for layer in range(len(encoder.layers)):
        layers.append([])
        for role in encoder.roles:
            path, module = encoder.matrix_name(layer, role), encoder.find_matrix(layer, role)
            for tensor in BITMAPS:
                if module is not None and tensor in module._parameters:
                    entry = role if tensor == "weight" else f"{role}.{tensor}"
                    layers[-1].append(_Packable(entry, path, module, tensor))
    return layers


def _embeddings(model: PreTrainedModel) -> Iterator[tuple[str, nn.Embedding]]:
    """Yields the embeddings before the first layer with their names inside the base model."""
    base = Encoder(model).base
    for name, module in base.named_modules():
        if isinstance(module, nn.Embedding):
            yield name, module


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
