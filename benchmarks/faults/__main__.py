"""The fault tests with whole processes: one JSON line a case, and a table at the end.

python -m benchmarks.faults [--long] [--only 1,2] [--seed 1] [--without-alternatives]

Exit status 0 only when every case holds. The lines are also appended to benchmarks/results/faults.jsonl.

Cases 1 and 8 are also measured for what a user would otherwise have; their lines are for comparison, and fail nothing.
Left out, with a line that says so, where it is missing: persist-queue (`pip install persist-queue`), and for case 10
libfaketime (`apt install faketime`).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.faults import clocks, compared, kills, links, offline, points, storm
from benchmarks.faults.bench import Case, Run, table
from tests.sim.mosquitto import find_mosquitto
from tests.sim.oracle import Line

CASES: Mapping[int, tuple[str, Case]] = {
    1: ("kill -9 at random moments", kills.run),
    2: ("kill -9 at every named point", points.run),
    6: ("links that break, stand still and lie", links.run),
    7: ("a cloud that misbehaves", storm.run),
    8: ("a long time offline, then the drain", offline.run),
    10: ("a wrong clock", clocks.run),
}
ALTERNATIVES: Mapping[int, Case] = {1: compared.run_kills, 8: compared.run_offline}
_RESULTS = Path(__file__).parents[1] / "results" / "faults.jsonl"


def main() -> int:
    """Run the cases asked for."""
    args = _arguments()
    if find_mosquitto() is None:
        print("mosquitto is not installed: apt install mosquitto", file=sys.stderr)
        return 2
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="gatewayd-faults-") as folder:
        for number in args.only or CASES:
            run = Run(Path(folder) / str(number), args.seed, args.long)
            name, case = CASES[number]
            run.say(f"case {number}: {name}")
            lines += _play(case, run)
            if number in ALTERNATIVES and not args.without_alternatives:
                lines += _play(ALTERNATIVES[number], replace(run, folder=run.folder / "compared"))
    print(table(lines))
    return 0 if lines and all(line.holds for line in lines) else 1


def _play(case: Case, run: Run) -> list[Line]:
    """Run one case; its lines go out as they come."""
    lines = []
    _RESULTS.parent.mkdir(exist_ok=True)
    for line in case(run):
        lines.append(line)
        line.more["at"] = round(time.time())
        line.more["form"] = "long" if run.is_long else "quick"
        print(line.as_json(), flush=True)
        with _RESULTS.open("a") as file:
            file.write(line.as_json() + "\n")
        for problem in line.problems:
            run.say(f"{line.subject}: {problem}")
    return lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the long form: hours, not minutes")
    parser.add_argument("--only", type=_numbers, help="cases to run, e.g. 1,2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-alternatives", action="store_true", help="gatewayd alone")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if unknown := set(numbers) - set(CASES):
        raise argparse.ArgumentTypeError(f"there is no case {min(unknown)}, there are {', '.join(map(str, CASES))}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
