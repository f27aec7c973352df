"""JSON that is nested 100,000 times, has numbers of 5,000 digits, equal keys, or a million values."""

import shutil
from pathlib import Path

from bertsurgeon import AutoConfig, Calibration, ModelPlan, Sparsity, calibrate, load_model, open_exported
from bertsurgeon.checkpoint import load_embedder, load_tokenizer
from bertsurgeon.reporting import write_report_page
from bertsurgeon.runtime import MANIFEST, Manifest
from bertsurgeon.testing import toy_classifier
from common import dense, main, pruned, refused

TEXTS = {
    "100,000 lists": "[" * 100_000 + "]" * 100_000,
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "5,000 digits": '{"format_version": ' + "9" * 5000 + "}",
    "equal keys": '{"model_type": "bert", "model_type": "bert", "a": 1, "a": 2}',
    "a million values": "[" + "[]," * 1_200_000 + "1]",
    "two values": "{} {}",
    "no UTF-8": "\udcff",
    "nothing": "",
    "NaN": "NaN",
}


def attack(folder: Path) -> list[str]:
    lines = []
    model, tokenizer, rows = toy_classifier()
    config = AutoConfig(Sparsity(0.5), samples=16)
    calibrate(model, config, list(rows["text"]), tokenizer).save(folder / "calibration")
    export = dense(folder / "export")
    (export / "model.onnx").write_bytes(b"graph")
    Manifest("onnx", "fp32", ("input_ids",), ("logits",), 1).save(export)
    readers = {
        "config.json": (dense(folder / "dense"), load_model),
        "config.json of a pruned model": (pruned(folder / "pruned"), load_model),
        "tokenizer_config.json": (folder / "dense", load_tokenizer),
        "model.safetensors.index.json": (folder / "dense", load_model),
        "modules.json": (folder / "dense", load_embedder),
        "calibration.json": (folder / "calibration", Calibration.load),
        MANIFEST: (export, open_exported),
        "report.json": (folder / "dense", write_report_page),
        "plan.json": (folder / "dense", lambda path: ModelPlan.load(path / "plan.json")),
    }
    for name, (source, read) in readers.items():
        for what, text in TEXTS.items():
            copy = shutil.copytree(source, folder / "copy")
            (copy / name.partition(" ")[0]).write_bytes(text.encode("utf-8", "surrogateescape"))
            lines.append(refused(f"{what} as {name}", lambda copy=copy, read=read: read(copy)))
            shutil.rmtree(copy)
    return lines


if __name__ == "__main__":
    main(attack)
