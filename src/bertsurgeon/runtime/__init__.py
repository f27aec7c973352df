"""Exported models: their manifest, and the sessions that run them."""

from bertsurgeon.runtime.limited import run_without_vnni
from bertsurgeon.runtime.manifest import MANIFEST, MODEL_FILES, RUNTIME_NAMES, Manifest, Precision, Runtime, is_exported
from bertsurgeon.runtime.sessions import (
    OpenVinoSession,
    RuntimeModel,
    Session,
    is_x86,
    open_exported,
    open_session,
    require,
)

__all__ = [
    "MANIFEST",
    "MODEL_FILES",
    "RUNTIME_NAMES",
    "Manifest",
    "OpenVinoSession",
    "Precision",
    "Runtime",
    "RuntimeModel",
    "Session",
    "is_exported",
    "is_x86",
    "open_exported",
    "open_session",
    "require",
    "run_without_vnni",
]
