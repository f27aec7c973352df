"""The order of the search and its choice, on a stub that makes candidates with scripted losses."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bertsurgeon.compression import Bound, CompressConfig, Quality
from bertsurgeon.compression import search as module
from bertsurgeon.compression.candidate import Candidate, Spec
from bertsurgeon.compression.report import describe_verdict
from bertsurgeon.compression.search import SHARES, Search
from bertsurgeon.recovery import TrainingConfig


class Maker:
    """Makes candidates of which the loss, the limit and the time follow from the share that remains."""

    def __init__(self, loss, recovered=None, int8_loss=0.1, margin=0.1, seconds=10.0, **options):
        self.config = CompressConfig(runtime="onnx", **options)
        self.runtime = "onnx"
        self.bound = Bound("max_drop", 1.0, 0.95, "accuracy")
        self.loss, self.recovered, self.int8_loss = loss, recovered, int8_loss
        self.margin, self.seconds = margin, seconds
        self.step_seconds = {}
        self.asked = []

    def make(self, spec, *, confidence=None, training=None):
        self.asked.append((spec, confidence))
        if spec.share is None:
            loss = 0.0 if spec.precision == "fp32" else self.int8_loss
        else:
            loss = (self.recovered if spec.recovered else self.loss)(spec.share)
        limit = loss + self.margin
        verdict = "holds" if limit <= 1 else "not shown" if loss <= 1 else "fails"
        time = (spec.share or 1.0) * (0.5 if spec.precision == "int8" else 1.0)
        entry = {"encoder_weights": 10_000_000, "relative_time": time, "seconds": self.seconds, "error": None}
        entry["file_bytes"] = 1e6 * time
        return Candidate(spec, repr(spec), Path(), entry, 99.0, Quality(loss, limit, verdict, 1000, None, "scripted"))


@pytest.fixture(autouse=True)
def short_recovery(monkeypatch):
    monkeypatch.setattr(module, "plan_recovery", lambda maker, seconds: TrainingConfig() if seconds > 0 else None)


def specs(result):
    return [candidate.spec for candidate in result.candidates]


def test_from_mild_to_severe_until_the_first_that_fails_then_between():
    maker = Maker(lambda share: 0.2 if share >= 0.35 else 3.0, recover=False)
    result = Search(maker).run()
    tried = specs(result)
    assert tried[:5] == [Spec("fp32"), Spec("int8"), *(Spec("int8", share) for share in SHARES[:3])]
    between = tried[5:]
    assert between
    assert all(SHARES[2] < spec.share < SHARES[1] for spec in between)
    assert len({spec.share for spec in between}) == len(between)
    assert result.chosen.spec.share == min(spec.share for spec in tried if spec.share and spec.share >= 0.35)
    # those in order at the full error rate, those between at half of it
    confidences = dict(maker.asked)
    assert confidences[Spec("int8", SHARES[2])] == pytest.approx(0.95)
    assert {round(confidences[spec], 6) for spec in between} == {0.975}


def test_int8_alone_wins_where_pruning_adds_nothing():
    result = Search(Maker(lambda share: 5.0, recover=False)).run()
    assert result.chosen.spec == Spec("int8")
    assert len(result.candidates) <= 8


def test_the_verdict_judges_pruning_only_where_it_was_tried():
    for loss, count, expected in ((5.0, 9, "Pruning adds nothing within this bound."), (0.1, 2, "2 models were tried")):
        maker = Maker(lambda share, loss=loss: loss, recover=False, max_candidates=count)
        maker.inputs = SimpleNamespace(task=None)
        result = Search(maker).run()
        rows = {
            one.name: one.entry | {"name": one.name, "speedup": 2.0, "speedup_int8": 1.0} for one in result.candidates
        }
        sentence = describe_verdict(maker, result, None, rows)["sentence"]
        assert expected in sentence
        assert ("No pruned model was measured" in sentence) == (count == 2)


def test_floating_point_where_int8_exceeds_the_bound():
    maker = Maker(lambda share: 0.1, int8_loss=14.0, recover=False)
    result = Search(maker).run()
    assert result.chosen.spec == Spec("fp32", SHARES[-1])
    assert not [spec for spec in specs(result) if spec.precision == "int8" and spec.share]
    assert result.best_shown is result.chosen  # another precision is another sequence, at half the error rate
    assert {round(confidence, 6) for spec, confidence in maker.asked if spec.share} == {0.975}


def test_the_precision_that_is_named_is_the_one_that_is_pruned():
    result = Search(Maker(lambda share: 0.1, precision="fp32", recover=False)).run()
    assert {spec.precision for spec in specs(result)} == {"fp32"}
    forced = Search(Maker(lambda share: 0.1, int8_loss=14.0, precision="int8", recover=False)).run()
    assert forced.chosen.spec.precision == "int8"


def test_recovery_begins_where_pruning_alone_fails():
    maker = Maker(lambda share: 0.2 if share >= 0.5 else 3.0, recovered=lambda share: 0.5 if share >= 0.25 else 4.0)
    tried = specs(Search(maker).run())
    assert tried[2:5] == [
        Spec("int8", SHARES[0]),
        Spec("int8", SHARES[1]),
        Spec("int8", SHARES[1], recovered=True),
    ]
    # a smaller share fails without a recovery, too: it is not tried
    assert Spec("int8", SHARES[2]) not in tried
    assert Spec("int8", SHARES[2], recovered=True) in tried
    assert {round(confidence, 6) for spec, confidence in maker.asked if spec.recovered} == {0.975}


def test_at_most_as_many_models_as_named():
    for count in (2, 3, 5):
        result = Search(Maker(lambda share: 0.1, max_candidates=count)).run()
        assert len(result.candidates) == count
        assert "models were tried" in result.stopped


def test_the_time_ends_the_search():
    result = Search(Maker(lambda share: 0.1, seconds=100.0, minutes=6.0)).run()
    # 600 s would be needed for six models; the last that begins is expected to end in time
    assert len(result.candidates) == 3
    assert "time" in result.stopped


def test_a_bound_is_shown_only_if_it_is_for_all_milder_models():
    """A milder model that is not shown to hold breaks the sequence: later ones are within the bound, but not shown."""
    loss = {SHARES[0]: 0.95, SHARES[1]: 0.2}
    result = Search(Maker(lambda share: loss.get(share, 9.0), recover=False)).run()
    verdicts = {candidate.spec.share: candidate.quality.verdict for candidate in result.candidates}
    assert verdicts[SHARES[0]] == "not shown"
    assert verdicts[SHARES[1]] == "not shown"
    assert result.chosen.spec.share == SHARES[1]
    assert result.best_shown.spec == Spec("int8")


def test_only_shown_models_are_chosen_if_asked():
    result = Search(Maker(lambda share: 0.95, accept="shown", recover=False)).run()
    assert result.chosen.spec == Spec("int8")


def test_a_pruned_model_must_be_worth_it():
    maker = Maker(lambda share: 0.1 if share == SHARES[0] else 9.0, recover=False, max_candidates=3)
    maker.make = _with_time(maker.make, Spec("int8", SHARES[0]), 0.49)  # 2 % faster than dense INT8
    assert Search(maker).run().chosen.spec == Spec("int8")


def test_the_smallest_file_where_size_is_the_objective():
    maker = Maker(lambda share: 0.1, objective="size", recover=False)
    maker.make = _with_time(maker.make, Spec("int8", SHARES[3]), 2.0)
    assert Search(maker).run().chosen.spec == Spec("int8", SHARES[3])


def test_what_is_confirmed_next_costs_more_by_the_objective_and_is_accepted():
    maker = Maker(lambda share: 0.95 if share == SHARES[3] else 0.1, objective="size", recover=False)
    maker.make = _with_time(maker.make, Spec("int8", SHARES[3]), 2.0)  # the smallest is the slowest
    result = Search(maker).run()
    assert [each.spec.share for each in result.next_best[:2]] == [SHARES[2], SHARES[1]]
    shown = Search(Maker(lambda share: 0.95 if share == SHARES[0] else 0.1, accept="shown", recover=False)).run()
    assert all(each.quality.verdict == "holds" for each in shown.next_best)


def test_no_two_candidates_have_one_name():
    """Shares that differ a little may remove the same weights; reports name candidates by what is removed."""
    maker = Maker(lambda share: 0.1, recover=False)
    make = maker.make
    maker.make = lambda spec, **options: replace(make(spec, **options), name="auto 70 % int8")
    names = [each.name for each in Search(maker).run().candidates]
    assert len(set(names)) == len(names)


def test_the_smallest_precision_is_pruned_where_size_is_the_objective():
    """INT8 may be slower than fp32 where the processor has no instructions for it; its file is smaller all the same."""
    maker = Maker(lambda share: 0.1, objective="size", recover=False)
    maker.make = _with_time(maker.make, Spec("int8"), 1.2)
    assert {each.precision for each in specs(Search(maker).run()) if each.share} == {"int8"}


def test_a_failed_export_is_no_candidate():
    maker = Maker(lambda share: 0.1, recover=False)
    make = maker.make

    def failing(spec, **options):
        candidate = make(spec, **options)
        if spec.precision != "int8":
            return candidate
        entry = {**candidate.entry, "error": "no", "relative_time": None}
        return Candidate(spec, candidate.name, candidate.folder, entry, None, None)

    maker.make = failing
    result = Search(maker).run()
    assert result.chosen.spec.precision == "fp32"


def _with_time(make, spec, time):
    def changed(asked, **options):
        candidate = make(asked, **options)
        if asked == spec:
            candidate.entry["relative_time"] = time
        return candidate

    return changed
