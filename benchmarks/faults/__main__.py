"""The proof that nothing is lost: all cases of faults, one JSON line a part, and a table at the end.

python -m benchmarks.faults [--long] [--only 1,2] [--seed 1] [--without-alternatives] [--at-once 3]

Exit status 0 only when every case holds. Each line is also appended to benchmarks/results/faults.jsonl, and the table
of the last whole run is in benchmarks/results/faults.md.

Cases 1, 3 and 8 are also measured for what a user would otherwise have; those lines fail nothing.
Left out, with a line on stderr that says so, where it is missing: persist-queue and atheris (`pip install persist-queue
atheris`), a C compiler (for power cuts of whole processes), libfaketime (`apt install faketime`).
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.faults import (
    broker,
    clocks,
    compared,
    forgetful,
    fuzz,
    kills,
    links,
    offline,
    points,
    soak,
    spool_damage,
    spool_full,
    spool_images,
    spool_io,
    storm,
)
from benchmarks.faults.bench import Case, Part, Run, say
from benchmarks.faults.runner import play_all
from benchmarks.faults.table import markdown, table
from tests.sim.mosquitto import find_mosquitto
from tests.sim.oracle import Line


def _power_cuts(run: Run) -> list[Part]:
    return spool_images.parts(run) + forgetful.parts(run)


def _from_the_bus(run: Run) -> list[Part]:
    return broker.parts(run) + fuzz.parts(run)


CASES: Mapping[int, tuple[str, Case]] = {
    1: ("kill -9 at random moments", kills.parts),
    2: ("kill -9 at every named point", points.parts),
    3: ("power cuts", _power_cuts),
    4: ("the n-th call to the disk fails", spool_io.parts),
    5: ("a full disk, a read-only one, a cap", spool_full.parts),
    6: ("links that break, stand still and lie", links.parts),
    7: ("a cloud that misbehaves", storm.parts),
    8: ("a long time offline, then the drain", offline.parts),
    9: ("duplicates, a flood, poison and nonsense", _from_the_bus),
    10: ("a wrong clock", clocks.parts),
    11: ("damaged databases", spool_damage.parts),
    12: ("a mixed soak", soak.parts),
}
ALTERNATIVES: Mapping[int, Case] = {1: compared.kill_parts, 3: forgetful.compared_parts, 8: compared.offline_parts}
_RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """Run the cases asked for."""
    args = _arguments()
    if find_mosquitto() is None:
        print("mosquitto is not installed: apt install mosquitto", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what plays is cleared away
    run = Run(args.seed, args.long)
    numbers = args.only or list(CASES)
    parts = _parts(run, numbers, with_alternatives=not args.without_alternatives)
    say(f"{len(parts)} parts of {len(numbers)} cases, {args.at_once} at once")
    done: list[tuple[int, Line]] = []
    with tempfile.TemporaryDirectory(prefix="gatewayd-faults-") as folder:
        for number, line in play_all(parts, Path(folder), args.at_once):
            _record(line, run, args.results)
            done.append((number, line))
    done.sort(key=lambda entry: (entry[0], entry[1].test))
    return _report(done, numbers, run, args.results, is_whole=not args.only)


def _parts(run: Run, numbers: Sequence[int], *, with_alternatives: bool) -> list[tuple[int, Part]]:
    parts = [(number, part) for number in numbers for part in CASES[number][1](run)]
    if with_alternatives:
        parts += [(number, part) for number in numbers if number in ALTERNATIVES for part in ALTERNATIVES[number](run)]
    return parts


def _record(line: Line, run: Run, results: Path) -> None:
    line.more["at"] = round(time.time())
    line.more["form"] = "long" if run.is_long else "quick"
    print(line.as_json(), flush=True)
    with (results / "faults.jsonl").open("a") as file:
        file.write(line.as_json() + "\n")
    say(f"{line.test}, {line.subject}: {'holds' if line.holds else 'DOES NOT HOLD'}, {line.more['seconds']} s")
    for problem in line.problems:
        say(f"    {problem}")


def _report(
    done: Sequence[tuple[int, Line]], numbers: Sequence[int], run: Run, results: Path, *, is_whole: bool
) -> int:
    lines = [line for _, line in done]
    seconds = {number: sum(line.more["seconds"] for of, line in done if of == number) for number in numbers}
    print(table(lines))
    for number in numbers:
        say(f"case {number}: {seconds[number]:.0f} s ({CASES[number][0]})")
    if is_whole:
        form = "long" if run.is_long else "quick"
        page = markdown(lines, {number: name for number, (name, _) in CASES.items()}, seconds, form)
        (results / "faults.md").write_text(page)
    bad = [line for line in lines if not line.holds]
    missing = [number for number in numbers if not any(of == number and not line.is_compared for of, line in done)]
    for number in missing:
        say(f"case {number} was left out: it proves nothing")
    say(f"{len(lines)} lines, {len(bad)} do not hold")
    return 1 if bad or missing else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the long form: hours, not minutes")
    parser.add_argument("--only", type=_numbers, help="cases to run, e.g. 1,2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-alternatives", action="store_true", help="gatewayd alone")
    parser.add_argument("--at-once", type=int, default=3, help="parts that play at once; most only wait")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of faults.jsonl and faults.md")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if unknown := set(numbers) - set(CASES):
        raise argparse.ArgumentTypeError(f"there is no case {min(unknown)}, there are {', '.join(map(str, CASES))}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
