"""Checkpoints: plan and kept weights in stock files, registered with transformers."""

from bertsurgeon.checkpoint.files import check_output, new_folder
from bertsurgeon.checkpoint.quantization import (
    FORMAT_VERSION,
    BertSurgeonConfig,
    BertSurgeonQuantizer,
    attach_plan,
    get_plan,
)
from bertsurgeon.checkpoint.store import check_finite, load_model, load_tokenizer, read_config, save_model

__all__ = [
    "FORMAT_VERSION",
    "BertSurgeonConfig",
    "BertSurgeonQuantizer",
    "attach_plan",
    "check_finite",
    "check_output",
    "get_plan",
    "load_model",
    "load_tokenizer",
    "new_folder",
    "read_config",
    "save_model",
]
