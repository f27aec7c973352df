"""Checkpoints: plan and kept weights in stock files, registered with transformers."""

from bertsurgeon.checkpoint.checks import check_finite, check_masked_lm
from bertsurgeon.checkpoint.folder_record import read_record
from bertsurgeon.checkpoint.hf_quantizer import (
    FORMAT_VERSION,
    SPARSE_FORMAT_VERSION,
    BertSurgeonConfig,
    BertSurgeonQuantizer,
    SparseConfig,
    attach_plan,
    attach_sparse,
    detach_sparse,
    get_plan,
    is_sparse,
    sparse_block,
    to_dense,
)
from bertsurgeon.checkpoint.int8_ranges import InputRange, InputRanges, clear_int8_ranges, get_ranges, set_ranges
from bertsurgeon.checkpoint.loading import check_loadable, load_as_saved, load_embedder, load_model
from bertsurgeon.checkpoint.model_config import read_config
from bertsurgeon.checkpoint.output_folder import (
    add_recorded_file,
    check_output,
    check_work_folder,
    holds_search,
    holds_training,
    new_folder,
    new_work_folder,
    remove_work_folder,
)
from bertsurgeon.checkpoint.output_lock import lock_outputs, locks_output
from bertsurgeon.checkpoint.packed import Packing, count_kept, hook_packed
from bertsurgeon.checkpoint.saving import save_model, write_report
from bertsurgeon.checkpoint.tokenizer import load_tokenizer

__all__ = [
    "FORMAT_VERSION",
    "SPARSE_FORMAT_VERSION",
    "BertSurgeonConfig",
    "BertSurgeonQuantizer",
    "InputRange",
    "InputRanges",
    "Packing",
    "SparseConfig",
    "add_recorded_file",
    "attach_plan",
    "attach_sparse",
    "check_finite",
    "check_loadable",
    "check_masked_lm",
    "check_output",
    "check_work_folder",
    "clear_int8_ranges",
    "count_kept",
    "detach_sparse",
    "get_plan",
    "get_ranges",
    "holds_search",
    "holds_training",
    "hook_packed",
    "is_sparse",
    "load_as_saved",
    "load_embedder",
    "load_model",
    "load_tokenizer",
    "lock_outputs",
    "locks_output",
    "new_folder",
    "new_work_folder",
    "read_config",
    "read_record",
    "remove_work_folder",
    "save_model",
    "set_ranges",
    "sparse_block",
    "to_dense",
    "write_report",
]
