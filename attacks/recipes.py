"""YAML that makes objects, expands, nests, refers to itself, or has values that no reader expects."""

from pathlib import Path

from bertsurgeon.gradual.recipe_files import load_recipe
from common import main, refused

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))

TEXTS = {
    "an object of Python": "!!python/object/apply:os.system ['touch executed']",
    "a module of Python": "pruning: !!python/module:os",
    "an unknown tag": "pruning: !evil {}",
    "2^60 values by aliases": LAUGHS + "pruning: *a59\n",
    "2^60 values as a number": LAUGHS + "training:\n  epochs: *a59\n",
    "a list in itself": "pruning: &a [*a]",
    "a section in itself": "pruning: &a {start: *a}",
    "20,000 lists": "[" * 20_000 + "]" * 20_000,
    "3,000 lists": "[" * 3000 + "]" * 3000,
    "3,000 sections": "\n".join(" " * n + "a:" for n in range(600)),
    "5,000 digits": "training:\n  epochs: " + "9" * 5000,
    "a date that is none": "training:\n  epochs: 2001-99-99",
    "a key that is a list": "? [a, b]\n: 1",
    "equal keys": "training: {epochs: 1, epochs: 2}",
    "two documents": "a: 1\n---\nb: 2",
    "a control character": "a: \x07",
    "nothing": "",
    "a megabyte": "a: " + "x" * 2**20,
}


def attack(folder: Path) -> list[str]:
    lines = []
    for what, text in TEXTS.items():
        file = folder / "recipe.yaml"
        file.write_text(text)
        lines.append(refused(what, lambda file=file: load_recipe(file)))
    assert not Path("executed").exists()
    return lines


if __name__ == "__main__":
    main(attack)
