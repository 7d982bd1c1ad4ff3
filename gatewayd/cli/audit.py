"""`gatewayd audit verify|show|export`: the audit trail beside a running daemon, or a copy of it anywhere.

Nothing is written; what a daemon removes meanwhile is looked for again.
"""

import math
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.cascade.chain import Link, Walk, left_out
from gatewayd.cascade.chain_files import Finding, examine, lines, trail_files
from gatewayd.cascade.trail import FOLDER
from gatewayd.cli.output import print_json, print_table, quiet_logs
from gatewayd.config.environment import read_environment, resolve_paths
from gatewayd.config.load import load
from gatewayd.errors import GatewaydError, RejectedError
from gatewayd.events import event_time
from gatewayd.payloads.times import time_of

_TRIES = 5  # the daemon may remove its oldest file between the list and the look
_GAPS = ("started", "dropped", "torn", "aside", "aside_removed", "removed")


class Pick(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines are wanted."""

    route: str = ""
    since: float = -math.inf  # seconds since the epoch, inclusive
    until: float = math.inf  # exclusive

    def is_wanted(self, link: Link) -> bool:
        """Whether the line is; what the trail says of itself is of every route."""
        return self.since <= link.time < self.until and (not self.route or not link.route or link.route == self.route)


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """What the trail says is missing, or may be."""

    seq: int
    time: str
    what: str


def pick_of(route: str, since: str, until: str) -> Pick:
    """Of a command's options. Raises typer.BadParameter."""
    return Pick(route=route, since=_time(since, -math.inf), until=_time(until, math.inf))


def verify(config: Path, folder: Path | None, *, noted: str, as_json: bool) -> bool:
    """Print what was found. True when the chain holds (and the noted hash is in it)."""
    place = _place(config, folder)
    finding = _examined(place)
    if not finding.files and finding.head is None:
        typer.echo(f"There is no audit trail in {place}: it begins with the first route that has tiers.")
        return not noted
    problem = finding.problem
    if not problem and noted and not any(link.hash == noted for link, _ in _read(place)):
        problem = f"no line has the hash {noted}"
    gaps = _gaps(finding)
    if as_json:
        print_json({**_summary(finding), "problem": problem, "gaps": gaps})
        return not problem
    first, last = finding.first, finding.last
    if first is not None and last is not None:
        span = f"{event_time(first.time)} to {event_time(last.time)}"
        typer.echo(f"{finding.n_lines} lines in {len(finding.files)} files, {first.seq} to {last.seq}, {span}")
    for gap in gaps:
        typer.echo(f"line {gap.seq}, {gap.time}: {gap.what}")
    if finding.torn_bytes and not problem:
        typer.echo(f"the last line is not complete ({finding.torn_bytes} bytes): a daemon is writing, or was killed")
    typer.echo(f"DOES NOT VERIFY: {problem}" if problem else f"the chain holds; its last hash is {_hash(finding)}")
    return not problem


def show(config: Path, folder: Path | None, pick: Pick, *, limit: int, as_json: bool) -> None:
    """The last decisions as a table, or as they are."""
    chosen = (link for link, _ in _read(_place(config, folder)) if not link.event and pick.is_wanted(link))
    records: list[dict[str, Any]] = [msgspec.json.decode(link.record) for link in deque(chosen, limit)]
    if as_json:
        print_json(records)
        return
    if not records:
        typer.echo("No decisions.")
        return
    columns = ["line", "time", "route", "key", "tier", "label", "confidence", "cause", "next"]
    print_table("Decisions", columns, [_row(record) for record in records], whole=("key",))


def export(config: Path, folder: Path | None, pick: Pick) -> bool:
    """Lines to standard output. False (and no more lines) from the first one on that does not fit."""
    out = sys.stdout.buffer
    waiting: list[bytes] = []  # left out, unless a wanted line follows
    has_begun = False
    try:
        for link, line in _read(_place(config, folder)):
            if pick.is_wanted(link):
                out.writelines([*waiting, line])
                waiting, has_begun = [], True
            elif has_begun:
                waiting.append(left_out(line))
    except _BrokenChainError as error:
        typer.echo(f"the trail does not verify, nothing after this is exported: {error}", err=True)
        return False
    out.flush()
    return True


class _BrokenChainError(GatewaydError):
    hint = "`gatewayd audit verify` says more"


def _read(folder: Path) -> Iterator[tuple[Link, bytes]]:
    """The lines one by one, each checked. Raises _BrokenChainError at the first that does not fit."""
    quiet_logs()
    files = trail_files(folder)
    walk = Walk()
    for path in files:
        for number, line in enumerate(lines(path), start=1):
            if path == files[-1] and not line.endswith(b"\n"):
                return  # being written
            link = walk.step(line)
            if isinstance(link, str):
                raise _BrokenChainError(f"{path.name}, line {number}: {link}")
            yield link, line


def _examined(folder: Path) -> Finding:
    quiet_logs()
    for _ in range(_TRIES):
        try:
            return examine(folder)
        except FileNotFoundError:
            continue
    return examine(folder)


def _place(config: Path, folder: Path | None) -> Path:
    if folder is not None:
        return folder
    return resolve_paths(load(config), read_environment(), config).state_dir / FOLDER


def _time(text: str, otherwise: float) -> float:
    if not text:
        return otherwise
    try:
        return time_of(text)
    except RejectedError:
        raise typer.BadParameter(f"{text!r} is neither ISO 8601 nor a number of seconds") from None


def _gaps(finding: Finding) -> list[Gap]:
    gaps = []
    removed = [link for link in finding.events if link.event == "removed"]
    for link in finding.events:
        if link in removed[:-1]:  # the last one says it for all
            continue
        record: dict[str, Any] = msgspec.json.decode(link.record)
        if link.event in _GAPS and (what := _in_words(link.event, record)):
            gaps.append(Gap(seq=link.seq, time=event_time(link.time), what=what))
    return gaps


def _in_words(event: str, record: dict[str, Any]) -> str:
    match event:
        case "started" if not record.get("was_clean", True):
            return "the process before it was killed: its last decisions may be missing (a power cut: audit.flush_s)"
        case "dropped":
            return f"{record.get('n')} decisions are missing: they had no room in memory (audit.max_waiting)"
        case "torn":
            return f"{record.get('n_bytes')} bytes were cut off: half a line that a crash had left"
        case "aside":
            return f"begins anew: what was before did not verify, see {record.get('kept')} ({record.get('problem')})"
        case "aside_removed":
            return f"{record.get('kept')} was removed (audit.max_aside)"
        case "removed":
            return f"the lines up to {record.get('last_seq')} were removed with {record.get('file')} (audit.max_files)"
        case _:
            return ""


def _summary(finding: Finding) -> dict[str, Any]:
    first, last = finding.first, finding.last
    return {
        "files": [path.name for path in finding.files],
        "n_lines": finding.n_lines,
        "first": None if first is None else {"seq": first.seq, "time": first.time},
        "last": None if last is None else {"seq": last.seq, "time": last.time, "hash": last.hash},
        "torn_bytes": finding.torn_bytes,
    }


def _hash(finding: Finding) -> str:
    return finding.last.hash if finding.last is not None else ""


def _row(record: dict[str, Any]) -> list[object]:
    shown = (record.get(name, "") for name in ("route", "key", "tier", "label"))
    confidence = record.get("confidence")
    number = round(confidence, 4) if isinstance(confidence, int | float) else ""
    when = event_time(float(record["time"]))
    return [record["seq"], when, *shown, number, record.get("cause", ""), record.get("next_tier", "")]
