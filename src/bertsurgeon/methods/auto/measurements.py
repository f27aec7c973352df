"""What ``auto`` measures on a dense model: once, for any number of budgets; saved and loaded as a folder."""

import hashlib
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import distributed
from bertsurgeon.architectures import unfuse
from bertsurgeon.calibration import Batch, MatrixKey, collect_statistics, make_batches
from bertsurgeon.checkpoint import new_folder
from bertsurgeon.devices import Device, running_on
from bertsurgeon.errors import CheckpointError, ModelError, OptionError, PlanError, first_line
from bertsurgeon.files import METADATA, Digests, json_digest, parse_json, read_json, tensor_digest
from bertsurgeon.layers import without_fused_operations
from bertsurgeon.methods.auto.candidates import Candidate, SubLayerCurve
from bertsurgeon.methods.auto.config import CalibrationConfig
from bertsurgeon.methods.auto.curves import measure_curves
from bertsurgeon.methods.base import check_dense, runs_in_bf16
from bertsurgeon.options import check_config
from bertsurgeon.plan import (
    ALL_ROLES,
    SUB_LAYERS,
    Grouped,
    check_channels,
    format_channels,
    is_integer,
    parse_channels,
    structure_from_dict,
)
from bertsurgeon.prediction import evaluating, gradients_enabled, without_inference_tensors
from bertsurgeon.tasks import LABELS, has_labels
from bertsurgeon.timings import Timings

FORMAT_VERSION = 1
SETTINGS = (
    "samples",
    "group_chunk",
    "batch_size",
    "metric",
    "token_weighting",
    "fisher_temperature",
    "calibration_precision",
    "use_labels",
    "damping",
    "seed",
)
"""Options of :class:`CalibrationConfig` that a saved calibration records."""
FORMER_SETTINGS = {"fisher_temperature": 1.0}
"""What calibrations were made with that do not record an option, where it was not the present default."""
_DATA = "calibration.json"
_TENSORS = "calibration.safetensors"


@dataclass
class Calibration:
    """One calibration of one dense model.

    Attributes:
        model: Fingerprint of the model's weights (:func:`fingerprint`).
        batches: The calibration texts, tokenized and padded.
        curvature: Second moments of the output gradients, by matrix.
        token_weights: Weight of each token, by matrix, one tensor (real tokens,) per batch.
        curves: Predicted error of every sub-layer, for everything it may keep.
        settings: The options of :class:`bertsurgeon.CalibrationConfig` it was made with (``SETTINGS``), and ``groups``.
        seconds: Wall-clock time of each step.
    """

    model: str
    batches: list[Batch]
    curvature: dict[MatrixKey, Tensor]
    token_weights: dict[MatrixKey, list[Tensor]]
    curves: list[SubLayerCurve]
    settings: dict[str, Any]
    seconds: dict[str, float]

    def check(self, model: PreTrainedModel, config: CalibrationConfig) -> None:
        """Checks that this calibration can serve a model and options.

        Raises:
            ModelError: If it was made for another model, or the weights have changed since.
            OptionError: If it was made with other options.
        """
        if fingerprint(model) != self.model:
            raise ModelError("The calibration belongs to another model (or its weights have changed); calibrate again.")
        if "groups" in config.structures and not self.settings["groups"]:
            raise OptionError("The calibration has no groups; calibrate again with groups among the structures.")
        for name in SETTINGS:
            default, chosen = getattr(CalibrationConfig, name), getattr(config, name)
            used = self.settings.get(name, FORMER_SETTINGS.get(name, default))
            if used != chosen and not (name not in self.settings and chosen == default):
                raise OptionError(
                    f"The calibration was made with {name}={used}, not {chosen}; use the same options, "
                    "or calibrate again."
                )

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes ``calibration.json`` and ``calibration.safetensors``; the folder is there completely or not at all.

        Of several processes, the first one writes; all of them must call this.

        Raises:
            CheckpointError: If the folder exists or cannot be written.
        """
        folder = Path(folder)
        tensors: dict[str, Tensor] = {}
        for number, batch in enumerate(self.batches):
            tensors |= {f"batches.{number}.{name}": value.contiguous() for name, value in batch.items()}
        tensors |= {f"curvature.{layer}.{role}": moment.float() for (layer, role), moment in self.curvature.items()}
        for (layer, role), weights in self.token_weights.items():
            tensors |= {f"token_weights.{layer}.{role}.{number}": batch for number, batch in enumerate(weights)}
        for number, curve in enumerate(self.curves):
            for index, candidate in enumerate(curve.candidates):
                errors = candidate.rank_errors
                tensors |= {_rank_error_name(number, index, role): tensor for role, tensor in errors.items()}
        data = {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "settings": self.settings,
            "seconds": self.seconds,
            "batches": len(self.batches),
            "curves": [_curve_to_dict(curve) for curve in self.curves],
        }

        def write() -> None:
            with new_folder(folder, overwrite, kind="calibration") as temporary:
                text = json.dumps(data, indent=1) + "\n"
                digests = Digests(
                    {name: tensor_digest(name, tensor) for name, tensor in tensors.items()},
                    {_DATA: json_digest(json.loads(text))},
                )
                stored = {name: tensor.cpu() for name, tensor in tensors.items()}
                save_file(stored, temporary / _TENSORS, {METADATA: json.dumps(digests.to_dict())})
                (temporary / _DATA).write_text(text, encoding="utf-8")

        distributed.run_on_main(write)

    @classmethod
    def load(cls, folder: str | Path) -> "Calibration":
        """Reads what :meth:`save` wrote.

        Raises:
            CheckpointError: If it is missing, damaged, not as it was saved, or of a newer format.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder {folder}; pass the output folder of 'bertsurgeon calibrate'.")
        try:
            data = read_json(folder / _DATA)
            version = data["format_version"]
            if version != FORMAT_VERSION or isinstance(version, bool):
                raise CheckpointError(f"{folder} is a calibration of format {version}; calibrate again.")
            check_channels(data, (folder / _TENSORS).stat().st_size)
            tensors = load_file(folder / _TENSORS)
            fault = _find_fault(folder, data, tensors)
            if fault is not None:
                raise CheckpointError(f"{folder} is damaged: {fault}; copy it again, or calibrate again.")
            if not _is_valid(data, len(tensors)):
                raise TypeError(f"a value in {_DATA} has another type or range than it was saved with")
            batches: list[Batch] = [{} for _ in range(data["batches"])]
            curvature: dict[MatrixKey, Tensor] = {}
            token_weights: dict[MatrixKey, list[Tensor]] = {}
            for layer, role in product(range(len(data["curves"]) // 2), ALL_ROLES):
                names = [f"token_weights.{layer}.{role}.{number}" for number in range(data["batches"])]
                if names[0] in tensors:
                    token_weights[layer, role] = [tensors[name] for name in names]
            for name, tensor in tensors.items():
                kind, number, rest = name.split(".", 2)
                if kind == "batches":
                    batches[int(number)][rest] = tensor
                elif kind == "curvature":
                    curvature[int(number), rest] = tensor.double()  # type: ignore[index]  # roles are names
                elif kind not in ("token_weights", "tails"):
                    raise ValueError(f"there is no place for {name[:40]}")
            curves = [_curve_from_dict(number, curve, tensors) for number, curve in enumerate(data["curves"])]
            return cls(data["model"], batches, curvature, token_weights, curves, data["settings"], data["seconds"])
        except (
            OSError,
            SafetensorError,
            PlanError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise CheckpointError(
                f"{folder} is no complete calibration ({first_line(error)}); calibrate again."
            ) from error


def _is_valid(data: dict[str, Any], tensors: int) -> bool:
    """Returns whether the entries of ``calibration.json`` have their types, and batches no more than the tensors."""

    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value

    curves, batches = data["curves"], data["batches"]
    return (
        isinstance(data["model"], str)
        and isinstance(data["settings"], dict)
        and isinstance(data["settings"]["groups"], bool)
        and isinstance(data["seconds"], dict)
        and is_integer(batches)
        and 0 < batches <= tensors
        and isinstance(curves, list)
        and 0 < len(curves) <= tensors
        and all(is_integer(curve["layer"]) and curve["sub_layer"] in SUB_LAYERS for curve in curves)
        and all(is_integer(curve["total"]) and is_integer(curve["width"]) for curve in curves)
        and all(is_number(curve["dropped"]) for curve in curves)
        and all(isinstance(curve[kind], list) for curve in curves for kind in ("options", "grouped"))
        and all(is_number(one["error"]) for curve in curves for one in (*curve["options"], *curve["grouped"]))
    )


def _find_fault(folder: Path, data: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
    """Returns what is not as it was saved, or None; calibrations of 0.1.0 hold no digests."""
    with safe_open(folder / _TENSORS, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA)
    if text is None:
        return None
    digests = Digests.from_dict(parse_json(text.encode()))
    if digests.config.get(_DATA) != json_digest(data):
        return f"{_DATA} is not as it was saved"
    return digests.tensor_fault({name: tensor_digest(name, tensor) for name, tensor in tensors.items()})


def _rank_error_name(curve: int, candidate: int, role: str) -> str:
    """Name of a tensor in the file: errors of all ranks of one matrix of one candidate."""
    return f"tails.{curve}.{candidate}.{role}"


def _curve_to_dict(curve: SubLayerCurve) -> dict[str, Any]:
    """Plain data of a curve; its rank errors are tensors, which are stored apart."""
    return {
        "layer": curve.layer,
        "sub_layer": curve.sub_layer,
        "total": curve.total,
        "width": curve.width,
        "dropped": curve.dropped,
        "options": [
            {"units": format_channels(one.groups[0]), "error": one.error, "shapes": one.shapes}
            for one in curve.candidates
        ],
        "grouped": [
            {
                "units": [format_channels(group) for group in one.groups],
                "error": one.error,
                "structures": {role: structure.to_dict() for role, structure in one.structures.items()},
            }
            for one in curve.grouped
        ],
    }


def _curve_from_dict(number: int, data: dict[str, Any], tensors: dict[str, Tensor]) -> SubLayerCurve:
    """The curve that :func:`_curve_to_dict` wrote."""
    candidates = tuple(
        Candidate(
            (parse_channels(one["units"]),),
            one["error"],
            {role: (shape[0], shape[1]) for role, shape in one["shapes"].items()},
            {role: tensors[_rank_error_name(number, index, role)] for role in one["shapes"]},
        )
        for index, one in enumerate(data["options"])
    )
    grouped = tuple(
        Candidate(
            tuple(parse_channels(group) for group in one["units"]),
            one["error"],
            {},
            {},
            {role: _grouped(structure) for role, structure in one["structures"].items()},
        )
        for one in data["grouped"]
    )
    return SubLayerCurve(
        data["layer"], data["sub_layer"], data["total"], data["width"], data["dropped"], candidates, grouped
    )


def _grouped(data: dict[str, Any]) -> Grouped:
    structure = structure_from_dict(data)
    if not isinstance(structure, Grouped):
        raise ValueError(f"{structure.kind} is not grouped")
    return structure


@torch.no_grad()
def fingerprint(model: PreTrainedModel) -> str:
    """Returns a hash of all weights, as hexadecimal text."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@gradients_enabled()
def calibrate(
    model: PreTrainedModel,
    config: CalibrationConfig,
    data: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    device: Device | None = None,
) -> Calibration:
    """Measures what every part of a dense model contributes, for any number of budgets.

    Args:
        model: A dense fine-tuned model of a supported architecture; left as it is.
        config: The options; an :class:`bertsurgeon.AutoConfig` serves as well, its budget is not used.
        data: Calibration data, see :func:`bertsurgeon.prune`; labels are not needed.
        tokenizer: Tokenizes texts, and pads the batches of a dataset.
        device: Where everything is computed; None for the device of ``model`` if that is no CPU, else for the
            accelerator of the machine, if it has one.

    Raises:
        ModelError: If the model is not supported, already pruned, or has broken weights.
        DataError: If the calibration data is empty or not tokenized.
        OptionError: If the options ask for labels and the data has none, or ``config`` is something else.

    Example:
        >>> from bertsurgeon import AutoConfig, CalibrationConfig, Sparsity, calibrate, prune
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> calibration = calibrate(model, CalibrationConfig(), tokenize(texts, tokenizer), tokenizer)
        >>> [f"{prune(model, AutoConfig(Sparsity(s)), calibration).report.sparsity:.1f}" for s in (0.5, 0.7)]
        ['0.5', '0.7']
    """
    check_config(config, CalibrationConfig, "calibrate")
    model = without_inference_tensors(model)
    check_dense(model)
    batches = make_batches(data, tokenizer, config.samples, config.batch_size, config.seed, model=model)
    if config.use_labels and not all(map(has_labels, batches)):
        raise OptionError("Gradients from labels need labeled data, and these texts have no labels: omit use_labels.")
    if not config.use_labels:
        batches = [{name: value for name, value in batch.items() if name not in LABELS} for batch in batches]
    timings = Timings()
    weights_hash = fingerprint(model)
    model = unfuse(without_fused_operations(model))
    with evaluating(model), running_on(device, model):
        with timings.step("statistics"):
            statistics = collect_statistics(
                model,
                batches,
                gradients=False,
                curvature=config.metric == "fisher",
                moments=True,
                token_weighting=config.token_weighting,
                temperature=config.fisher_temperature,
                seed=config.seed,
                bf16=runs_in_bf16(config.calibration_precision, model.device),
            )
        with timings.step("curves"):
            chunk = config.group_chunk if "groups" in config.structures else None
            curves = measure_curves(model, statistics, config.damping, chunk)
    settings = {name: getattr(config, name) for name in SETTINGS} | {"groups": "groups" in config.structures}
    return Calibration(
        weights_hash, batches, statistics.curvature, statistics.token_weights, curves, settings, timings.seconds
    )
