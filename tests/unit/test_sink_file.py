"""The file sink: lines that are whole, files that rotate, disks that are full."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatewayd.config import schema
from gatewayd.errors import SinkMisconfigured, SinkUnavailable
from gatewayd.sinks.file import FileSink
from tests.sim.spool import results


def open_sink(folder: Path, *, max_file_bytes: int = 16_777_216, max_files: int = 8) -> FileSink:
    config = schema.FileSink(path="results.ndjson", max_file_bytes=max_file_bytes, max_files=max_files)
    return FileSink(config, gateway="gw", beside=folder)


def ids(file: Path) -> list[str]:
    return [json.loads(line)["id"] for line in file.read_bytes().splitlines()]


async def test_each_line_is_a_whole_event(tmp_path: Path) -> None:
    sink = open_sink(tmp_path)

    await sink.send(results("pumps", 2))
    await sink.close()

    lines = (tmp_path / "results.ndjson").read_bytes().splitlines()
    event = json.loads(lines[1])
    assert len(lines) == 2
    assert event["source"] == "/gateways/gw/routes/pumps"
    assert event["data"] == {"label": "ok"}


async def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    for first in (0, 2):
        sink = open_sink(tmp_path)
        await sink.send(results("pumps", 2, first=first))
        await sink.close()

    assert ids(tmp_path / "results.ndjson") == ["pumps-0", "pumps-1", "pumps-2", "pumps-3"]


@pytest.mark.parametrize("n_bytes", [1, 5, 14, 40, 70_000])
async def test_a_line_of_ours_that_a_crash_tore_is_cut_off(tmp_path: Path, n_bytes: int) -> None:
    file = tmp_path / "results.ndjson"
    sink = open_sink(tmp_path)
    await sink.send(results("pumps", 1))
    await sink.close()
    whole = file.read_bytes()
    file.write_bytes(whole + (whole[:-1] + b"x" * 100_000)[:n_bytes])

    with capture_logs() as logs:
        await sink.send(results("pumps", 1, first=1))
    await sink.close()

    assert ids(file) == ["pumps-0", "pumps-1"]
    assert [line["event"] for line in logs] == ["last line was torn"]


async def test_a_line_of_somebody_else_is_ended_and_not_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "results.ndjson"
    file.write_bytes(b"first\n# notes")

    sink = open_sink(tmp_path)
    await sink.send(results("pumps", 1))
    await sink.close()

    assert file.read_bytes().startswith(b'first\n# notes\n{"specversion"')


async def test_files_rotate_by_size_and_the_oldest_goes(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, max_file_bytes=4096, max_files=3)
    for n in range(10):
        await sink.send(results("pumps", 10, first=10 * n))  # about 2 KB
    await sink.close()

    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["results.ndjson", "results.ndjson.1", "results.ndjson.2"]
    assert all(path.stat().st_size <= 4096 for path in tmp_path.iterdir())
    kept = [key for name in reversed(files) for key in ids(tmp_path / name)]
    assert kept == [f"pumps-{n}" for n in range(100 - len(kept), 100)]


async def test_with_one_file_the_rotation_begins_it_anew(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, max_file_bytes=4096, max_files=1)
    for n in range(5):
        await sink.send(results("pumps", 10, first=10 * n))
    await sink.close()

    assert [path.name for path in tmp_path.iterdir()] == ["results.ndjson"]
    assert ids(tmp_path / "results.ndjson")[-1] == "pumps-49"


async def test_a_rotation_cut_short_loses_no_file(tmp_path: Path) -> None:
    sink = open_sink(tmp_path, max_file_bytes=4096, max_files=4)
    await sink.send(results("pumps", 15))
    (tmp_path / "results.ndjson.2").write_text("moved by the turn that was cut short")

    await sink.send(results("pumps", 15, first=15))
    await sink.close()

    assert ids(tmp_path / "results.ndjson.1")[0] == "pumps-0"
    assert (tmp_path / "results.ndjson.2").read_text() == "moved by the turn that was cut short"


async def test_a_file_that_somebody_moved_is_begun_anew(tmp_path: Path) -> None:
    sink = open_sink(tmp_path)
    await sink.send(results("pumps", 1))
    (tmp_path / "results.ndjson").rename(tmp_path / "archive")

    await sink.send(results("pumps", 1, first=1))
    await sink.close()

    assert ids(tmp_path / "archive") == ["pumps-0"]
    assert ids(tmp_path / "results.ndjson") == ["pumps-1"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
async def test_a_full_disk_is_a_sink_unavailable_with_a_hint() -> None:
    sink = FileSink(schema.FileSink(path="/dev/full"), gateway="gw")

    with pytest.raises(SinkUnavailable) as caught:
        await sink.send(results("pumps", 1))
    await sink.close()

    assert type(caught.value) is SinkUnavailable
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert "full" in caught.value.hint


SHORT_DISK = """
import asyncio, resource, signal, sys
from gatewayd.config import schema
from gatewayd.errors import SinkUnavailable
from gatewayd.sinks.file import FileSink
from tests.sim.spool import results

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sink = FileSink(schema.FileSink(path=sys.argv[1]), gateway="gw")
    await sink.send(results("pumps", 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        await sink.send(results("pumps", 50, first=2))
    except SinkUnavailable:
        print("unavailable")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await sink.send(results("pumps", 1, first=2))

asyncio.run(main())
"""


def test_a_write_that_stops_half_way_leaves_no_part_of_a_batch(tmp_path: Path) -> None:
    file = tmp_path / "results.ndjson"

    done = subprocess.run(
        [sys.executable, "-c", SHORT_DISK, str(file)], capture_output=True, text=True, timeout=120, check=True
    )

    assert "unavailable" in done.stdout
    assert ids(file) == ["pumps-0", "pumps-1", "pumps-2"]


async def test_a_path_that_cannot_be_written_is_misconfigured(tmp_path: Path) -> None:
    sink = FileSink(schema.FileSink(path=str(tmp_path)), gateway="gw")

    with pytest.raises(SinkMisconfigured) as caught:
        await sink.send(results("pumps", 1))

    assert "path" in caught.value.hint


async def test_a_dash_is_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    sink = FileSink(schema.FileSink(path="-"), gateway="gw")

    await sink.send(results("pumps", 2))
    await sink.close()

    assert [json.loads(line)["id"] for line in capfdbinary.readouterr().out.splitlines()] == ["pumps-0", "pumps-1"]
