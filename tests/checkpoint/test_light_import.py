"""Loading needs torch, transformers, safetensors and numpy, not what pruning and tasks need beside these."""

import subprocess
import sys
from pathlib import Path

import bertsurgeon

SCRIPT = """
import sys, types
import numpy, safetensors.torch, torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.quantizers.base import HfQuantizer
before = set(sys.modules)
package = types.ModuleType("bertsurgeon")  # without what the package's own __init__ imports
package.__path__ = sys.argv[1:]
sys.modules["bertsurgeon"] = package
import bertsurgeon.checkpoint
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_loading_imports_few_packages() -> None:
    """transformers itself comes with typer, which brings rich."""
    folder = str(Path(bertsurgeon.__file__).parent)
    done = subprocess.run([sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"bertsurgeon", "rich", "markdown_it", "mdurl", "pygments"}
