"""How good the answers are, through the whole gateway: a real Mosquitto, the gatewayd process, a cloud process.

    python -m benchmarks.quality [--data DIR] [--only series,text,summaries] [--out benchmarks/results]

DIR (or $GATEWAYD_DATA) holds the recordings, in it or in its folders "sensors" and "text": SKAB's valve1 files and
loghub's BGL, Linux and OpenSSH; see docs/guides/quality.md for where they come from. Progress goes to standard error,
the tables to standard output, and to `quality.json` and `quality.md` in --out (`quality-text.json` for a part alone).

Exit status: 0; 1 when a message is missing, a book does not balance, an answer is not what the handler gives when
called directly, or a summary is not valid; 2 when there are no recordings or no models.
"""

import argparse
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from benchmarks import quality_lines, quality_readings, quality_summaries
from benchmarks.quality_report import markdown
from benchmarks.quality_rig import Plan, run_plan, say
from gatewayd.cli.models import cache_dir, fetch_with_progress
from gatewayd.errors import ModelError
from gatewayd.models.recipes import GEMMA, MINILM

PARTS = ("series", "text", "summaries")
FOLDERS = {"series": "sensors", "text": "text", "summaries": "text"}
FILES = {
    "series": tuple(f"skab_valve1_{number}.csv" for number in range(8)),
    "text": ("BGL_2k.log",),
    "summaries": quality_summaries.LOGS,
}
BUNDLES = {"series": (), "text": (MINILM.name,), "summaries": (GEMMA.name,)}


class MissingError(Exception):
    """What the benchmark needs is not there; the message says what to do."""


def recordings(data: Path, part: str) -> Path:
    """The folder with the part's recordings. Raises MissingError."""
    for folder in (data / FOLDERS[part], data):
        if all((folder / name).exists() for name in FILES[part]):
            return folder
    raise MissingError(f"{part}: {data} has no {', '.join(FILES[part])}; docs/guides/quality.md says where they are")


def bundles(part: str, folder: Path) -> None:
    """Put the part's ready-made models into `folder`, fetched once for this user. Raises MissingError."""
    shelf = cache_dir() / "benchmark-models"
    shelf.mkdir(parents=True, exist_ok=True)
    try:
        for path in fetch_with_progress(BUNDLES[part], shelf) if BUNDLES[part] else []:
            (folder / path.name).symlink_to(path)
    except ModelError as exc:
        raise MissingError(f"{part}: {exc}") from exc


def run_part(part: str, data: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Run a part: (what goes into the results, what is printed). Raises MissingError."""
    folder = recordings(data, part)
    with tempfile.TemporaryDirectory(prefix="gatewayd-models-") as work:
        models = Path(work)
        bundles(part, models)
        plans: dict[str, Callable[[], Plan]] = {
            "series": lambda: quality_readings.prepare(folder, models),
            "text": lambda: quality_lines.prepare(folder, models, arguments.seeds),
            "summaries": lambda: quality_summaries.prepare(folder, arguments.hours),
        }
        plan = plans[part]()
        say(f"{part}: starting broker, cloud and gateway")
        outcome = run_plan(plan, models, part)
        findings = plan.judge(outcome.events)
    problems = [f"{part}: {problem}" for problem in [*outcome.problems, *findings.problems]]
    say(f"{part}: {outcome.published:,} messages in {outcome.seconds} s, {len(problems)} problems")
    result = {
        "figures": findings.figures,
        "published": outcome.published,
        "seconds": outcome.seconds,
        "sent_twice": outcome.sent_twice,
        "books": outcome.books,
        "problems": problems,
        "recordings": {name: _digest(folder / name) for name in FILES[part]},
    }
    return result, list(findings.shown)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(arguments: argparse.Namespace) -> int:
    """Run the parts asked for, print and write the tables; the exit status. Raises MissingError."""
    began = time.monotonic()
    parts: dict[str, Any] = {}
    shown: list[str] = []
    for part in arguments.only:
        parts[part], more = run_part(part, arguments.data, arguments)
        shown += more
    results: dict[str, Any] = {
        "what": "quality",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.machine()},
        "seconds": round(time.monotonic() - began),
        "problems": [problem for part in parts.values() for problem in part["problems"]],
        "parts": parts,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "quality" if set(parts) == set(PARTS) else f"quality-{'-'.join(parts)}"
    (arguments.out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / f"{name}.md").write_text(markdown(results))
    print(markdown(results))
    print("\n\n".join(shown))
    for problem in results["problems"]:
        say(f"PROBLEM {problem}")
    return 1 if results["problems"] else 0


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    return names


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("GATEWAYD_DATA"), help="folder of the recordings")
    parser.add_argument("--only", type=_parts, default=list(PARTS), help="parts to run, with commas between")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("--seeds", type=int, default=10, help="splits of BGL that heads are fitted and judged on")
    parser.add_argument(
        "--hours", type=int, default=150, help="hours of the Linux log that are summarized (it has 148)"
    )
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if arguments.data is None:
        parser.error("give --data DIR or set GATEWAYD_DATA: the folder of the recordings")
    try:
        sys.exit(run(arguments))
    except MissingError as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
