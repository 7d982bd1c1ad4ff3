"""The files of computed prompts: found when they are sound and ours, and never more than the limit."""

import os
from pathlib import Path

from gatewayd.runtimes.prefix_files import PrefixFiles


def put(files: PrefixFiles, text: str, content: bytes, age_s: int = 0) -> str | None:
    part = files.folder / files.part(text)
    part.write_bytes(content)
    name = files.keep(text)
    if name is not None and age_s:
        os.utime(files.folder / name, (1_000_000 - age_s, 1_000_000 - age_s))
    return name


def test_what_was_kept_is_found_by_its_text(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path / "states", "model a", 1000)

    name = put(files, "Summaries:", b"state")

    assert name is not None
    assert files.find("Summaries:") == name
    assert files.find("Summaries") is None
    assert (files.folder / name).stat().st_mode & 0o777 == 0o600
    assert files.folder.stat().st_mode & 0o777 == 0o700


def test_what_another_model_kept_is_not_found(tmp_path: Path) -> None:
    put(PrefixFiles(tmp_path, "model a", 1000), "Summaries:", b"state")

    assert PrefixFiles(tmp_path, "model b", 1000).find("Summaries:") is None


def test_a_damaged_file_is_removed(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "model a", 1000)
    name = put(files, "Summaries:", b"state")
    assert name is not None
    (tmp_path / name).write_bytes(b"stats")

    assert files.find("Summaries:") is None
    assert not (tmp_path / name).exists()


def test_the_least_recently_used_goes_when_there_is_no_room(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "model a", 25)
    put(files, "one", b"1" * 10, age_s=30)
    put(files, "two", b"2" * 10, age_s=20)
    files.find("one")  # used just now

    put(files, "three", b"3" * 10)

    assert files.find("two") is None
    assert files.find("one")
    assert files.find("three")


def test_one_that_is_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "model a", 25)
    put(files, "small", b"1" * 10)

    assert put(files, "large", b"2" * 26) is None
    assert files.find("small")
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_crash_left_half_written_makes_room(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "model a", 25)
    left = tmp_path / "abc.1.part"
    left.write_bytes(b"0" * 20)
    os.utime(left, (1, 1))

    put(files, "one", b"1" * 10)

    assert not left.exists()
