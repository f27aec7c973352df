"""The page of a report of ``compress``: the verdict first, then what it rests on."""

from collections.abc import Mapping
from typing import Any

from bertsurgeon.reporting import figures
from bertsurgeon.reporting import formats as fmt
from bertsurgeon.reporting.answers import answer_blocks
from bertsurgeon.reporting.blocks import (
    Block,
    Cell,
    Code,
    Facts,
    Figure,
    Page,
    Paragraph,
    Section,
    Table,
    facts,
    figure,
)
from bertsurgeon.reporting.formats import DASH
from bertsurgeon.reporting.structure import plan_blocks, predicted_block
from bertsurgeon.reporting.verdict import (
    STATUS,
    bound_sentence,
    capitalized,
    changes_of,
    chosen_of,
    dense_of,
    int8_of,
    int8_sentence,
    latency_of,
    median_latency,
    quality_name,
    quality_of,
)
from bertsurgeon.runtime import RUNTIME_NAMES

Report = Mapping[str, Any]


def make_compress_page(report: Report) -> Page:
    """Returns the page of a checked report of ``compress``."""
    status, tone = STATUS[report["verdict"]["status"]]
    model = report.get("model") or {}
    return Page(
        kicker="Compression report",
        title=model.get("name") or "Compressed model",
        subtitle=_subtitle(report),
        status=status,
        tone=tone,
        sentence=report["verdict"]["sentence"],
        changes=changes_of(report),
        notes=[note for note in (bound_sentence(report), int8_sentence(report), _confirmation(report)) if note],
        sections=[
            Section("quality", "Quality", [*_quality(report), *answer_blocks(report)]),
            Section("candidates", "Candidates", _candidates(report)),
            Section("speed", "Speed", _speed(report)),
            Section(
                "structure", "What each sub-layer kept", [*plan_blocks(report.get("plan")), predicted_block(report)]
            ),
            Section("size", "Files and memory", _sizes(report)),
            Section("invariance", "Invariance", _invariance(report)),
            Section("provenance", "Provenance", _provenance(report)),
        ],
    )


def _subtitle(report: Report) -> str:
    target, task, environment = (report.get(key) or {} for key in ("target", "task", "environment"))
    parts = [task.get("name") and f"Task {task['name']}", RUNTIME_NAMES.get(target.get("runtime", ""), "")]
    if target.get("batch_size"):
        length = "own texts" if target.get("lengths") == "own texts" else f"{target.get('length')} tokens"
        parts.append(f"batches of {target['batch_size']}, {length}")
    parts.append(environment.get("processor"))
    return " · ".join(part for part in parts if part)


def _confirmation(report: Report) -> str:
    confirmation = report.get("confirmation")
    if not confirmation:
        return ""
    outcome = {"holds": "the bound holds", "not shown": "the bound is not shown", "fails": "the bound fails"}
    texts, loss, limit = (confirmation[key] for key in ("texts", "loss", "limit"))
    return (
        f"On {fmt.integer(texts)} texts that the search did not use, {outcome[confirmation['verdict']]}: "
        f"loss {fmt.points(loss)}, limit {fmt.points(limit)}."
    )


def _quality(report: Report) -> list[Block | None]:
    measured = [one for one in report["candidates"] if one.get("quality")]
    rows = [{"name": one["name"], **one["quality"]} for one in measured]
    bound = report["bound"]
    table = Table(
        ("Candidate", capitalized(quality_name(report)), "Loss", "Limit", "Verdict", "Texts", "Needed", "Agreement"),
        [
            (
                one["name"],
                fmt.percent(quality_of(report, one), 2),
                fmt.number(one["quality"]["loss"]),
                fmt.number(one["quality"]["limit"]),
                Cell(one["quality"]["verdict"], STATUS[one["quality"]["verdict"]][1]),
                fmt.integer(one["quality"].get("texts")),
                fmt.integer(one["quality"].get("texts_needed")),
                fmt.percent(one.get("agreement")),
            )
            for one in measured
        ],
        "Loss against the dense model in points; texts used, and texts needed to show the bound",
        numbers=frozenset({1, 2, 3, 5, 6, 7}),
        bold=frozenset(position for position, one in enumerate(measured) if one["name"] == report["chosen"]),
    )
    methods = list(dict.fromkeys(row["method"] for row in rows if row.get("method")))
    caption = (
        f"Loss of {quality_name(report)} and its one-sided limit; the dashed line is the bound, {bound['value']:g}."
    )
    if methods:
        caption += f" Limits at {100 * bound['confidence']:g} % confidence: {fmt.listed(methods)}."
    return [figure(figures.draw_limits(rows, bound["value"], caption), caption, table)]


def _candidates(report: Report) -> list[Block | None]:
    candidates, dense = report["candidates"], dense_of(report)
    name = quality_name(report)
    reference = quality_of(report, dense)
    roles = {dense["name"]: "dense", (int8_of(report) or {}).get("name"): "dense int8", report["chosen"]: "chosen"}
    points = [
        {
            "number": number,
            "name": one["name"],
            "speed": one.get("speedup"),
            "quality": quality_of(report, one),
            "role": roles.get(one["name"], ""),
        }
        for number, one in enumerate(candidates, start=1)
        if not one.get("error")
    ]
    table = Table(
        (
            "Candidate",
            capitalized(name),
            "p50",
            "Speed vs. dense",
            "vs. INT8",
            "File",
            "Encoder weights",
            "Removed",
            "Recovered",
            "Took",
        ),
        [
            (
                f"{number}. {one['name']}",
                Cell("failed", "bad") if one.get("error") else fmt.percent(quality_of(report, one), 2),
                fmt.milliseconds(median_latency(one)),
                fmt.times(one.get("speedup")),
                fmt.times(one.get("speedup_int8")),
                fmt.size(one.get("file_bytes")),
                fmt.scaled(one.get("encoder_weights")),
                fmt.share(one.get("removed")),
                "yes" if one.get("recovered") else "",
                fmt.seconds(one.get("seconds")),
            )
            for number, one in enumerate(candidates, start=1)
        ],
        "All candidates, in the order in which they were tried",
        bold=frozenset(position for position, one in enumerate(candidates) if one["name"] == report["chosen"]),
    )  # fmt: skip
    caption = (
        f"{capitalized(name)} against speed relative to the dense model. The line is the frontier, the numbers are "
        "those of the table."
    )
    threshold = None if reference is None else reference - report["bound"]["value"]
    drawing = figures.draw_frontier(points, threshold, f"{name}, %", "speed relative to dense, ×", caption)
    failed = [
        Paragraph(f"{one['name']} failed: {one['error']}", "bad") for one in candidates if one.get("error")
    ]  # fmt: skip
    shown = None if drawing is None else Figure(drawing, caption, None)
    return [shown, _chosen_facts(report), table, *failed]


def _chosen_facts(report: Report) -> Facts | None:
    chosen = chosen_of(report)
    recovered = {True: "yes", False: "no"}.get(chosen.get("recovered"), DASH)  # type: ignore[arg-type]
    items = [
        ("Name", chosen.get("name") or DASH),
        ("Precision", chosen.get("precision") or DASH),
        ("Encoder weights removed", fmt.share(chosen.get("removed"))),
        ("Encoder weights", fmt.scaled(chosen.get("encoder_weights"))),
        ("All parameters", fmt.scaled(chosen.get("parameters"))),
        ("Recovered by training", recovered),
        ("Speed against dense", fmt.times(chosen.get("speedup"))),
        ("Speed against dense INT8", fmt.times(chosen.get("speedup_int8"))),
        ("Throughput", f"{fmt.significant(latency_of(chosen).get('throughput'))} texts/s"),
    ]
    items = [(name, value) for name, value in items if not value.startswith(DASH)]
    return Facts(items, "Chosen model", is_half=True) if items else None


def _speed(report: Report) -> list[Block | None]:
    rows = report.get("speed") or []
    table = Table(
        ("Model", "Texts", "Tokens", "p50", "p95", "p99", "Texts/s"),
        [
            (
                row["model"],
                fmt.integer(row["batch_size"]),
                fmt.integer(row["length"]),
                fmt.milliseconds(row.get("p50_ms")),
                fmt.milliseconds(row.get("p95_ms")),
                fmt.milliseconds(row.get("p99_ms")),
                fmt.significant(row.get("throughput")),
            )
            for row in rows
        ],
        "Latency of a batch, and throughput",
    )
    environment = report.get("environment") or {}
    sets = ", ".join(environment.get("instruction_sets") or ())
    machine = [
        ("Processor", environment.get("processor") or ""),
        ("Cores", fmt.integer(environment.get("cores"))),
        ("Threads", fmt.integer(environment.get("threads"))),
        ("Instruction sets", sets),
        ("Runtime", RUNTIME_NAMES.get((report.get("target") or {}).get("runtime", ""), "")),
    ]
    caption = "Latency by batch and length: median, and the range to the 99th percentile."
    drawing = figures.draw_latencies(rows, caption)
    items = [(key, value) for key, value in machine if value not in ("", DASH)]
    return [figure(drawing, caption, table), Facts(items, "Measured on", is_half=True) if rows and items else None]


def _sizes(report: Report) -> list[Block | None]:
    files, memory = report.get("files") or [], report.get("memory") or []
    total = sum(file.get("bytes") or 0 for file in files)
    rows = [(file["name"], fmt.size(file.get("bytes"))) for file in files]
    first = next((row.get("bytes") for row in memory), None)
    memory_rows = [
        (
            row["model"],
            fmt.size(row["bytes"]),
            fmt.percent(100 * row["bytes"] / first, 0) if row["bytes"] and first else "",
        )
        for row in memory
    ]
    columns, title = ("Model", "Peak memory", "Of the first"), "Peak memory that a process adds"
    last = frozenset({len(rows)})
    rows.append(("all", fmt.size(total)))
    return [
        Table(columns, memory_rows, title, is_half=True) if memory else None,
        Table(("File", "Size"), rows, "Files in the folder", bold=last, is_half=True) if files else None,
    ]


def _invariance(report: Report) -> list[Block | None]:
    values = report.get("invariance") or {}
    names = {
        "alone_vs_batch": "Alone against in a padded batch",
        "exported_vs_pytorch": "Exported against PyTorch",
        "threads": "One thread against all",
    }
    rows = [
        (title, fmt.significant(values[key].get("largest_difference"), 2), fmt.integer(values[key].get("flips")))
        for key, title in names.items()
        if values.get(key)
    ]
    texts = values.get("texts")
    caption = "The same texts, computed in two ways" + (f" ({fmt.integer(texts)} texts)" if texts else "")
    return [Table(("Comparison", "Largest difference", "Answers that flip"), rows, caption)] if rows else []


def _provenance(report: Report) -> list[Block | None]:
    model, data, environment, provenance = (
        report.get(key) or {} for key in ("model", "data", "environment", "provenance")
    )
    counts = {key: fmt.integer(data.get(key)) for key in ("calibration", "training", "search", "confirmation")}
    minutes = report.get("minutes")
    items = [
        ("Model", model.get("name")),
        ("Architecture", model.get("architecture")),
        ("Fingerprint of the model", model.get("fingerprint")),
        ("License of the model", model.get("license")),
        ("Texts", ", ".join(f"{key} {value}" for key, value in counts.items() if value != DASH)),
        ("Objective", report.get("objective")),
        ("Seed", None if provenance.get("seed") is None else str(provenance["seed"])),
        ("Duration", None if minutes is None else f"{fmt.number(minutes, 1)} minutes"),
        ("The search ended because", report.get("stopped")),
    ]
    versions = dict(environment.get("versions") or {})
    if provenance.get("bertsurgeon"):
        versions = {"bertsurgeon": provenance["bertsurgeon"], **versions}
    files = data.get("files") or []
    return [
        Code(provenance["command"], "Command") if provenance.get("command") else None,
        Facts([(key, value) for key, value in items if value], "Inputs", is_half=True),
        Facts([(key, str(value)) for key, value in versions.items() if value], "Versions", is_half=True)
        if versions
        else None,
        Table(
            ("Data file", "Size", "SHA-256"),
            [(file["name"], fmt.size(file.get("bytes")), file.get("sha256") or "") for file in files],
            "Data files",
            numbers=frozenset({1}),
        )
        if files
        else None,
        facts(report.get("seconds"), "Seconds of each step", folded=True),
        facts(provenance.get("config"), "Options", folded=True),
    ]
