"""Builds wheel and sdist, installs the wheel alone in fresh environments, and runs the quickstart as it is written.

    python tools/check_release.py                     # every Python of PYTHONS that is installed, in turn
    python tools/check_release.py --python 3.13 --transformers 5.0.0 --record tools/release_checks.json

An environment is a version each of Python, transformers and torch. Interpreters are those of pyenv, then those on the
PATH; a version that is not installed is skipped with a note and recorded as not available. Torch is the version in
``constraints.txt`` unless ``--torch`` names another one, which may come as a CUDA build of several gigabytes. An
environment takes a few minutes. ``--record`` adds the results to a JSON file.
"""

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
"""Supported versions of Python."""

EXTRAS = "openvino,int8"
"""Extras of the quickstart."""

MODEL = """
import torch
from transformers import BertForSequenceClassification
from bertsurgeon import TrainingConfig, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=300)
model.config.max_position_embeddings = tokenizer.model_max_length = 128
torch.manual_seed(0)
model = BertForSequenceClassification(model.config)
train(model, TrainingConfig(epochs=5, batch_size=8, learning_rate=1e-3), texts, tokenizer)
model.save_pretrained("my-model")
tokenizer.save_pretrained("my-model")
texts.select(range(200)).to_csv("train.csv")
texts.select(range(200, 300)).to_csv("validation.csv")
"""
"""Makes what the quickstart's reader has: a fine-tuned model, and two files.

The model accepts 128 tokens, which is the default length of ``bench``.
"""


@dataclass(frozen=True)
class Environment:
    """Versions that are requested of an environment."""

    python: str
    transformers: str
    torch: str


def main() -> None:
    """Checks every requested environment; exits with 1 if one fails or none could be checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="versions of Python")
    parser.add_argument("--transformers", nargs="+", default=[pinned("transformers")], help="versions of transformers")
    parser.add_argument("--torch", nargs="+", default=[pinned("torch")], help="versions of torch")
    parser.add_argument("--record", type=Path, help="JSON file to which the results are added")
    options = parser.parse_args()
    environments = [
        Environment(*each) for each in itertools.product(options.python, options.transformers, options.torch)
    ]
    interpreters = {python: find_interpreter(python) for python in options.python}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder))
        print(f"Built {wheel.name} and {sdist.name}.", flush=True)
        for environment in environments:
            interpreter = interpreters[environment.python]
            if interpreter is None:
                print(f"Skipped Python {environment.python}: it is not installed.", flush=True)
                result = not_available(environment)
            else:
                with tempfile.TemporaryDirectory(dir=folder) as subfolder:  # removed at once: it takes gigabytes
                    result = check(environment, interpreter, wheel, Path(subfolder))
                print(json.dumps(result), flush=True)
            results.append(result)
            if options.record is not None:
                record(options.record, environment, result)
    if not any(result["available"] for result in results):
        sys.exit("No environment was checked: none of the requested versions of Python is installed.")
    sys.exit(1 if any(result["error"] is not None for result in results) else 0)


def pinned(package: str) -> str:
    """The version of a package in ``constraints.txt``."""
    match = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        sys.exit(f"constraints.txt names no version of {package}.")
    return match[1]


def build(folder: Path) -> tuple[Path, Path]:
    """Builds both distributions, and checks what is in the wheel."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    missing = missing_from_wheel(wheel)
    if missing:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}.")
    return wheel, sdist


def missing_from_wheel(wheel: Path) -> list[str]:
    """Files of the package that a wheel lacks: all that are in ``src`` belong into it."""
    sources = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = {path.relative_to(ROOT / "src").as_posix() for path in sources if ".egg-info" not in str(path)}
    return sorted(names - set(zipfile.ZipFile(wheel).namelist()))


def find_interpreter(python: str) -> Path | None:
    """The interpreter of a minor version: the newest patch version in pyenv that starts, else the one on the PATH.

    A shim of pyenv on the PATH only starts if its version is selected, so the versions themselves are tried first.
    """
    candidates = sorted(pyenv_versions(python), key=patch_version, reverse=True)
    on_path = shutil.which(f"python{python}")
    executables = [folder / "bin" / "python" for folder in candidates] + ([Path(on_path)] if on_path else [])
    return next((executable for executable in executables if starts(executable, python)), None)


def pyenv_versions(python: str) -> list[Path]:
    """Folders of the released patch versions of a minor version that pyenv has installed."""
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return []
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
    if root.returncode != 0:
        return []
    folders = (Path(root.stdout.strip()) / "versions").glob(f"{python}.*")
    return [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]


def patch_version(folder: Path) -> int:
    """The last number of a version folder's name."""
    return int(folder.name.rpartition(".")[2])


def starts(executable: Path, python: str) -> bool:
    """True if the executable runs, has the modules that an environment needs, and is the requested minor version."""
    code = "import platform, ssl, venv; print(platform.python_version())"
    try:
        done = subprocess.run([str(executable), "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.startswith(f"{python}.")


def not_available(environment: Environment) -> dict[str, Any]:
    """The result of an environment whose Python is not installed."""
    return {**asdict(environment), "available": False, "error": None}


def check(environment: Environment, interpreter: Path, wheel: Path, folder: Path) -> dict[str, Any]:
    """Makes an environment, installs the wheel with the quickstart's extras, and runs the quickstart."""
    start = time.perf_counter()
    result: dict[str, Any] = {**asdict(environment), "available": True, "error": None, "seconds": {}}
    venv, reader = folder / "venv", folder / "reader"
    binaries = venv / "bin"
    reader.mkdir()
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={environment.torch}\ntransformers=={environment.transformers}\n", encoding="utf-8")
    install = [str(binaries / "pip"), "install", "--quiet", "--no-compile", "-c", str(constraints)]
    python_here = str(binaries / "python")
    steps = {
        "environment": [str(interpreter), "-m", "venv", str(venv)],
        "installation": [*install, f"{wheel}[{EXTRAS}]"],
        "version": [str(binaries / "bertsurgeon"), "--version"],
        "model": [python_here, "-c", MODEL],
        **{command: ["bash", "-c", command] for command in quickstart_commands()},
        **{f"Python block {number}": [python_here, "-c", code] for number, code in enumerate(quickstart_code(), 1)},
    }
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"PATH": f"{binaries}:{variables['PATH']}"}
    for name, command in steps.items():
        step_start = time.perf_counter()
        done = subprocess.run(command, cwd=reader, env=variables, capture_output=True, text=True, check=False)
        result["seconds"][name] = round(time.perf_counter() - step_start)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()[-12:]
            result["error"] = f"{name}: " + "\n".join(lines)
            break
        if name == "version":
            result |= installed_versions(python_here, variables)
            expected = f"bertsurgeon {project_version()}"
            if done.stdout.strip() != expected:
                result["error"] = f"--version prints {done.stdout.strip()!r} instead of {expected!r}."
                break
    return result | {"minutes": round((time.perf_counter() - start) / 60, 1)}


def installed_versions(python: str, variables: dict[str, str]) -> dict[str, Any]:
    """Versions of what was installed."""
    names = ["bertsurgeon", "torch", "transformers", "openvino", "nncf", "onnxruntime", "numpy"]
    code = f"import json, platform; from importlib.metadata import version; print(json.dumps({{'python': platform.python_version(), **{{name: version(name) for name in {names}}}}}))"  # noqa: E501
    output = subprocess.run([python, "-c", code], env=variables, capture_output=True, text=True, check=True).stdout
    return {**json.loads(output), "machine": platform.machine(), "system": platform.system()}


def project_version() -> str:
    """The version in ``pyproject.toml``, the one place where it is written."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def quickstart_commands() -> list[str]:
    """The quickstart's commands for a reader who has a model and has installed the package."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    return [line for line in lines if line.startswith("bertsurgeon ") and not line.startswith("bertsurgeon finetune")]


def quickstart_code() -> list[str]:
    """The quickstart's Python code."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def record(path: Path, environment: Environment, result: dict[str, Any]) -> None:
    """Adds a result to a file, in place of an older one of the same environment.

    A result of a machine that has the Python is kept when another machine lacks it.
    """
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    same = [row for row in rows if row["requested"] == asdict(environment)]
    if not result["available"] and any(row["available"] for row in same):
        return
    stamped = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "requested": asdict(environment), **result}
    rows = [row for row in rows if row not in same] + [stamped]
    rows.sort(key=lambda row: list(row["requested"].values()))
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
