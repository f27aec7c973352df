"""Is anything lost, half-written or different when a command is killed? SIGKILL at random moments of every command.

    python drills/kills.py

A killed run must leave the old output, the new one, or none if there was none; the same command again, or with
``--resume``, must end with the same bits as a run that was not killed, and leave nothing else behind. Kills that are
done are not repeated, so the drill can be continued. Where a kill comes is measured in CPU time, which a busy machine
does not change. In every second round the output replaces an old one.
"""

import random
import sys
from pathlib import Path
from typing import Any

import bench

ROUND = 5
"""Kills per row of the results."""

KILLS = {"finetune": 45, "prune": 45, "recover": 45, "gradual": 45, "calibrate": 30, "export": 15, "compress": 5}
"""Planned kills; an export takes several times as long as training the toy, and compress starts other processes."""


class Reference:
    """What runs that are not killed write: the expected output, and an old one of another seed."""

    def __init__(self, folder: Path, command: str) -> None:
        self.old = bench.make_old_output(folder, command)
        bench.clear(folder, None)
        self.seconds = bench.complete(folder, bench.arguments_of(command)).cpu_seconds
        self.new = bench.stable(folder / "place" / "out")


def kill(folder: Path, command: str, reference: Reference, fraction: float, replaces: bool) -> dict[str, Any]:
    """Kills a command after a fraction of its CPU time, and runs it again.

    Returns:
        Whether it was ``killed`` before its end; what was at the output (``old``, ``new``, ``none`` or ``half``);
        whether the run after it ended with the ``same`` bits; the ``leftovers`` after that.
    """
    out = folder / "place" / "out"
    bench.clear(folder, reference.old if replaces else None)
    options = ["--overwrite"] if replaces else []
    first = bench.run(folder, bench.arguments_of(command, *options), kill_after=fraction * reference.seconds)
    found = bench.exact(out)
    if found is None:
        state = "none"
    elif replaces and found == bench.exact(reference.old):
        state = "old"
    else:
        try:
            state = "new" if bench.stable(out) == reference.new else "half"
        except ValueError:
            state = "half"
    if state == "none" and replaces:
        state = "lost"
    if state != "new" or first.code != 0:
        again = ["--overwrite"] if replaces or state == "new" else []
        resume = ["--resume"] if command in bench.RESUMABLE else []
        second = bench.run(folder, bench.arguments_of(command, *again, *resume))
        text, code = second.text, second.code
    else:
        text, code = first.text, first.code
    same = bench.stable(out) == reference.new
    result = {
        "fraction": round(fraction, 3),
        "killed": first.code == -9,
        "state": state,
        "same": same,
        "leftovers": bench.leftovers(folder, command),
        "traceback": "Traceback" in first.text + text,
    }
    if code != 0 or not same:
        result["text"] = text[-600:]
    return result


def summarize(kills: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts what a round of kills found."""
    return {
        "kills": sum(one["killed"] for one in kills),
        "runs": len(kills),
        "lost": sum(one["state"] == "lost" for one in kills),
        "half": sum(one["state"] == "half" for one in kills),
        "different": sum(not one["same"] for one in kills),
        "leftovers": sum(bool(one["leftovers"]) for one in kills),
        "tracebacks": sum(one["traceback"] for one in kills),
        "states": {name: sum(one["state"] == name for one in kills) for name in ("old", "new", "none")},
        "faults": [one for one in kills if is_fault(one)],
    }


def is_fault(one: dict[str, Any]) -> bool:
    """Returns whether a kill broke a promise."""
    return one["state"] in ("lost", "half") or not one["same"] or bool(one["leftovers"]) or one["traceback"]


def main() -> None:
    parser = bench.make_parser(__doc__)
    parser.set_defaults(commands=",".join(KILLS))
    parser.add_argument("--share", type=float, default=1.0, help="share of the planned kills")
    arguments = parser.parse_args()
    bench.warm_up()
    store = bench.open_store("kills", arguments)
    folder = arguments.folder.resolve()
    bench.prepare(folder)
    faults, references = 0, dict[str, Reference]()
    for number in range(max(KILLS.values()) // ROUND):
        for command in arguments.commands.split(","):
            if number * ROUND >= KILLS[command] * arguments.share:
                continue
            draw = random.Random(f"{arguments.seed} {command} {number}")
            configuration = {"command": command, "round": number, "replaces_an_old_output": number % 2 == 1}

            def measure(command: str = command, number: int = number, draw: random.Random = draw) -> dict[str, Any]:
                if command not in references:
                    references[command] = Reference(folder, command)
                moments = [draw.uniform(0.02, 0.97) for _ in range(ROUND)]
                kills = [kill(folder, command, references[command], one, number % 2 == 1) for one in moments]
                return summarize(kills)

            result = store.run(f"{command}-{number:02d}", measure, configuration)
            faults += len(result["faults"])
    if faults:
        sys.exit(f"{faults} kills broke a promise; see {store.path.relative_to(bench.ROOT)}.")


if __name__ == "__main__":
    main()
