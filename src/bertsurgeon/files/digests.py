"""Digests of tensors, configurations and files, by which damage is named; specified in ``docs/format.md``."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from bertsurgeon.files.json_files import DamagedFileError, parse_json

METADATA = "bertsurgeon"
"""Key in the metadata of a safetensors file under which digests are stored, as JSON."""

DIGEST_BYTES = 16
BLOCK_BYTES = 2**22

_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
"""Names of types in safetensors files."""

_FREE = ("drop", "initializer", "use_cache", "bos_token_id", "eos_token_id")
"""Parts of the names of entries of a configuration that do not change the outputs of a model in evaluation mode."""

_OURS = ("quantization_config", "int8_input_ranges")


@dataclass(frozen=True)
class Digests:
    """Digests of a model's files, each as 32 hexadecimal digits.

    Attributes:
        tensors: Digests of the stored tensors, by name.
        config: Digests of the entries of ``config.json`` that change what the model computes, by name.
    """

    tensors: dict[str, str]
    config: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; specified in ``docs/format.md``."""
        return {"config": dict(sorted(self.config.items())), "tensors": dict(sorted(self.tensors.items()))}

    @classmethod
    def from_dict(cls, data: Any) -> "Digests":
        """Reads the plain data that :meth:`to_dict` returns.

        Raises:
            DamagedFileError: If it has another form.
        """
        parts = [data.get(name) for name in ("tensors", "config")] if isinstance(data, dict) else [None]
        if not all(isinstance(part, dict) and all(isinstance(v, str) for v in part.values()) for part in parts):
            raise DamagedFileError("its digests cannot be read")
        return cls(*parts)

    def config_fault(self, values: Mapping[str, Any]) -> str | None:
        """Returns the first entry of a ``config.json`` that is not as it was saved, or None.

        Args:
            values: Its content.
        """
        return next((key for key in sorted(self.config) if _entry_digest(values, key) != self.config[key]), None)

    def tensor_fault(self, stored: Mapping[str, str]) -> str | None:
        """Returns what is wrong with the first tensor that is not as it was saved, or None.

        Args:
            stored: Digests of the tensors in the files.
        """
        for name in sorted({*self.tensors, *stored}):
            if self.tensors.get(name) != stored.get(name):
                fault = "is missing" if name not in stored else "is not as it was saved"
                return f"{name[:200]} {fault if name in self.tensors else 'was not saved with it'}"
        return None


def make_digests(state: Mapping[str, Tensor] | None, config: Mapping[str, Any]) -> Digests | None:
    """Returns the digests of a model that is about to be saved.

    Args:
        state: The tensors of its file.
        config: The content of its ``config.json``.

    Returns:
        The digests; None if the values of a tensor are elsewhere (on other machines or on no device).
    """
    tensors = dict(state or {})
    if any(tensor.is_meta or type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors.values()):
        return None
    return Digests({name: tensor_digest(name, tensor) for name, tensor in tensors.items()}, sealed_digests(config))


def sealed_digests(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digests of the entries of a ``config.json`` that change what the model computes.

    These are the entries that only models of its type have, without dropout and the like, and those of this library.

    Args:
        values: The content of the file.
    """
    from transformers import CONFIG_MAPPING, PretrainedConfig

    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return {}
    names = CONFIG_MAPPING[model_type]().to_dict().keys() - PretrainedConfig().to_dict().keys()
    names = {name for name in names if not any(part in name for part in _FREE)} | set(_OURS) | {"model_type"}
    digests = {name: _entry_digest(values, name) for name in sorted(names)}
    return {name: digest for name, digest in digests.items() if digest is not None}


def _entry_digest(values: Mapping[str, Any], name: str) -> str | None:
    """Returns the digest of an entry, without the digests that it may hold itself; None if it is absent."""
    if name not in values:
        return None
    value = values[name]
    if name == _OURS[0] and isinstance(value, dict):
        value = {key: part for key, part in value.items() if key != "digests"}
    return json_digest(value)


def json_digest(value: Any) -> str:
    """Returns the digest of plain data: of its JSON with sorted keys and without spaces."""
    return _hex(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode())


def tensor_digest(name: str, tensor: Tensor) -> str:
    """Returns the digest of a tensor: of the line ``name type size×size…`` and of its bytes, row by row.

    Args:
        name: Its name in the file.
        tensor: Of any type and shape, on any device.
    """
    kind = _TYPES.get(tensor.dtype, str(tensor.dtype))
    line = f"{name} {kind} {'×'.join(map(str, tensor.shape))}\n"
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return _hex(line.encode(), flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def read_tensor_digests(files: Iterable[Path]) -> tuple[dict[str, str], list[Digests]]:
    """Computes the digests of all tensors of safetensors files.

    Args:
        files: The files of one model.

    Returns:
        The digests by name, and those that the files' own metadata holds.

    Raises:
        SafetensorError: If the header of a file is damaged, or a file is truncated.
        OSError: If a file cannot be read.
        DamagedFileError: If its metadata cannot be read.
    """
    digests: dict[str, str] = {}
    stored = []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            digests |= {name: tensor_digest(name, tensors.get_tensor(name)) for name in tensors.keys()}  # noqa: SIM118
            text = (tensors.metadata() or {}).get(METADATA)
        if text is not None:
            stored.append(Digests.from_dict(parse_json(text.encode())))
    return digests, stored


def file_digest(file: Path) -> str:
    """Returns the digest of the bytes of a file.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _hex(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
