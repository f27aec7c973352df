"""Exported models: their manifest, and the sessions that run them."""

from bertsurgeon.runtime.limited import can_limit, run_without_vnni
from bertsurgeon.runtime.manifest import MANIFEST, MODEL_FILES, RUNTIME_NAMES, Manifest, Precision, Runtime, is_exported
from bertsurgeon.runtime.sessions import RuntimeModel, Session, open_exported, open_session, require

__all__ = [
    "MANIFEST",
    "MODEL_FILES",
    "RUNTIME_NAMES",
    "Manifest",
    "Precision",
    "Runtime",
    "RuntimeModel",
    "Session",
    "can_limit",
    "is_exported",
    "open_exported",
    "open_session",
    "require",
    "run_without_vnni",
]
