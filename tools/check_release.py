"""Builds wheel and sdist, installs the wheel alone in fresh environments, and runs the quickstart as it is written.

    python tools/check_release.py                     # every Python of PYTHONS that this machine has, in turn
    python tools/check_release.py --python 3.13 --transformers 5.0.0 --record tools/release_checks.json

Each environment is a Python with a version of transformers; torch is the one in ``constraints.txt``, because other ones
come as builds with CUDA of several gigabytes. An environment takes a few minutes. ``--record`` writes what was tried.
"""

import argparse
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
"""Supported versions of Python."""

EXTRAS = "openvino,int8"
"""Extras of the quickstart."""

MODEL = """
import random
from bertsurgeon import TrainingConfig, train
from bertsurgeon.testing import toy_classifier

model, tokenizer, texts = toy_classifier(texts=300)
train(model, TrainingConfig(epochs=5, batch_size=8, learning_rate=1e-3), texts, tokenizer)
model.save_pretrained("my-model")
tokenizer.save_pretrained("my-model")
texts.select(range(200)).to_csv("train.csv")
texts.select(range(200, 300)).to_csv("validation.csv")
"""
"""Makes what the quickstart's reader has: a fine-tuned model, and two files."""


def main() -> None:
    """Checks every environment that is asked for, and exits with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="versions of Python")
    parser.add_argument("--transformers", nargs="+", default=[pinned("transformers")], help="versions of transformers")
    parser.add_argument("--record", type=Path, help="JSON file to which the results are added")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder))
        print(f"Built {wheel.name} and {sdist.name}.")
        failures = 0
        for python in options.python:
            for transformers in options.transformers:
                result = check(python, transformers, wheel, Path(folder) / f"{python}-{transformers}")
                print(json.dumps(result))
                failures += result["error"] is not None
                if options.record is not None:
                    record(options.record, result)
    sys.exit(1 if failures else 0)


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


def check(python: str, transformers: str, wheel: Path, folder: Path) -> dict[str, Any]:
    """Makes an environment, installs the wheel with the quickstart's extras, and runs the quickstart."""
    start = time.perf_counter()
    result: dict[str, Any] = {"python": python, "transformers": transformers, "torch": pinned("torch"), "error": None}
    environment, reader = folder / "venv", folder / "reader"
    binaries = environment / "bin"
    interpreter = shutil.which(f"python{python}")
    if interpreter is None:
        return result | {"error": f"There is no python{python} on this machine."}
    reader.mkdir(parents=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={pinned('torch')}\ntransformers=={transformers}\n", encoding="utf-8")
    install = [str(binaries / "pip"), "install", "--quiet", "--no-compile", "-c", str(constraints)]
    python_here = str(binaries / "python")
    steps = {
        "environment": [interpreter, "-m", "venv", str(environment)],
        "installation": [*install, f"{wheel}[{EXTRAS}]"],
        "version": [str(binaries / "bertsurgeon"), "--version"],
        "model": [python_here, "-c", MODEL],
        **{command: ["bash", "-c", command] for command in quickstart_commands()},
        **{f"Python block {number}": [python_here, "-c", code] for number, code in enumerate(quickstart_code(), 1)},
    }
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"PATH": f"{binaries}:{variables['PATH']}", "PYENV_VERSION": full_version(interpreter)}
    versions = {}
    for name, command in steps.items():
        done = subprocess.run(command, cwd=reader, env=variables, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()[-12:]
            return result | {"error": f"{name}: " + "\n".join(lines), **versions}
        if name == "version":
            expected = f"bertsurgeon {project_version()}"
            if done.stdout.strip() != expected:
                return result | {"error": f"--version prints {done.stdout.strip()!r} instead of {expected!r}."}
            versions = installed_versions(python_here, variables)
    return result | versions | {"minutes": round((time.perf_counter() - start) / 60, 1), "steps": list(steps)}


def full_version(interpreter: str) -> str:
    """The version of an interpreter that pyenv starts by a shim; harmless for others."""
    output = subprocess.run([interpreter, "-V"], capture_output=True, text=True, check=False).stdout
    return output.removeprefix("Python ").strip() or "system"


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


def record(path: Path, result: dict[str, Any]) -> None:
    """Adds a result to a file, in place of an older one of the same environment."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    minor = [".".join(str(row["python"]).split(".")[:2]) for row in (*rows, result)]
    key = (minor[-1], result["transformers"])
    rows = [row for row, version in zip(rows, minor, strict=False) if (version, row["transformers"]) != key]
    stamped = {"date": time.strftime("%Y-%m-%d", time.gmtime()), **result}
    rows = sorted([*rows, stamped], key=lambda row: (row["python"], row["transformers"]))
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
