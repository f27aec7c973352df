"""Checkpoints: plan and kept weights in stock files, registered with transformers."""

from bertsurgeon.checkpoint.checks import check_finite, check_masked_lm
from bertsurgeon.checkpoint.files import check_output, new_folder
from bertsurgeon.checkpoint.hf_quantizer import (
    FORMAT_VERSION,
    BertSurgeonConfig,
    BertSurgeonQuantizer,
    attach_plan,
    get_plan,
)
from bertsurgeon.checkpoint.loading import load_embedder, load_model, load_own
from bertsurgeon.checkpoint.packed import Packing, count_kept, hook_packed
from bertsurgeon.checkpoint.ranges import InputRange, InputRanges, clear_int8_ranges, get_ranges, set_ranges
from bertsurgeon.checkpoint.reading import load_tokenizer, read_config
from bertsurgeon.checkpoint.saving import save_model, write_report
from bertsurgeon.checkpoint.sparse import (
    SPARSE_FORMAT_VERSION,
    SparseConfig,
    attach_sparse,
    detach_sparse,
    is_sparse,
    sparse_block,
)

__all__ = [
    "FORMAT_VERSION",
    "SPARSE_FORMAT_VERSION",
    "BertSurgeonConfig",
    "BertSurgeonQuantizer",
    "InputRange",
    "InputRanges",
    "Packing",
    "SparseConfig",
    "attach_plan",
    "attach_sparse",
    "check_finite",
    "check_masked_lm",
    "check_output",
    "clear_int8_ranges",
    "count_kept",
    "detach_sparse",
    "get_plan",
    "get_ranges",
    "hook_packed",
    "is_sparse",
    "load_embedder",
    "load_model",
    "load_own",
    "load_tokenizer",
    "new_folder",
    "read_config",
    "save_model",
    "set_ranges",
    "sparse_block",
    "write_report",
]
