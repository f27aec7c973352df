"""Task types and other heads: one class each, with all that depends on the type."""

from bertsurgeon.tasks.types.base import PreparedData, TaskType
from bertsurgeon.tasks.types.embedding import Embedding
from bertsurgeon.tasks.types.heads import (
    Head,
    ImageClassification,
    LanguageModel,
    MaskedLanguageModel,
    Outputs,
    Prediction,
)
from bertsurgeon.tasks.types.question import QuestionAnswering
from bertsurgeon.tasks.types.registry import (
    CLASSIFICATION,
    HEADS,
    REGRESSION,
    TASK_TYPES,
    check_same_head,
    find_head,
    get_task_type,
    head_of,
    label_names,
    model_class_names,
    task_type_for_texts,
    task_type_of,
)
from bertsurgeon.tasks.types.sequence import Classification, MultiLabel, Regression
from bertsurgeon.tasks.types.token import TokenClassification

__all__ = [
    "CLASSIFICATION",
    "HEADS",
    "REGRESSION",
    "TASK_TYPES",
    "Classification",
    "Embedding",
    "Head",
    "ImageClassification",
    "LanguageModel",
    "MaskedLanguageModel",
    "MultiLabel",
    "Outputs",
    "Prediction",
    "PreparedData",
    "QuestionAnswering",
    "Regression",
    "TaskType",
    "TokenClassification",
    "check_same_head",
    "find_head",
    "get_task_type",
    "head_of",
    "label_names",
    "model_class_names",
    "task_type_for_texts",
    "task_type_of",
]
