"""A damaged spool put aside and another put in its place; a crash at any moment leaves the one or the other.

Order: the damaged files are linked into `corrupt-<n>/`; a new spool is made beside them as `<spool>.part`, whole and
closed, and renamed to `<spool>.salvaged`; only then the old WAL goes and the new file takes the old one's name.
"""

import shutil
from pathlib import Path

from gatewayd.disk import sync

_PARTS = ("", "-wal")


def put_aside(path: Path) -> Path:
    """The damaged spool's files in `corrupt-<n>/`, where they stay whatever becomes of `path`. Twice is the same."""
    known = kept(path)
    if known and path.exists() and (known[-1] / path.name).samefile(path):
        return known[-1]
    aside = path.parent / f"corrupt-{_number(known[-1]) + 1 if known else 1}"
    begun = aside.with_name(aside.name + ".part")
    shutil.rmtree(begun, ignore_errors=True)  # links to what is still in place
    begun.mkdir(mode=0o700)
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            _link(part, begun / part.name)
    begun.rename(aside)
    sync(path.parent)
    return aside


def part_of(path: Path) -> Path:
    """Where the new spool is made; what an earlier attempt left there is gone."""
    part = path.with_name(path.name + ".part")
    for suffix in ("", "-wal", "-shm", "-journal"):
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    return part


def replace(path: Path, part: Path) -> None:
    """The new spool, closed and complete, takes the place of the damaged one."""
    sync(part)
    part.rename(path.with_name(path.name + ".salvaged"))
    sync(path.parent)
    finish(path)


def finish(path: Path) -> None:
    """Do what a crash left undone of `replace`."""
    salvaged = path.with_name(path.name + ".salvaged")
    if salvaged.exists():
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        sync(path.parent)
        salvaged.rename(path)
        sync(path.parent)


def prune(path: Path, max_kept: int) -> list[Path]:
    """Remove the oldest damaged spools beyond `max_kept`; which they were."""
    removed = kept(path)[:-max_kept]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def kept(path: Path) -> list[Path]:
    """The folders of damaged spools, the oldest first."""
    folders = [folder for folder in path.parent.glob("corrupt-*") if folder.name.removeprefix("corrupt-").isdigit()]
    return sorted(folders, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("corrupt-"))


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
        sync(target)
