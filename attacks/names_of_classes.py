"""``architectures`` names something of transformers that is no model, or a model of another type."""

from pathlib import Path

from bertsurgeon.checkpoint import load_as_saved
from common import dense, edit, main, pruned, refused

NAMES = (
    "set_seed",
    "Trainer",
    "AutoModel",
    "pipeline",
    "BertTokenizer",
    "PreTrainedModel",
    "T5Model",
    "GPT2Model",
    "__doc__",
    "",
)


def attack(folder: Path) -> list[str]:
    lines = []
    for model in (dense(folder / "dense"), pruned(folder / "pruned")):
        for name in NAMES:
            edit(model / "config.json", lambda config, name=name: config.update(architectures=[name]))
            lines.append(refused(f"{name or 'an empty name'} ({model.name})", lambda model=model: load_as_saved(model)))
        for value in ("BertModel", [None], [["x"]], {"a": 1}):
            edit(model / "config.json", lambda config, value=value: config.update(architectures=value))
            lines.append(refused(f"{value!r} ({model.name})", lambda model=model: load_as_saved(model)))
    return lines


if __name__ == "__main__":
    main(attack)
