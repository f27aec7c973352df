"""Files that others may have written or damaged: JSON within bounds, and digests of tensors and files."""

from bertsurgeon.files.digests import (
    METADATA,
    Digests,
    file_digest,
    json_digest,
    make_digests,
    read_tensor_digests,
    sealed_digests,
    tensor_digest,
)
from bertsurgeon.files.json_files import (
    MAX_DEPTH,
    MAX_VALUES,
    DamagedFileError,
    check_depth,
    parse_json,
    parse_rows,
    read_json,
    special_file,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_VALUES",
    "METADATA",
    "DamagedFileError",
    "Digests",
    "check_depth",
    "file_digest",
    "json_digest",
    "make_digests",
    "parse_json",
    "parse_rows",
    "read_json",
    "read_tensor_digests",
    "sealed_digests",
    "special_file",
    "tensor_digest",
]
