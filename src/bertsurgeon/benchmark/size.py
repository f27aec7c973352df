"""How much room a saved model takes."""

from pathlib import Path


def folder_size(path: Path) -> int:
    """Bytes of all ``*.safetensors`` files directly in the folder ``path``."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
