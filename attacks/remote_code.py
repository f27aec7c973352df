"""Code beside a model, named by its configuration, its tokenizer and the modules of an embedder."""

import json
import sys
from pathlib import Path

from bertsurgeon import load_model
from bertsurgeon.checkpoint import load_embedder, load_tokenizer
from common import dense, edit, main, refused


def attack(folder: Path) -> list[str]:
    canary, lines = folder / "executed", []
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Evil:\n    pass\n"
    model = dense(folder / "model")
    (model / "evil.py").write_text(code)
    edit(
        model / "config.json",
        lambda config: config.update(auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}),
    )
    load_model(model)
    lines.append("auto_map of a known type: ignored, the model of transformers is loaded")
    edit(model / "config.json", lambda config: config.update(model_type="evil"))
    lines.append(refused("auto_map of an unknown type", lambda: load_model(model)))
    model = dense(folder / "tokenizer")
    (model / "evil.py").write_text(code)
    (model / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    edit(model / "tokenizer_config.json", lambda config: config.update(settings))
    lines.append(refused("auto_map of a tokenizer", lambda: load_tokenizer(model)))
    model = dense(folder / "embedder")
    (model / "evil.py").write_text(code)
    for kind in ("evil.Evil", "os.system", "builtins.exec"):
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "", "type": kind},
        ]
        (model / "modules.json").write_text(json.dumps(modules))
        lines.append(refused(f"a module of the class {kind}", lambda: load_embedder(model)))
    assert not canary.exists(), "the code was executed"
    assert "evil" not in sys.modules
    return lines


if __name__ == "__main__":
    main(attack)
