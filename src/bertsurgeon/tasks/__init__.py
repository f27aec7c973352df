"""Tasks and metrics: labelled text by name, from local files or the user's own, and its published scores."""

from bertsurgeon.tasks.data import TaskData, load_task, load_user_task, shorten, tokenize
from bertsurgeon.tasks.files import read_texts
from bertsurgeon.tasks.metrics import compute_metrics
from bertsurgeon.tasks.table import TASKS, Task, get_task

__all__ = [
    "TASKS",
    "Task",
    "TaskData",
    "compute_metrics",
    "get_task",
    "load_task",
    "load_user_task",
    "read_texts",
    "shorten",
    "tokenize",
]
