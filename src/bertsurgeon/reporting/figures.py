"""The figures of a report; each takes plain rows, and returns an SVG element, or None if there is nothing to draw."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from bertsurgeon.reporting.drawing import (
    ACCENT,
    BAD,
    GOOD,
    LINE,
    MUTED,
    SECOND,
    TEXT,
    WARN,
    canvas,
    label_points,
    legend_above,
    to_svg,
)
from bertsurgeon.reporting.formats import integer, is_number, shorten

Row = Mapping[str, Any]

_VERDICTS = {"holds": (GOOD, "o"), "not shown": (WARN, "D"), "fails": (BAD, "X")}
"""Color and marker of each verdict; the marker is for those who do not see the color."""

_MODELS = {"dense": (MUTED, "s"), "dense int8": (SECOND, "D"), "chosen": (ACCENT, "o")}

_ROW = 0.235
"""Height of a row of a figure, in inches."""


def draw_limits(candidates: Sequence[Row], bound: float, label: str) -> str | None:
    """Draws the measured loss of each candidate and its one-sided limit against the bound.

    Args:
        candidates: Rows with ``name``, ``loss``, ``limit`` and ``verdict``.
        bound: The largest loss that is accepted, in points.
        label: Alternative text.
    """
    rows = [row for row in candidates if is_number(row["loss"])]
    if not rows:
        return None
    with canvas(0.85 + _ROW * len(rows)) as (figure, axes):
        used = set()
        for position, row in enumerate(reversed(rows)):
            color, marker = _VERDICTS[row["verdict"]]
            limit = row["limit"] if is_number(row["limit"]) else row["loss"]
            axes.plot([row["loss"], limit], [position] * 2, color=color, linewidth=1.6, solid_capstyle="butt")
            axes.plot([limit] * 2, [position - 0.2, position + 0.2], color=color, linewidth=1.6)
            axes.plot(row["loss"], position, marker, color=color, markersize=6, linestyle="none")
            used.add(row["verdict"])
        axes.axvline(bound, color=TEXT, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(
            f"bound {bound:g}", (bound, len(rows) - 0.45), (4, 0), textcoords="offset points", fontsize=9.2, va="center"
        )
        axes.set_yticks(range(len(rows)), [shorten(row["name"], 28) for row in reversed(rows)])
        axes.tick_params(axis="y", labelcolor=TEXT)
        axes.set_ylim(-0.6, len(rows) - 0.1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("loss in points: measured (marker) to its limit (bar)")
        axes.margins(x=0.08)
        for verdict in (verdict for verdict in _VERDICTS if verdict in used):
            color, marker = _VERDICTS[verdict]
            axes.plot([], [], marker, color=color, markersize=6, label=verdict, linestyle="none")
        legend_above(axes)
        return to_svg(figure, "limits", label)


def draw_frontier(points: Sequence[Row], threshold: float | None, quality: str, speed: str, label: str) -> str | None:
    """Draws quality against speed, with the frontier.

    Args:
        points: Rows with ``speed``, ``quality``, ``role`` (``dense``, ``dense int8``, ``chosen`` or empty), ``name``
            and ``number``.
        threshold: The lowest quality that is accepted.
        quality: Label of the vertical axis.
        speed: Label of the horizontal axis.
        label: Alternative text.
    """
    points = [point for point in points if is_number(point["speed"]) and is_number(point["quality"])]
    if not points:
        return None
    with canvas(3.3) as (figure, axes):
        frontier = _frontier(points)
        axes.step(
            [point["speed"] for point in frontier],
            [point["quality"] for point in frontier],
            where="pre",
            color=ACCENT,
            linewidth=1.2,
            alpha=0.6,
        )
        # points far below the bound would squeeze all others, so they are drawn at the edge, with their value
        qualities = [point["quality"] for point in points]
        top, base = max(qualities), threshold if threshold is not None else min(qualities)
        floor = max(min(qualities), base - 2.0 * max(top - base, 0.25))
        if threshold is not None and floor - threshold <= 3 * max(top - floor, 0.25):
            floor = min(floor, threshold)
        labels = []
        for point in sorted(points, key=lambda one: list(_MODELS).index(one["role"]) if one["role"] in _MODELS else 9):
            color, marker = _MODELS.get(point["role"], (MUTED, "o"))
            is_plain, is_low = point["role"] not in _MODELS, point["quality"] < floor
            y = max(point["quality"], floor)
            axes.plot(
                point["speed"], y, "v" if is_low else marker, color=color, linestyle="none",
                markersize=8.5 if point["role"] == "chosen" else 6.5, markerfacecolor="none" if is_plain else color,
            )  # fmt: skip
            text = str(point["number"]) if is_plain else shorten(point["name"], 26)
            text += f" ({point['quality']:.1f})" if is_low else ""
            weight = "bold" if point["role"] == "chosen" else "normal"
            labels.append((point["speed"], y, text, {"color": color, "fontsize": 9.8, "fontweight": weight}))
        axes.set_xlabel(speed)
        axes.set_ylabel(quality)
        axes.margins(x=0.1)
        lowest = floor - 0.12 * max(top - floor, 0.1)
        axes.set_ylim(lowest, top + 0.16 * max(top - floor, 0.1))
        if threshold is not None and threshold >= lowest:  # a bound far below all models has no place in the figure
            axes.axhline(threshold, color=TEXT, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                "bound", (1, threshold), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", fontsize=9.2,
            )  # fmt: skip
        label_points(figure, axes, labels)
        return to_svg(figure, "frontier", label)


def _frontier(points: Sequence[Row]) -> list[Row]:
    """Returns the points that no other one beats in both speed and quality, the slowest first."""
    best: list[Row] = []
    for point in sorted(points, key=lambda one: (-one["speed"], -one["quality"])):
        if not best or point["quality"] > best[-1]["quality"]:
            best.append(point)
    return best[::-1]


def draw_confusion(labels: Sequence[str], counts: Sequence[Sequence[int]], label: str) -> str:
    """Draws how often the dense model's answers (rows) became the chosen model's (columns).

    Args:
        labels: Names of the classes.
        counts: Texts, dense answers by chosen answers.
        label: Alternative text.
    """
    from matplotlib.patches import Rectangle

    size = len(labels)
    changed = max((counts[i][j] for i in range(size) for j in range(size) if i != j), default=0)
    with canvas(min(4.6, 0.95 + 0.33 * max(size, 3))) as (figure, axes):
        for i in range(size):
            for j in range(size):
                count = counts[i][j]
                color = MUTED if i == j else BAD
                opacity = 0.16 if i == j else 0.12 + 0.43 * count / max(changed, 1)
                if count:
                    axes.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, facecolor=color, alpha=opacity, lw=0))
                text = integer(count) if count else "·"
                axes.text(j, i, text, ha="center", va="center", fontsize=9.2, color=TEXT if count else MUTED)
        names = [shorten(name, 20) for name in labels]
        axes.set_xticks(range(size), [shorten(name, 14) for name in labels], rotation=0 if size < 5 else 38, ha=(
            "center" if size < 5 else "left"), rotation_mode="anchor")  # fmt: skip
        axes.set_yticks(range(size), names)
        axes.tick_params(labelcolor=TEXT, labelsize=9.2)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), ylabel="dense model's answer")
        axes.set_xlabel("chosen model's answer", labelpad=7)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return to_svg(figure, "confusion", label)


def draw_scatter(dense: Sequence[Any], chosen: Sequence[Any], label: str) -> str | None:
    """Draws the chosen model's numbers against the dense model's; a thousand pairs at most, evenly picked."""
    pairs = [(a, b) for a, b in zip(dense, chosen, strict=False) if is_number(a) and is_number(b)]
    pairs = pairs[:: max(1, -(-len(pairs) // 1000))]
    if not pairs:
        return None
    values = [value for pair in pairs for value in pair]
    limits = [min(values), max(values)]
    with canvas(3.6) as (figure, axes):
        axes.plot(limits, limits, color=TEXT, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot([a for a, _ in pairs], [b for _, b in pairs], "o", color=ACCENT, alpha=0.4, markersize=3.2, mew=0)
        axes.set(xlabel="dense model", ylabel="chosen model")
        axes.set_aspect("equal", "box")
        return to_svg(figure, "scatter", label)


def draw_latencies(rows: Sequence[Row], label: str) -> str | None:
    """Draws median latency, and the range up to the 99th percentile, by batch and length.

    Args:
        rows: Rows with ``model``, ``batch_size``, ``length``, ``p50_ms`` and ``p99_ms``.
        label: Alternative text.
    """
    rows = [row for row in rows if is_number(row.get("p50_ms")) and row["p50_ms"] > 0]
    shapes = sorted({(row["length"], row["batch_size"]) for row in rows})
    if not rows:
        return None
    models = list(dict.fromkeys(row["model"] for row in rows))
    with canvas(0.9 + (0.13 + 0.16 * len(models)) * len(shapes)) as (figure, axes):
        for index, model in enumerate(models):
            color, marker = _MODELS.get(model, (TEXT, "o"))
            offset = 0.24 * (index - (len(models) - 1) / 2)
            members = [row for row in rows if row["model"] == model]
            heights = [shapes.index((row["length"], row["batch_size"])) + offset for row in members]
            for row, height in zip(members, heights, strict=True):
                slow = row["p99_ms"] if is_number(row.get("p99_ms")) else row["p50_ms"]
                axes.plot([row["p50_ms"], slow], [height] * 2, color=color, linewidth=1.4)
            medians = [row["p50_ms"] for row in members]
            axes.plot(medians, heights, marker, color=color, markersize=5.5, linestyle="none", label=model)
        axes.set_xscale("log")
        low, high = min(row["p50_ms"] for row in rows), max(row.get("p99_ms") or row["p50_ms"] for row in rows)
        steps = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
        ticks = [step for step in steps if low / 1.8 <= step <= high * 1.4]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_yticks(range(len(shapes)), [f"{batch} × {length}" for length, batch in shapes])
        axes.tick_params(axis="y", labelcolor=TEXT)
        axes.set(
            ylim=(len(shapes) - 0.45, -0.55), xlabel="latency in ms, log scale: median (marker) to 99th percentile"
        )
        axes.set_ylabel("texts × tokens")
        axes.grid(axis="y", visible=False)
        legend_above(axes)
        return to_svg(figure, "latencies", label)


def draw_kept(plan: Sequence[Row], label: str) -> str | None:
    """Draws the share that each sub-layer keeps, with its heads and neurons.

    Args:
        plan: Rows of a plan, see ``docs/report.md``.
        label: Alternative text.
    """
    if not plan:
        return None
    with canvas(0.8 + 0.27 * len(plan), 2, sharey=True) as (figure, axes):
        panels = (("attention", "heads", "attention"), ("feed_forward", "neurons", "feed-forward network"))
        for panel, (sub_layer, units, title) in zip(axes, panels, strict=True):
            for position, row in enumerate(plan):
                counts = row.get(units)
                share = (row.get("kept") or {}).get(sub_layer)
                by_units = counts[0] / counts[1] if counts and counts[1] else 1.0
                kept = float(share) if share is not None else by_units
                panel.barh(position, 1, 0.66, color=LINE, alpha=0.55, linewidth=0)
                panel.barh(position, kept, 0.66, color=ACCENT, alpha=0.85, linewidth=0)
                text = f"{counts[0]} of {counts[1]}" if counts else f"{100 * kept:.0f} %"
                panel.text(1.03, position, text, va="center", fontsize=9.2, color=TEXT if counts else MUTED)
            panel.set_title(f"{title}: {units}", fontsize=9.2, color=TEXT, loc="left")
            panel.set(xlim=(0, 1.5), ylim=(len(plan) - 0.4, -0.6), xlabel="weights kept")
            panel.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
            panel.set_yticks(range(len(plan)), [str(row["layer"]) for row in plan])
            panel.grid(visible=False)
            for side in ("left", "bottom"):
                panel.spines[side].set_visible(False)
        axes[0].set_ylabel("layer")
        return to_svg(figure, "kept", label)


def draw_matrices(plan: Sequence[Row], label: str) -> str | None:
    """Draws the structure of every matrix: its rank, its groups, dense or removed.

    Args:
        plan: Rows of a plan with ``matrices``.
        label: Alternative text.
    """
    from matplotlib.patches import Rectangle

    rows = [row for row in plan if row.get("matrices")]
    roles = list(dict.fromkeys(role for row in rows for role in row["matrices"]))
    if not rows or {text for row in rows for text in row["matrices"].values()} <= {"dense"}:
        return None
    with canvas(0.75 + 0.25 * len(rows)) as (figure, axes):
        for y, row in enumerate(rows):
            for x, role in enumerate(roles):
                text = row["matrices"].get(role, "")
                is_reduced = text not in ("dense", "–", "")
                if text not in ("–", ""):
                    color, opacity = (ACCENT, 0.32) if is_reduced else (LINE, 0.55)
                    axes.add_patch(Rectangle((x - 0.48, y - 0.42), 0.96, 0.84, facecolor=color, alpha=opacity, lw=0))
                color = TEXT if is_reduced else MUTED
                axes.text(x, y, shorten(text, 12), ha="center", va="center", fontsize=8.8, color=color)
        axes.set_xticks(range(len(roles)), [role.replace("_", "\n") for role in roles])
        axes.set_yticks(range(len(rows)), [str(row["layer"]) for row in rows])
        axes.xaxis.tick_top()
        axes.set(xlim=(-0.5, len(roles) - 0.5), ylim=(len(rows) - 0.5, -0.5), ylabel="layer")
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return to_svg(figure, "matrices", label)


def draw_predicted(rows: Sequence[Row], label: str) -> str | None:
    """Draws the measured loss against the error that the search predicted.

    Args:
        rows: Rows with ``removed``, ``predicted_error`` and ``loss``.
        label: Alternative text.
    """
    rows = [row for row in rows if is_number(row["predicted_error"]) and is_number(row["loss"])]
    rows = sorted(rows, key=lambda row: row["predicted_error"])
    if not rows:
        return None
    with canvas(2.9) as (figure, axes):
        for first, second in pairwise(rows):
            axes.plot(
                [first["predicted_error"], second["predicted_error"]],
                [first["loss"], second["loss"]],
                color=ACCENT,
                linewidth=1,
                alpha=0.5,
            )
        labels = []
        for row in rows:
            axes.plot(row["predicted_error"], row["loss"], "o", color=ACCENT, markersize=6)
            text = f"{100 * row['removed']:.0f} %" if is_number(row["removed"]) else ""
            labels.append((row["predicted_error"], row["loss"], text, {"fontsize": 9.2}))
        axes.set(xlabel="predicted error (objective of the search)", ylabel="measured loss in points")
        axes.margins(0.14)
        label_points(figure, axes, labels)
        return to_svg(figure, "predicted", label)
