"""The box: clock, disk, the flash under it."""

import os
import shutil
import time
from pathlib import Path

from gatewayd.board.watch import in_words
from gatewayd.cli.doctor.finding import Finding, failed, good, warning
from gatewayd.cli.output import human_bytes
from gatewayd.clock import RELEASED, ask_system
from gatewayd.config.environment import Paths
from gatewayd.config.schema import Config

_N_SYNCS = 5
_SLOW_SYNC_MS = 100.0
_NO_SYNC = {"tmpfs", "ramfs", "overlay"}  # overlay: of a container, gone with it
_NO_LOCKS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}
_YEARS_AHEAD = 20


def clock(config_path: Path, config: Config | None) -> Finding:
    """Whether the clock can be right, and whether somebody keeps it right."""
    name = "" if config is None else config.gateway.clock_sync_file
    sync_file = config_path.absolute().parent / name if name else None
    now = time.time()
    if now < RELEASED or now > RELEASED + _YEARS_AHEAD * 31_557_600:
        hint = "set up time synchronization (systemd-timesyncd, chrony); TLS fails until then, order is kept regardless"
        return failed("clock", f"it is {time.ctime()} here", hint)
    words = time.strftime("%Y-%m-%d %H:%M:%S %z")
    synced = ask_system(sync_file)
    if synced is False:
        hint = "results are marked `unsynced` until it is: see gateway.clock_sync_file, systemd-timesyncd, chrony"
        return warning("clock", f"{words}, not synchronized", hint)
    return good("clock", f"{words}, synchronized" if synced else f"{words}; nobody says whether it is synchronized")


def board(config: Config) -> Finding:
    """Temperatures, throttling, power."""
    words, hint = in_words(config.board)
    return warning("board", words, hint) if hint.startswith("more air") else good("board", words, hint)


def disk(config: Config, paths: Paths) -> list[Finding]:
    """Room, filesystem, and what a commit costs there."""
    folder = next(parent for parent in (paths.state_dir, *paths.state_dir.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        hint = "run this as the daemon's user, or give the folder to that user; see gateway.state_dir"
        return [failed("disk", f"{folder} cannot be written to", hint)]
    free, cap = shutil.disk_usage(folder).free, config.spool.max_bytes
    used = _used(paths)
    words = f"{human_bytes(free)} free for a spool of at most {human_bytes(cap)} in {paths.state_dir}"
    enough = free > cap - used
    found = [good("disk", words) if enough else failed("disk", words, "free some space, or lower spool.max_bytes")]
    return [*found, _filesystem(folder), _sync(folder)]


def _used(paths: Paths) -> int:
    """What of the cap is taken already."""
    try:
        return sum(path.stat().st_size for path in paths.state_dir.glob("spool.db*"))
    except OSError:
        return 0


def _filesystem(folder: Path) -> Finding:
    kind, options = mount_of(folder)
    if not kind:
        return good("filesystem", "not told by /proc/mounts")
    if kind in _NO_LOCKS:
        hint = "a spool in WAL mode needs a local disk: set gateway.state_dir"
        return failed("filesystem", f"{kind} is a network filesystem", hint)
    if kind in _NO_SYNC:
        hint = "what is acknowledged does not outlive a restart of the box or container: set gateway.state_dir"
        return warning("filesystem", f"{kind} is not lasting", hint)
    if "nobarrier" in options.split(",") or "barrier=0" in options.split(","):
        return failed(
            "filesystem", f"{kind} mounted without barriers", "a power cut may lose commits: remove the option"
        )
    return good("filesystem", kind)


def mount_of(folder: Path, mounts: Path = Path("/proc/mounts")) -> tuple[str, str]:
    """Type and options of the filesystem a folder lies on; empty where nobody says. Source: fstab(5)'s fields."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ""
    best, kind, options = -1, "", ""
    resolved = str(folder.resolve())
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        point = fields[1].replace("\\040", " ")
        if (resolved == point or resolved.startswith(point.rstrip("/") + "/")) and len(point) >= best:
            best, kind, options = len(point), fields[2], fields[3]
    return kind, options


def _sync(folder: Path) -> Finding:
    """What one fsync costs: the price of each commit, and so of each acknowledgement."""
    path = folder / f".gatewayd-doctor-{os.getpid()}"
    took: list[float] = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(_N_SYNCS):
                file.write(b"\0" * 4096)
                began_s = time.perf_counter()
                os.fsync(file.fileno())
                took.append((time.perf_counter() - began_s) * 1000)
    except OSError as error:
        return failed("fsync", f"{folder}: {error.strerror}", "is the disk full or damaged? see dmesg")
    finally:
        path.unlink(missing_ok=True)
    middle_ms = sorted(took)[len(took) // 2]
    words = f"{middle_ms:.1f} ms (worst of {_N_SYNCS}: {max(took):.1f} ms)"
    if middle_ms > _SLOW_SYNC_MS:
        hint = 'slow flash: a better card, or `write = "when_offline"` on routes that may lose seconds in a power cut'
        return warning("fsync", words, hint)
    return good("fsync", words)


def flash(root: Path = Path("/")) -> list[Finding]:
    """What eMMC and NVMe say of their wear, where this user may read it. Nothing where there is neither.

    Sources: the kernel's Documentation/ABI for mmc (`life_time`: two values A and B in steps of 10 %; `pre_eol_info`).
    """
    found = []
    for device in sorted((root / "sys/block").glob("mmcblk*")):
        found += _emmc(device)
    for device in sorted((root / "sys/block").glob("nvme*n1")):
        found.append(_nvme(device))
    return found


def _emmc(device: Path) -> list[Finding]:
    name = f"flash {device.name}"
    life = _read(device / "device/life_time")
    if not life:
        return []  # an SD card: it tells nobody
    steps = [int(word, 16) for word in life.split() if word.lower().startswith("0x") and len(word) <= 6]
    worst = max(steps, default=0)
    soon = _read(device / "device/pre_eol_info")
    if worst == 0:
        return [good(name, "its wear is not told")]
    words = f"{(worst - 1) * 10} to {worst * 10} % of its life used" if worst <= 10 else "beyond its life"
    if worst > 10 or soon in ("0x03", "3"):
        return [failed(name, words, "replace it: it may turn read-only any day")]
    if worst >= 8 or soon in ("0x02", "2"):
        return [warning(name, words, 'plan its replacement; `write = "when_offline"` spares it meanwhile')]
    return [good(name, words)]


def _nvme(device: Path) -> Finding:
    """The kernel shows no wear without the smart log, which root alone may ask for."""
    name = f"flash {device.name}"
    model = _read(device / "device/model") or "NVMe"
    state = _read(device / "device/state")
    if state and state != "live":
        return failed(name, f"{model}: state {state}", "see dmesg; replace it")
    return good(name, model, f"wear: sudo nvme smart-log /dev/{device.name}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
