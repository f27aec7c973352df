"""Tasks and metrics: labelled text by name, from local files or the user's own, and its published scores.

A :class:`TaskType` knows all that depends on the kind of a task, for every room above.
"""

from bertsurgeon.tasks.collate import IGNORED, LABELS, Collator, has_labels, model_inputs
from bertsurgeon.tasks.data import TaskData, for_model, load_task, load_user_task, number_as, shorten, tokenize
from bertsurgeon.tasks.distributions import CATEGORICAL, Distribution, default_distribution
from bertsurgeon.tasks.files import read_texts
from bertsurgeon.tasks.length import longest_input
from bertsurgeon.tasks.masking import TokenMasking, mask_tokens
from bertsurgeon.tasks.table import TASKS, Task, get_task
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
    class_labels,
    class_names,
    find_head,
    get_task_type,
    head_of,
    task_type_for_texts,
    task_type_of,
)

__all__ = [
    "CATEGORICAL",
    "IGNORED",
    "LABELS",
    "TASKS",
    "TASK_TYPES",
    "Classification",
    "Collator",
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
    "check_same_head",
    "class_labels",
    "class_names",
    "default_distribution",
    "find_head",
    "for_model",
    "get_task",
    "get_task_type",
    "has_labels",
    "head_of",
    "load_task",
    "load_user_task",
    "longest_input",
    "mask_tokens",
    "model_inputs",
    "number_as",
    "read_texts",
    "shorten",
    "task_type_for_texts",
    "task_type_of",
    "tokenize",
]
