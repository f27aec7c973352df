"""Weights in PyTorch's format that are some kilobytes in the archive and gigabytes in memory."""

import pickle
import zipfile
from pathlib import Path

from bertsurgeon import load_model
from common import dense, main, refused


def attack(folder: Path) -> list[str]:
    model = dense(folder / "model")
    (model / "model.safetensors").unlink()
    with zipfile.ZipFile(model / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        with archive.open("model/data/0", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(2**22))
    size = (model / "pytorch_model.bin").stat().st_size
    return [refused(f"{size:,} bytes for {64 * 2**22:,}", lambda: load_model(model))]


if __name__ == "__main__":
    main(attack)
