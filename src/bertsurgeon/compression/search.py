"""The order in which candidates are tried, and the choice among them.

The dense model is exported first, then its other precision, then pruned models along one calibration, from mild to
severe, until the first that exceeds the bound. As each is tested only if all milder ones passed, no correction for the
number of candidates is needed (fixed-sequence testing: Maurer, Hothorn and Lehmacher, 1995). What is tried outside of
this order, to narrow what it has bracketed, after a recovery or in another precision, is tested at half the error rate
each. The loss rises with the share that is removed, so that few of these tests can err; their sum is not bounded by the
error rate, and ``experiments/coverage.py`` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from bertsurgeon import progress
from bertsurgeon.compression.bounds import Quality
from bertsurgeon.compression.candidate import Candidate, Spec
from bertsurgeon.compression.candidates import CandidateMaker
from bertsurgeon.compression.config import MINUTES, MINUTES_WEIGHTS, PRECISIONS
from bertsurgeon.compression.recovery_plan import plan_recovery
from bertsurgeon.errors import OptionError
from bertsurgeon.recovery import TrainingConfig
from bertsurgeon.runtime import Precision

SHARES = (0.6, 0.4, 0.28, 0.2)
"""Shares of the dense encoder's cost that pruned candidates have, from mild to severe."""

NARROWED = 1.2
"""Ratio of two shares, one within the bound and one not, below which nothing is tried between them."""

WORTHWHILE = 1.03
"""Speedup over dense in the same precision below which a pruned model is not worth its loss."""


@dataclass
class SearchResult:
    """Outcome of a search.

    Attributes:
        candidates: All candidates, in the order in which they were tried.
        chosen: The best one within the bound.
        best_shown: The best one that is shown to hold the bound; None if there is none.
        stopped: Why the search ended, in words.
        next_best: The others within the bound that gain less than the chosen one, the best of them first.
    """

    candidates: list[Candidate]
    chosen: Candidate
    best_shown: Candidate | None
    stopped: str
    next_best: list[Candidate] = field(default_factory=list)


@dataclass
class Search:
    """One search.

    Attributes:
        maker: Makes and measures candidates.
        tried: Candidates so far.
        stopped: Why the search ended.
    """

    maker: CandidateMaker
    tried: list[Candidate] = field(default_factory=list)
    stopped: str = "every planned model was tried"
    _in_order: bool = True
    _restarted: bool = False
    _one_shot_fails: float = 0.0  # largest share at which pruning alone exceeds the bound

    def run(self) -> SearchResult:
        """Tries candidates until none is left, or the time is over."""
        config = self.maker.config
        precisions = [p for p in PRECISIONS[self.maker.runtime] if config.precision in ("auto", p)]
        self._try(Spec("fp32"))
        progress.note(
            f"The search goes on for at most about {self.limit_seconds / 60:.0f} minutes (--time); if it is stopped, "
            "the same command continues it."
        )
        base: Precision = "fp32"
        # the cheapest precision first; others only if it exceeds the bound
        for precision in reversed(precisions):
            if precision == "fp32" or len(self.tried) >= config.max_candidates:
                continue
            candidate = self._try(Spec(precision))
            if self.accepts(candidate) and self._cost(candidate) < self._cost(self.tried[0]):
                base = precision
                break
            self._restart()
        if config.precision != "auto":
            base = config.precision
        self._search_shares(base)
        return self._choose()

    # the order

    def _search_shares(self, precision: Precision) -> None:
        """Tries pruned models of a precision: from mild to severe, then between the last good and the first bad."""
        good, bad = 1.0, None
        for share in SHARES:
            candidate = self._try_share(precision, share, ordered=True)
            if candidate is None:
                return
            if not self.accepts(candidate):
                bad = share
                break
            good = share
        while bad is not None and good / bad > NARROWED:
            share = round(math.sqrt(good * bad), 3)
            candidate = self._try_share(precision, share, ordered=False)
            if candidate is None:
                return
            if self.accepts(candidate):
                good = share
            else:
                bad = share

    def _try_share(self, precision: Precision, share: float, *, ordered: bool) -> Candidate | None:
        """Tries a share by pruning alone, and recovers it if that exceeds the bound; None if nothing more fits."""
        candidate: Candidate | None = None
        if share > self._one_shot_fails:
            if not self._fits(self._pruning_seconds()):
                return None
            try:
                candidate = self._try(Spec(precision, share), ordered=ordered)
            except OptionError:
                self.stopped = "a smaller share leaves nothing of the encoder"
                return None
            if self.accepts(candidate):
                return candidate
            self._one_shot_fails = share
        if not self.maker.config.recover or (candidate is not None and candidate.quality is None):
            return candidate
        training = self._recovery()
        if training is None:
            return candidate
        return self._try(Spec(precision, share, recovered=True), ordered=False, training=training)

    def _recovery(self) -> TrainingConfig | None:
        """Returns the options of a recovery that fits into the rest of the time; None if none does."""
        if len(self.tried) >= self.maker.config.max_candidates:
            self.stopped = f"{len(self.tried)} models were tried (--max-candidates)"
            return None
        training = plan_recovery(self.maker, self.seconds_left - self._pruning_seconds())
        if training is None:
            self.stopped = f"no time is left for a recovery ({self.limit_seconds / 60:.0f} minutes, --time)"
        return training

    def _try(self, spec: Spec, *, ordered: bool = True, training: TrainingConfig | None = None) -> Candidate:
        """Makes and measures a candidate, and reports it in one line."""
        bound = self.maker.bound
        halved = not ordered or self._restarted
        confidence = 1 - (1 - bound.confidence) / 2 if halved else bound.confidence
        candidate = self.maker.make(spec, confidence=confidence, training=training)
        if any(one.name == candidate.name for one in self.tried):  # reports tell candidates apart by their names
            candidate = replace(candidate, name=f"{candidate.name}, share {spec.share}")
        if ordered and candidate.quality is not None:
            candidate, self._in_order = in_sequence(candidate, self._in_order)
        self.tried.append(candidate)
        progress.note(describe(candidate, self.maker.bound.metric))
        return candidate

    def _restart(self) -> None:
        """Begins another sequence in another precision, after one that failed at its first candidate."""
        self._in_order, self._restarted = True, True

    # time

    @property
    def limit_seconds(self) -> float:
        """Time of the whole search."""
        minutes = self.maker.config.minutes
        if minutes is None:
            weights = self.tried[0].entry["encoder_weights"] if self.tried else MINUTES_WEIGHTS
            minutes = MINUTES * max(1.0, weights / MINUTES_WEIGHTS)
        return 60 * minutes

    @property
    def seconds_left(self) -> float:
        """What is left of the time; the steps of an earlier, killed run count as if this one had made them."""
        spent = sum(candidate.seconds for candidate in self.tried) + sum(self.maker.step_seconds.values())
        return self.limit_seconds - spent

    def _pruning_seconds(self) -> float:
        """Expected time of another pruned model: that of the slowest so far, before the first that of the dense one."""
        times = [candidate.seconds for candidate in self.tried if not candidate.spec.recovered]
        return max(times, default=0.0)

    def _fits(self, seconds: float) -> bool:
        if len(self.tried) >= self.maker.config.max_candidates:
            self.stopped = f"{len(self.tried)} models were tried (--max-candidates)"
            return False
        if seconds > self.seconds_left:
            self.stopped = f"the time is over ({self.limit_seconds / 60:.0f} minutes, --time)"
            return False
        return True

    # the choice

    def accepts(self, candidate: Candidate) -> bool:
        """Returns whether a candidate is within the bound, measured or shown as the options say."""
        accepted = ("holds",) if self.maker.config.accept == "shown" else ("holds", "not shown")
        return candidate.quality is not None and candidate.quality.verdict in accepted

    def _choose(self) -> SearchResult:
        accepted = [candidate for candidate in self.tried if self.accepts(candidate)]
        shown = [one for one in accepted if one.quality is not None and one.quality.verdict == "holds"]
        chosen = self._best(accepted) or self.tried[0]
        worse = [one for one in accepted if self._cost(one) > self._cost(chosen)]
        return SearchResult(self.tried, chosen, self._best(shown), self.stopped, sorted(worse, key=self._cost))

    def _best(self, candidates: list[Candidate]) -> Candidate | None:
        """Returns the fastest, or smallest, of some candidates; a pruned one only if that is worth it."""
        if not candidates:
            return None
        dense = [candidate for candidate in candidates if candidate.is_dense]
        best_dense = min(dense, key=self._cost, default=None)
        best = min(candidates, key=self._cost)
        if best_dense is not None and self._cost(best_dense) < WORTHWHILE * self._cost(best):
            return best_dense
        return best

    def _cost(self, candidate: Candidate) -> float:
        if self.maker.config.objective == "size":
            return float(candidate.entry["file_bytes"])
        return candidate.relative_time


def in_sequence(candidate: Candidate, unbroken: bool) -> tuple[Candidate, bool]:
    """Applies the rule of the fixed sequence: a bound is shown only if it is for all milder candidates, too.

    Args:
        candidate: The next candidate of the order, with a quality.
        unbroken: True if all before it are shown to hold.

    Returns:
        The candidate, whose verdict may change from "holds" to "not shown"; and whether the sequence is unbroken.
    """
    quality = candidate.quality
    assert quality is not None
    if quality.verdict == "holds" and not unbroken:
        changed: Quality = replace(quality, verdict="not shown", texts_needed=None)
        return replace(candidate, quality=changed), False
    return candidate, unbroken and quality.verdict == "holds"


def describe(candidate: Candidate, metric: str) -> str:
    """Returns one line on a candidate."""
    if candidate.quality is None:
        return f"{candidate.name}: cannot be exported ({candidate.entry['error']})"
    quality = candidate.quality
    points = round(abs(quality.loss), 2)
    change = f"{'loses' if quality.loss > 0 else 'gains'} {points:.2f} points" if points else "loses no points"
    speed = 1 / candidate.relative_time
    verdict = f"limit {quality.limit:.2f}; {quality.verdict}"
    return f"{candidate.name}: {speed:.2f}x as fast as dense, {change} of {metric} ({verdict})."
