"""The methods from papers that the experiments compare with keep the properties that their papers state."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import Batch, make_batches
from bertsurgeon.tasks import model_inputs, tokenize
from bertsurgeon.testing import toy_classifier

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def toy() -> tuple[PreTrainedModel, list[Batch]]:
    """A classifier and labeled batches of different lengths."""
    model, tokenizer, texts = toy_classifier()
    return model, make_batches(tokenize(texts, tokenizer), tokenizer, 32, 8, 0, model=model)


def outputs(model: PreTrainedModel, batches: list[Batch]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**model_inputs(batch)).logits for batch in batches])


def test_removed_units_are_zeros_within_the_budget(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    model, batches = toy
    magnitude, kwon, k_prune = (import_module(f"peers.{name}") for name in ("magnitude", "kwon", "k_prune"))
    made = {
        "magnitude": magnitude.prune_by_magnitude(model, 0.5),
        "kwon": kwon.prune_by_fisher(model, 0.5, batches),
        "k-prune": k_prune.prune_by_knowledge(model, 0.5, batches, batches, 0.00025, 0),
    }
    units = import_module("peers.units")
    for name, (pruned, kept) in made.items():
        view = units.UnitView(Encoder(pruned))
        remaining = sum(
            int(view.sum_units(view.last_weight(key).abs().sum(0), key).count_nonzero()) * view.cost(key)
            for key in view.keys
        )
        assert remaining / view.total() == pytest.approx(kept), name
        assert 0.3 < kept <= 0.5, name


def test_gradients_of_units_are_derivatives(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    """The loss after a unit is scaled by 1 + e grows by e times its gradient, text by text."""
    model, batches = toy
    units = import_module("peers.units")
    copy, view = units.copy_encoder(model.double())
    model.float()
    batch, step = batches[0], 1e-5

    def losses() -> torch.Tensor:
        with torch.no_grad():
            return F.cross_entropy(copy(**model_inputs(batch)).logits, batch["labels"], reduction="none")

    gradients = next(units.unit_gradients(view, [batch], view.keys, 0))
    for key in view.keys:
        before = losses()
        factors = torch.ones(gradients[key].shape[1], dtype=torch.float64)
        factors[1] += step
        units.scale_units(view, key, factors)
        torch.testing.assert_close((losses() - before) / step, gradients[key][:, 1], rtol=1e-3, atol=1e-7)
        units.scale_units(view, key, 1 / factors)


def test_the_search_finds_the_least_loss() -> None:
    """Two sub-layers of two heads (64 weights each) and three neurons (16 each), against all possibilities."""
    kwon = import_module("peers.kwon")

    sub_layers = {"attention": (), "feed_forward": ()}
    keys = [(layer, name) for layer in range(2) for name in sub_layers]
    view = SimpleNamespace(
        encoder=SimpleNamespace(sub_layers=sub_layers),
        keys=keys,
        cost=lambda key: 64 if key[1] == "attention" else 16,
    )
    values = [[3.0, 0.5], [1.0, 0.2, 0.9], [0.1, 2.0], [0.3, 0.8, 0.7]]
    fisher = {key: torch.tensor(part).diag() for key, part in zip(keys, values, strict=True)}
    kept = kwon.search(view, fisher, 64 + 3 * 16 + 5)
    flat = torch.cat([kept[key] for key in keys])
    importance = torch.cat([fisher[key].diagonal() for key in keys])
    costs = torch.cat([torch.full((len(kept[key]),), view.cost(key)) for key in keys])
    masks = torch.tensor([[bool(number >> i & 1) for i in range(len(flat))] for number in range(2 ** len(flat))])
    possible = masks[(masks * costs).sum(1) <= 64 + 3 * 16 + 5]
    assert importance[flat].sum() == (possible * importance).sum(1).max()


def test_rearranging_exchanges_correlated_units() -> None:
    """Units 0 and 1 are each unimportant but point the same way: only one of them goes."""
    kwon = import_module("peers.kwon")
    block = torch.diag(torch.tensor([1.0, 1.0, 1.5, 9.0]))
    block[0, 1] = block[1, 0] = 0.99
    kept = kwon.rearrange(block, torch.tensor([False, False, True, True]))
    assert kept.tolist() in ([True, False, False, True], [False, True, False, True])
    removed = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    fisher = removed.T @ removed
    before = torch.arange(12) < 6
    after = kwon.rearrange(fisher, before)
    assert after.sum() == 6
    old, new = ((~mask).float() for mask in (before, after))
    assert new @ fisher @ new < old @ fisher @ old


def test_tuning_the_mask_lowers_the_error_of_every_sub_layer(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    model, batches = toy
    kwon, units = import_module("peers.kwon"), import_module("peers.units")
    _, view = units.copy_encoder(model)
    kept = {key: torch.arange(len(view.sum_units(view.last_weight(key)[0], key))) % 2 == 0 for key in view.keys}
    for key in view.keys:
        units.scale_units(view, key, kept[key])
    errors = kwon.tune(model, view, kept, batches)
    assert list(errors) == view.keys
    assert all(after < before for before, after in errors.values())
    copy, untouched = units.copy_encoder(model)
    everything = {key: torch.ones_like(kept[key]) for key in view.keys}
    kwon.tune(model, untouched, everything, batches)
    torch.testing.assert_close(outputs(copy, batches), outputs(model, batches))


def test_predictive_knowledge_is_the_divergence(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    """KL(dense || scaled) of a unit that is scaled by 1 - e is e² times its predictive knowledge."""
    model, batches = toy
    k_prune, units = import_module("peers.k_prune"), import_module("peers.units")
    unlabeled = [model_inputs(batch) for batch in batches]
    copy, view = units.copy_encoder(model)
    copy.double()
    draws = [k_prune.measure_knowledge(view, unlabeled, view.keys, 0.0, seed) for seed in range(24)]
    dense, step = outputs(copy, batches).log_softmax(-1), 0.02
    for key in view.keys:
        knowledge = torch.stack([draw[key] for draw in draws]).mean(0)
        unit = int(knowledge.argmax())
        factors = torch.ones(len(knowledge), dtype=torch.float64)
        factors[unit] -= step
        units.scale_units(view, key, factors)
        divergence = F.kl_div(outputs(copy, batches).log_softmax(-1), dense, log_target=True, reduction="batchmean")
        assert float(divergence) / step**2 == pytest.approx(float(knowledge[unit]), rel=0.25)
        units.scale_units(view, key, 1 / factors)


def test_refitting_without_removal_changes_nothing(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    model, batches = toy
    k_prune = import_module("peers.k_prune")
    pruned, kept = k_prune.prune_by_knowledge(model, 1.0, batches, batches, 1.0, 0)
    assert kept == 1.0
    torch.testing.assert_close(outputs(pruned, batches), outputs(model, batches), atol=1e-3, rtol=1e-3)


def test_a_data_aware_rank_loses_the_smallest_singular_values() -> None:
    drone = import_module("peers.drone")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 12, generator=generator, dtype=torch.float64) @ torch.diag(torch.logspace(0, -2, 12).double())
    weight = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    reduced = drone.reduce_rank(weight, 3, x.T @ x)
    assert torch.linalg.matrix_rank(reduced) == 3
    lost = torch.linalg.svdvals(weight @ x.T)[3:].square().sum()
    error = ((weight - reduced) @ x.T).square().sum()
    torch.testing.assert_close(error, lost)
    left, values, right = torch.linalg.svd(weight)
    truncated = (left[:, :3] * values[:3]) @ right[:3]
    assert error < ((weight - truncated) @ x.T).square().sum()


def test_representational_knowledge_is_a_mean_of_squares(toy: tuple[PreTrainedModel, list[Batch]]) -> None:
    """Of a unit's output over tokens, channels and the unit's width, so that the paper's weights have its scale."""
    model, batches = toy
    k_prune, units = import_module("peers.k_prune"), import_module("peers.units")
    unlabeled = [model_inputs(batch) for batch in batches]
    _, view = units.copy_encoder(model)
    key = view.keys[0]
    seen: list[torch.Tensor] = []
    for _ in units.unit_gradients(view, unlabeled, [key], 0, lambda _, x: seen.append(x.detach())):
        pass
    width, weight = view.width(key), view.last_weight(key)
    outputs = torch.cat(seen)[:, :width] @ weight[:, :width].T
    scores = [k_prune.measure_knowledge(view, unlabeled, [key], balance, 0)[key] for balance in (0.0, 1.0)]
    assert float((scores[1] - scores[0])[0]) == pytest.approx(float(outputs.square().mean()) / width, rel=1e-4)
