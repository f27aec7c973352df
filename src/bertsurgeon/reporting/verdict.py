"""The verdict of a report of ``compress`` in words and numbers, for its page and its model card."""

from collections.abc import Mapping
from typing import Any

from bertsurgeon.reporting import formats as fmt
from bertsurgeon.reporting.blocks import Change
from bertsurgeon.reporting.formats import DASH

Report = Mapping[str, Any]

STATUS = {"holds": ("Bound holds", "good"), "not shown": ("Not shown", "warn"), "fails": ("Bound fails", "bad")}
"""Words and tone of each verdict."""


def chosen_of(report: Report) -> Mapping[str, Any]:
    """Returns the chosen candidate; an empty mapping if none was chosen."""
    return next((one for one in report["candidates"] if one["name"] == report["chosen"]), {})


def dense_of(report: Report) -> Mapping[str, Any]:
    """Returns the dense model in the reference precision, which is the first candidate."""
    first: Mapping[str, Any] = report["candidates"][0]
    return first


def int8_of(report: Report) -> Mapping[str, Any] | None:
    """Returns the dense INT8 model, if it was measured."""
    measured = (one for one in report["candidates"][1:] if not one.get("error"))
    return next((one for one in measured if one["kind"] == "dense" and one["precision"] == "int8"), None)


def quality_of(report: Report, candidate: Mapping[str, Any]) -> float | None:
    """Returns the metric of the bound for a candidate, or its agreement with dense; in percent."""
    bound = report["bound"]
    if bound["kind"] == "max_drop" and bound.get("metric"):
        value = (candidate.get("metrics") or {}).get(bound["metric"])
    else:
        value = candidate.get("agreement")
        if value is None and candidate is dense_of(report) and not candidate.get("error"):
            value = 100.0
    return value if fmt.is_number(value) else None


def quality_name(report: Report) -> str:
    """Returns the name of what :func:`quality_of` returns."""
    bound = report["bound"]
    return fmt.metric_name(bound["metric"] if bound["kind"] == "max_drop" and bound.get("metric") else "agreement")


def bound_sentence(report: Report) -> str:
    """Returns what was required."""
    bound = report["bound"]
    confidence = f"at {100 * bound['confidence']:g} % confidence"
    if bound["kind"] == "max_drop":
        points = "point" if bound["value"] == 1 else "points"
        return f"Bound: at most {bound['value']:g} {points} of {quality_name(report)} lost, {confidence}."
    return f"Bound: at least {100 - bound['value']:g} % of the dense model's answers kept, {confidence}."


def int8_sentence(report: Report) -> str:
    """Returns what pruning adds to INT8 alone; empty if dense INT8 was not measured."""
    chosen, int8 = chosen_of(report), int8_of(report)
    if int8 is None or not chosen:
        return ""
    if chosen is int8 and all(one["kind"] == "dense" or one.get("error") for one in report["candidates"]):
        return "No pruned model was measured; the dense INT8 model is the result."
    if chosen is int8:
        return "Pruning adds nothing to INT8 alone here: the dense INT8 model is the result."
    if chosen["kind"] == "dense":
        return ""
    gains = []
    if fmt.is_number(chosen.get("speedup_int8")):
        gains.append(f"{fmt.times(chosen['speedup_int8'])} the speed")
    shrink = fmt.ratio(chosen.get("file_bytes"), int8.get("file_bytes"))
    if shrink:
        gains.append(f"{fmt.percent(100 * shrink, 0)} of the size")
    return f"Compared with INT8 alone, pruning gives {fmt.listed(gains)}." if gains else ""


def changes_of(report: Report) -> list[Change]:
    """Returns size, FLOPs, latency and quality of the dense and the chosen model."""
    dense, chosen = dense_of(report), chosen_of(report)
    if not chosen:
        return []
    tone = STATUS[report["verdict"]["status"]][1]
    rows = [
        ("File size", fmt.size, dense.get("file_bytes"), chosen.get("file_bytes"), "smaller"),
        ("FLOPs", fmt.scaled, dense.get("flops"), chosen.get("flops"), "fewer"),
        ("Median latency", fmt.milliseconds, median_latency(dense), median_latency(chosen), "faster"),
    ]
    changes = []
    for name, form, before, after, word in rows:
        factor = fmt.ratio(before, after)
        changes.append(Change(name, form(before), form(after), f"{fmt.times(factor)} {word}" if factor else ""))
    before, after = quality_of(report, dense), quality_of(report, chosen)
    quality = chosen.get("quality") or {}
    note = f"{fmt.signed(after - before)} points" if before is not None and after is not None else ""
    if fmt.is_number(quality.get("limit")):
        note += f", loss at most {fmt.number(quality['limit'])}"
    changes.append(Change(capitalized(quality_name(report)), fmt.percent(before), fmt.percent(after), note, tone))
    return [change for change in changes if change.after != DASH]


def latency_of(candidate: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the latencies of a candidate, if they were measured."""
    return candidate.get("latency") or {}


def median_latency(candidate: Mapping[str, Any]) -> float | None:
    """Returns the median latency of a candidate in milliseconds, if it was measured."""
    return latency_of(candidate).get("p50_ms")


def capitalized(text: str) -> str:
    """Returns a text whose first letter is a capital."""
    return text[:1].upper() + text[1:]
