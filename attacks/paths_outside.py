"""An index, modules, a manifest, an entry and a record that name files outside of their folder."""

import json
import shutil
from pathlib import Path

from bertsurgeon import load_model, open_exported, verify
from bertsurgeon.checkpoint import load_embedder, new_folder
from bertsurgeon.runtime import MANIFEST, Manifest
from common import dense, edit, main, refused


def attack(folder: Path) -> list[str]:
    lines = []
    other = dense(folder / "other")
    for path in ("../other/model.safetensors", str(other / "model.safetensors")):
        model = dense(folder / "model")
        (model / "model.safetensors").unlink()
        names = {"weight_map": {"bert.pooler.dense.bias": path}, "metadata": {}}
        (model / "model.safetensors.index.json").write_text(json.dumps(names))
        lines.append(refused(f"an index with {path[:12]}…", lambda: load_model(model)))
        shutil.rmtree(model)
        model = dense(folder / "model")
        edit(model / "config.json", lambda config, path=path: config.update(transformers_weights=path))
        lines.append(refused(f"transformers_weights {path[:12]}…", lambda: load_model(model)))
        shutil.rmtree(model)
    for path in ("../other", str(other)):
        model = dense(folder / "embedder")
        modules = [{"idx": 0, "name": "0", "path": path, "type": "sentence_transformers.models.Transformer"}]
        (model / "modules.json").write_text(json.dumps(modules))
        lines.append(refused(f"a module in {path[:12]}…", lambda: load_embedder(model)))
        shutil.rmtree(model)
    export = dense(folder / "export")
    (export / "model.onnx").write_bytes(b"graph")
    Manifest("onnx", "fp32", ("input_ids",), ("logits",), 1).save(export)
    edit(export / MANIFEST, lambda manifest: manifest["digests"].update({"../other/config.json": "0" * 32}))
    lines.append(refused("a manifest with ../other", lambda: open_exported(export)))
    with new_folder(folder / "ours") as new:
        (new / "file").touch()
    edit(folder / "ours" / "bertsurgeon_folder.json", lambda record: record["files"].append("../other/config.json"))
    faults = verify(folder / "ours").faults
    assert "outside" in faults[0], faults
    with new_folder(folder / "ours", overwrite=True) as new:
        (new / "file").touch()
    assert (other / "config.json").is_file(), "a file outside of the folder was removed"
    return [*lines, f"a record with ../other: named by verify, not followed by --overwrite: {faults[0][:120]}"]


if __name__ == "__main__":
    main(attack)
