"""Tasks: labeled data by name or from a user's files, tokenization, and published metrics.

A :class:`TaskType` implements all that depends on the type of a task, for the whole library.
"""

from bertsurgeon.tasks.collate import (
    IGNORED,
    LABELS,
    WORD_STARTS,
    Collator,
    TokenMasking,
    has_labels,
    mask_tokens,
    model_inputs,
)
from bertsurgeon.tasks.data import TaskData, align_to_model, limit_rows, load_task, load_user_task, recode_labels
from bertsurgeon.tasks.distributions import CATEGORICAL, Distribution, default_distribution
from bertsurgeon.tasks.files import read_texts
from bertsurgeon.tasks.fitting import TOKEN_TYPES, fit_batch, fit_dataset
from bertsurgeon.tasks.raw_files import find_files
from bertsurgeon.tasks.table import TASKS, Task, get_task
from bertsurgeon.tasks.tokenization import Data, as_dataset, collect_data, is_batches, max_input_length, tokenize
from bertsurgeon.tasks.types import (
    TASK_TYPES,
    Classification,
    Embedding,
    Head,
    MultiLabel,
    Outputs,
    Prediction,
    QuestionAnswering,
    Regression,
    TaskType,
    TokenClassification,
    check_same_head,
    find_head,
    get_task_type,
    head_of,
    label_names,
    model_class_names,
    task_type_for_texts,
    task_type_of,
)
from bertsurgeon.tasks.validation import ValidationData, load_task_validation, load_user_validation

__all__ = [
    "CATEGORICAL",
    "IGNORED",
    "LABELS",
    "TASKS",
    "TASK_TYPES",
    "TOKEN_TYPES",
    "WORD_STARTS",
    "Classification",
    "Collator",
    "Data",
    "Distribution",
    "Embedding",
    "Head",
    "MultiLabel",
    "Outputs",
    "Prediction",
    "QuestionAnswering",
    "Regression",
    "Task",
    "TaskData",
    "TaskType",
    "TokenClassification",
    "TokenMasking",
    "ValidationData",
    "align_to_model",
    "as_dataset",
    "check_same_head",
    "collect_data",
    "default_distribution",
    "find_files",
    "find_head",
    "fit_batch",
    "fit_dataset",
    "get_task",
    "get_task_type",
    "has_labels",
    "head_of",
    "is_batches",
    "label_names",
    "limit_rows",
    "load_task",
    "load_task_validation",
    "load_user_task",
    "load_user_validation",
    "mask_tokens",
    "max_input_length",
    "model_class_names",
    "model_inputs",
    "read_texts",
    "recode_labels",
    "task_type_for_texts",
    "task_type_of",
    "tokenize",
]
