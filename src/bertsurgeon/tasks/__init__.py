"""Tasks and metrics: labelled text by name, from local files or the user's own, and its published scores."""

from bertsurgeon.tasks.data import TaskData, load_task, load_user_task, shorten, tokenize
from bertsurgeon.tasks.files import read_texts
from bertsurgeon.tasks.masking import IGNORED, TokenMasking, mask_tokens
from bertsurgeon.tasks.metrics import compute_metrics
from bertsurgeon.tasks.table import TASKS, Task, get_task

__all__ = [
    "IGNORED",
    "TASKS",
    "Task",
    "TaskData",
    "TokenMasking",
    "compute_metrics",
    "get_task",
    "load_task",
    "load_user_task",
    "mask_tokens",
    "read_texts",
    "shorten",
    "tokenize",
]
