"""Checkpoints: plan and kept weights in stock files, registered with transformers."""

from bertsurgeon.checkpoint.files import check_output, new_folder
from bertsurgeon.checkpoint.quantization import (
    FORMAT_VERSION,
    BertSurgeonConfig,
    BertSurgeonQuantizer,
    attach_plan,
    get_plan,
)
from bertsurgeon.checkpoint.sparse import (
    SPARSE_FORMAT_VERSION,
    SparseConfig,
    attach_sparse,
    count_kept,
    detach_sparse,
    is_sparse,
    sparse_block,
)
from bertsurgeon.checkpoint.store import check_finite, load_model, load_tokenizer, read_config, save_model

__all__ = [
    "FORMAT_VERSION",
    "SPARSE_FORMAT_VERSION",
    "BertSurgeonConfig",
    "BertSurgeonQuantizer",
    "SparseConfig",
    "attach_plan",
    "attach_sparse",
    "check_finite",
    "check_output",
    "count_kept",
    "detach_sparse",
    "get_plan",
    "is_sparse",
    "load_model",
    "load_tokenizer",
    "new_folder",
    "read_config",
    "save_model",
    "sparse_block",
]
