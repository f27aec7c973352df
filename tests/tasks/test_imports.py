"""Packages that only data needs are imported where it is used, so that loading a model does not need them."""

import subprocess
import sys

CODE = """
import importlib.util, sys, types
import torch, transformers
from transformers import AutoModelForSequenceClassification, PreTrainedModel  # import scipy
before = set(sys.modules)
spec = importlib.util.find_spec("bertsurgeon")
package = types.ModuleType("bertsurgeon")  # its own __init__ imports all rooms
package.__path__ = spec.submodule_search_locations
sys.modules["bertsurgeon"] = package
import bertsurgeon.embedder, bertsurgeon.evaluation, bertsurgeon.tasks, bertsurgeon.vocabulary
heavy = ("datasets", "pandas", "pyarrow", "sklearn", "scipy", "seqeval", "torchmetrics")
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} & set(heavy)))
"""


def test_rooms_import_light() -> None:
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
