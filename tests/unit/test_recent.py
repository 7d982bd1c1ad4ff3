"""Keys of stored results: recognized, bounded, small, and never taken for each other."""

import sys
from itertools import product
from pathlib import Path

from gatewayd.keys import KeyMaker, result_key
from gatewayd.ports import NewResult
from gatewayd.spool.recent import RecentKeys, fingerprints
from tests.sim.real_spool import opened, work


def committed(keys: RecentKeys, *new: str) -> None:
    keys.stage(new)
    keys.commit()


def test_keys_that_look_alike_have_fingerprints_of_their_own() -> None:
    made = KeyMaker("00ff00ff00ff00ff")
    alike = [made.next() for _ in range(50_000)]
    alike += [result_key(alike[0], n) for n in range(1, 10_000)]
    alike += ["".join(letters) for letters in product("ab~", repeat=8)]
    alike += ["", "~", "~~", "é", "\udc80"]

    assert len(set(fingerprints(alike))) == len(alike)


def test_a_fingerprint_is_a_third_of_a_key() -> None:
    assert sys.getsizeof(fingerprints(["0" * 32])[0]) <= 32


def test_the_newest_keys_are_known_and_the_oldest_forgotten() -> None:
    keys = RecentKeys(10)

    for n in range(100):
        committed(keys, f"key-{n}")

    assert all(f"key-{n}" in keys for n in range(90, 100))
    assert not any(f"key-{n}" in keys for n in range(80))
    assert len(keys.young) + len(keys.old) <= 20


def test_of_results_with_one_key_the_first_is_new_and_none_where_the_key_is_known() -> None:
    keys = RecentKeys(10)
    committed(keys, "old")
    keys.stage(["staged"])
    results = [
        NewResult(key=key, kind="k", subject="t", time=float(n), data=b"")
        for n, key in enumerate(["a", "old", "b", "a", "staged"])
    ]

    new = keys.stage_new(results)

    assert new == [results[0], results[2]]
    assert all(key in keys for key in ("a", "b", "old", "staged"))
    assert list(keys.stage_new(results)) == []


def test_keys_of_a_transaction_that_was_undone_are_not_known() -> None:
    keys = RecentKeys(10)

    keys.stage(["a"])
    assert "a" in keys
    keys.rollback()

    assert "a" not in keys


async def test_keys_are_known_again_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.commit(work("a", "b"))

    events: list[tuple[str, object]] = []
    async with opened(tmp_path, events=events) as spool:  # type: ignore[arg-type]
        await spool.commit(work("b", "c"))
        books = await spool.books()

    assert books.results["r"]["cloud"]["pending"] == 3
    assert ("duplicates", {"route": "r", "n": 1}) in events
