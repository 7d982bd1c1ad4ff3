"""The doctor's judgments on values that no test box has: worn flash, certificates that end, units that lack a key."""

from pathlib import Path

import pytest

from gatewayd.cli.doctor.box import flash, mount_of
from gatewayd.cli.doctor.broker import judge_dates
from gatewayd.cli.doctor.service import judge_unit

DAY = 86400.0
NOW = 1_763_700_000.0
GOOD_UNIT = {
    "LoadState": "loaded", "ActiveState": "active", "Type": "notify", "WatchdogUSec": "1min",
    "MemoryDenyWriteExecute": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict",
}  # fmt: skip


@pytest.mark.parametrize(
    ("begins", "ends", "state"),
    [(-9, 100, "ok"), (-9, 5, "warning"), (-9, -1, "failed"), (1, 100, "failed")],
)
def test_a_certificate_is_judged_by_its_dates(begins: float, ends: float, state: str) -> None:
    found = judge_dates("tls", NOW + begins * DAY, NOW + ends * DAY, NOW)

    assert found.state == state
    assert bool(found.hint) == (state != "ok")


@pytest.mark.parametrize(
    ("life", "soon", "state", "said"),
    [
        ("0x01 0x02", "0x01", "ok", "10 to 20 %"),
        ("0x09 0x01", "0x01", "warning", "80 to 90 %"),
        ("0x0b 0x01", "0x01", "failed", "beyond its life"),
        ("0x02 0x01", "0x03", "failed", "10 to 20 %"),
        ("0x00 0x00", "0x00", "ok", "not told"),
    ],
)
def test_what_an_emmc_says_of_its_wear(tmp_path: Path, life: str, soon: str, state: str, said: str) -> None:
    device = tmp_path / "sys/block/mmcblk0/device"
    device.mkdir(parents=True)
    (device / "life_time").write_text(f"{life}\n")
    (device / "pre_eol_info").write_text(f"{soon}\n")

    (found,) = flash(tmp_path)

    assert (found.what, found.state) == ("flash mmcblk0", state)
    assert said in found.words


def test_a_card_that_tells_nothing_is_not_spoken_of(tmp_path: Path) -> None:
    (tmp_path / "sys/block/mmcblk0/device").mkdir(parents=True)

    assert flash(tmp_path) == []


def test_the_deepest_mount_counts(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw,vers=4 0 0\nbroken\n")

    assert mount_of(tmp_path, mounts) == ("nfs4", "rw,vers=4")
    assert mount_of(Path("/"), mounts) == ("ext4", "rw")
    assert mount_of(tmp_path, tmp_path / "none") == ("", "")


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({}, "ok", "watchdog and sandbox are on"),
        ({"MemoryDenyWriteExecute": "no"}, "warning", "MemoryDenyWriteExecute=yes"),
        ({"WatchdogUSec": "0"}, "warning", "WatchdogSec="),
        ({"ActiveState": "failed"}, "failed", "has failed"),
        ({"LoadState": "not-found"}, "ok", "not installed"),
    ],
)
def test_the_unit_is_judged_by_its_properties(change: dict[str, str], state: str, said: str) -> None:
    found = judge_unit(GOOD_UNIT | change)

    assert found.state == state
    assert said in found.words
