"""`gatewayd spool …` where no daemon runs: what it prints, what it exports, what it changes, and what it refuses."""

import asyncio
import json
import os
import shutil
import stat
from functools import partial
from pathlib import Path

import pytest

from gatewayd.events import event_json
from gatewayd.ports import DeadLetter, NewResult, RawMessage, Work
from tests.sim.real_spool import MIB, opened
from tests.unit.test_cli import GOOD, Answer, Command, gatewayd  # noqa: F401 - a fixture

TIME = 1_763_700_000.25  # 2025-11-21 04:40:00.250
SINKS = '[sinks.cloud]\ntype = "http"\nurl = "http://127.0.0.1:9/events"\n'

RESULTS = """\
Results, oldest first (times in UTC)

 id    time                  route   kind    subject   size   sinks
 ──────────────────────────────────────────────────────────────────────────────────────────
 r:1   2025-11-21 04:40:00   ovens   alert   ovens/0   27 B   cloud: pending, file: done
 r:2   2025-11-21 04:40:01   ovens   alert   ovens/1   27 B   cloud: pending, file: done
 r:3   2025-11-21 04:40:02   ovens   alert   ovens/2   27 B   cloud: pending, file: pending

One of them whole: gatewayd spool show r:1.
"""
MESSAGES = """\
Messages of the journal, oldest first (times in UTC)

 id    time                  route   topic     size   attempts
 ─────────────────────────────────────────────────────────────
 j:4   2025-11-21 04:40:00   ovens   ovens/7   2 B           0

One of them whole: gatewayd spool show j:4.
"""
LETTERS = """\
Dead letters, newest first (times in UTC)

 id    time                  route   sink   reason    topic     size    detail
 ───────────────────────────────────────────────────────────────────────────────────
 d:2   2025-11-21 04:40:01   ovens   file   refused   ovens/1   234 B   422 no
 d:1   2025-11-21 04:40:00   ovens   -      decode    ovens/3   3 B     is no number

One of them whole: gatewayd spool show d:2.
"""
ROW = """\
id             d:1
route          ovens
sink
reason         decode
detail         is no number
topic          ovens/3
key            m-3
content_type
properties     [["a","b"]]
time           1763700000.25
time_utc       2025-11-21T04:40:00.250Z
size           3

hot
"""


async def fill(folder: Path) -> None:
    """Three results, the first of them in the file and the second refused by it; a message; a dead letter of one."""
    async with opened(folder, routes={"ovens": ["file", "cloud"]}) as spool:
        spool._refused_payload = partial(event_json, gateway="hall-3")
        data = b'{"label":"hot","score":0.9}'
        results = [
            NewResult(key=f"k-{n}", kind="alert", subject=f"ovens/{n}", time=TIME + n, data=data) for n in range(3)
        ]
        await spool.commit(Work(route="ovens", received=3, handled=3, results=results))
        raw = RawMessage(topic="ovens/7", payload=b"\x00\xff", time=TIME, key="m-7", qos=1)
        await spool.commit(Work(route="ovens", received=1, journal=[raw]))
        fields = {"route": "ovens", "reason": "decode", "detail": "is no number", "topic": "ovens/3", "key": "m-3"}
        letter = DeadLetter(payload=b"hot", time=TIME, properties=(("a", "b"),), **fields)
        await spool.commit(Work(route="ovens", received=1, dead=[letter]))
        lease = await spool.try_lease("file", "ovens", limit=2, max_bytes=MIB)
        assert lease is not None
        await spool.ack(lease, refused={"k-1": "422 no"})


@pytest.fixture(name="spool")
def spool_command(gatewayd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:  # noqa: F811
    """`gatewayd spool`, in a folder with a config and a spool that is not in use."""
    monkeypatch.setenv("COLUMNS", "110")
    config = GOOD.format(port=1).replace('sinks = ["file"]', 'sinks = ["file", "cloud"]')
    (tmp_path / "config.toml").write_text(SINKS + config)
    (tmp_path / "state").mkdir()
    asyncio.run(fill(tmp_path / "state"))
    return partial(gatewayd, "spool")


def plain(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls"], RESULTS),
        (["ls", "--journal"], MESSAGES),
        (["ls", "--dead"], LETTERS),
        (["dead"], LETTERS),
        (["show", "d:1"], ROW),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_rows_are_printed_as_tables(spool: Command, arguments: list[str], said: str) -> None:
    answer = spool(*arguments)

    assert (answer.status, plain(answer.out), answer.err) == (0, said, "")


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ([], ["r:1", "r:2", "r:3"]),
        (["--sink", "file"], ["r:3"]),
        (["--sink", "nobody"], []),
        (["--route", "ovens", "--limit", "2"], ["r:1", "r:2"]),
        (["--route", "nobody"], []),
        (["--dead", "--sink", "file"], ["d:2"]),
        (["--dead", "--reason", "decode"], ["d:1"]),
        (["--dead", "--limit", "1"], ["d:2"]),
        (["--journal"], ["j:4"]),
    ],
    ids=" ".join,
)
def test_rows_are_chosen(spool: Command, arguments: list[str], ids: list[str]) -> None:
    assert [row["id"] for row in json.loads(spool("ls", "--json", *arguments).out)] == ids


def test_that_there_is_more_is_said(spool: Command) -> None:
    assert "There is more: --limit." in spool("ls", "--limit", "1").out


def test_a_payload_that_is_no_text_is_shown_in_hexadecimal(spool: Command) -> None:
    assert spool("show", "j:4").out.endswith("\n00ff\n")
    assert json.loads(spool("show", "j:4", "--json").out)["payload_hex"] == "00ff"


def test_a_row_that_is_gone_is_said_to_be(spool: Command) -> None:
    answer = spool("show", "r:99")

    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith("gatewayd: r:99 is not in the spool\nhint: it may have been delivered")


def test_results_are_exported_as_the_sink_would_send_them(spool: Command, tmp_path: Path) -> None:
    answer = spool("export", "--results", "--sink", "file", "-o", "out.ndjson")

    assert (answer.status, answer.out, answer.err) == (0, "", "1 row exported in out.ndjson.\n")
    (line,) = (tmp_path / "out.ndjson").read_bytes().splitlines()
    assert line == (
        b'{"specversion":"1.0","id":"k-2","source":"/gateways/hall-3/routes/ovens","type":"dev.gatewayd.result.alert",'
        b'"subject":"ovens/2","time":"2025-11-21T04:40:02.250Z","datacontenttype":"application/json",'
        b'"data":{"label":"hot","score":0.9}}'
    )
    assert stat.S_IMODE((tmp_path / "out.ndjson").stat().st_mode) == 0o600


def test_dead_letters_are_exported_as_messages_and_results(spool: Command, tmp_path: Path) -> None:
    spool("export", "--dead", "-o", "dead.ndjson")

    message, result = map(json.loads, (tmp_path / "dead.ndjson").read_bytes().splitlines())
    assert (message["type"], message["id"], message["data"], message["reason"]) == (
        "dev.gatewayd.message", "m-3", "hot", "decode",
    )  # fmt: skip
    assert (result["type"], result["id"], result["data"]["label"]) == ("dev.gatewayd.result.alert", "k-1", "hot")


def test_single_rows_are_exported_by_id(spool: Command, tmp_path: Path) -> None:
    spool("export", "j:4", "r:2", "-o", "two.ndjson")

    lines = (tmp_path / "two.ndjson").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["m-7", "k-1"]


def test_dead_letters_are_brought_back_where_no_daemon_runs(spool: Command) -> None:
    answer = spool("requeue", "--dead", "--yes")

    assert (answer.status, answer.out) == (0, "2 dead letters brought back.\n")
    assert [row["key"] for row in json.loads(spool("ls", "--journal", "--json").out)] == ["m-7", "m-3"]
    again = json.loads(spool("ls", "--json").out)[-1]
    assert (again["key"], again["sinks"]) == ("k-1", {"file": "pending", "cloud": "done"})
    books = json.loads(spool("audit", "--json").out)
    assert books["balanced"]
    assert (books["messages"]["dead"], books["results"]["refused"], books["reasons"]) == (0, 0, {})


def test_named_letters_are_brought_back_without_a_question_and_what_is_missing_is_said(spool: Command) -> None:
    answer = spool("requeue", "d:1", "d:9")

    assert (answer.status, answer.out) == (1, "1 dead letter brought back.\n1 not there any more.\n")


def test_before_anything_is_given_up_it_is_said_and_asked(spool: Command) -> None:
    answer = spool("purge", "--results")

    assert answer.status == 2
    assert answer.err.startswith(
        "4 results, counted for each sink, (81 B) would be given up for good: ovens -> cloud 3, ovens -> file 1.\n"
    )
    assert "there is no terminal to ask on: say --yes" in answer.err
    assert len(json.loads(spool("ls", "--json").out)) == 3


def test_what_is_given_up_is_counted(spool: Command) -> None:
    answers = [spool("purge", *what, "--yes") for what in (["--results", "--sink", "cloud"], ["j:4"], ["--dead"])]

    assert [answer.out for answer in answers] == [
        "3 results given up.\n",
        "1 message given up.\n",
        "2 dead letters given up.\n",
    ]
    books = json.loads(spool("audit", "--json").out)
    assert books["balanced"]
    assert books["reasons"]["results/ovens/cloud/evicted"] == {"purged": 3}
    assert books["reasons"]["messages/ovens/evicted"] == {"purged": 1}
    assert "2 dead letters are no longer kept" in spool("audit").out


def test_only_old_letters_are_given_up(spool: Command) -> None:
    answer = spool("purge", "--dead", "--older-than", "36500d", "--yes", "--json")

    (said,) = json.loads(answer.out)
    assert (said["table"], said["n"]) == ("dead", 0)
    assert spool("purge", "--dead", "--older-than", "1d", "--yes").out == "2 dead letters given up.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["requeue"], "say which rows"),
        (["requeue", "r:1"], "only dead letters (d:…) can be brought back"),
        (["purge", "--journal"], "the messages of which route?"),
        (["purge", "d:1", "--dead"], "either ids, or options that name rows"),
        (["purge", "--results", "--older-than", "7d"], "about dead letters"),
        (["purge", "--dead", "--older-than", "soon"], "say 90s, 30m, 12h or 7d"),
        (["ls", "--dead", "--journal"], "one or the other"),
        (["ls", "--journal", "--sink", "file"], "they go to a route"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_wrong_usage(spool: Command, arguments: list[str], said: str) -> None:
    answer = spool(*arguments)

    assert answer.status == 2
    assert said in " ".join(answer.err.replace("│", " ").split())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_spool_that_may_not_be_read_says_whose_it_is(spool: Command, tmp_path: Path) -> None:
    (tmp_path / "state" / "spool.db").chmod(0)

    answer = spool("ls")

    assert (answer.status, "is it yours to read" in answer.err) == (1, True)


def test_a_spool_in_a_folder_that_cannot_be_written_is_read(spool: Command, tmp_path: Path) -> None:
    (tmp_path / "state").chmod(0o500)
    try:
        assert spool("ls").status == 0
        assert spool("fsck").status == 0
    finally:
        (tmp_path / "state").chmod(0o700)


def test_before_the_first_run_there_is_nothing_to_change(spool: Command, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "state")

    answers: list[Answer] = [spool(*what) for what in (["requeue", "d:1"], ["purge", "--dead", "-y"], ["fsck"])]

    assert [answer.status for answer in answers] == [1, 1, 1]
    assert all("no spool yet; it is made when the daemon first runs" in answer.err for answer in answers)
    assert not (tmp_path / "state").exists()
