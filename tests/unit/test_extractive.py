"""Summaries without a model, and the facts under them."""

import msgspec

from gatewayd_handlers import extractive
from gatewayd_handlers.summary_facts import MAX_STATEMENTS, evidence, mine
from gatewayd_handlers.summary_form import check
from gatewayd_handlers.text_masks import mask_ids, mask_numbers, masked_words, without_prefix


def facts_of(*texts: str, devices: tuple[str, ...] = ()):
    return mine([(float(i), text) for i, text in enumerate(texts)], 0.0, 3600.0, devices)


def test_texts_that_differ_in_numbers_and_addresses_are_one_statement() -> None:
    facts = facts_of(
        "Jun 14 15:16:01 combo sshd[19939]: Failed password for root from 10.0.0.1 port 22",
        "Jun 14 15:17:09 combo sshd[19940]: Failed password for root from 10.0.0.2 port 2222",
        "Jun 14 15:17:10 combo cron[7]: job done",
    )

    assert [(s.n, " ".join(s.words)) for s in facts.statements] == [
        (2, "sshd[*]: Failed password for root from * port *"),
        (1, "cron[*]: job done"),
    ]


def test_the_worst_statement_comes_first_even_when_it_is_rare() -> None:
    summary = extractive.summarize(facts_of(*["pump ok"] * 50, "pump 3 overheat, shutting down"))

    assert summary.headline == "pump 3 overheat, shutting down"
    assert summary.severity == "critical"
    assert [(c.what, c.n) for c in summary.counts] == [("pump 3 overheat, shutting down", 1), ("pump ok", 50)]


def test_counts_add_up_to_the_messages_of_a_small_window() -> None:
    facts = facts_of("a 1", "a 2", "b x", "c y z")

    assert sum(statement.n for statement in facts.statements) == facts.n_texts == 4


def test_a_word_of_trouble_that_is_denied_is_no_trouble() -> None:
    texts = ("self test: no errors", "errors: 0", "parity error detected and corrected", "read error")

    assert [evidence(text) for text in texts] == ["info", "info", "info", "warning"]


def test_devices_are_the_most_frequent_and_at_most_eight() -> None:
    names = [f"pump-{i}" for i in range(20) for _ in range(20 - i)]

    summary = extractive.summarize(facts_of("x", devices=tuple(names)))

    assert summary.devices == [f"pump-{i}" for i in range(8)]


def test_any_texts_give_a_summary_of_the_form() -> None:
    windows = [
        (),
        ("",),
        ("   ",),
        ("\x00\ud7ff" * 9,),
        ("w" * 100_000,),
        tuple(f"kind{i} " + "y " * i for i in range(900)),
    ]

    for texts in windows:
        check(msgspec.to_builtins(extractive.summarize(facts_of(*texts))))


def test_statements_are_bounded_and_what_is_beyond_is_counted() -> None:
    facts = facts_of(
        *("w " * i + "end" for i in range(1, 59)), *(f"{chr(97 + i % 26) * (2 + i // 26)} x" for i in range(900))
    )

    assert len(facts.statements) == MAX_STATEMENTS
    assert facts.n_other + sum(s.n for s in facts.statements) == facts.n_texts


def test_what_names_one_thing_is_masked_where_that_is_asked_for() -> None:
    text = "6ba7b810-9dad-11d1-80b4-00c04fd430c8 from 10.0.0.1:80, 00:1A:2b:3c:4d:5e wrote /var/run7/core, /etc/fstab"

    assert mask_ids(text) == "0 from 0, 0 wrote 0, /etc/fstab"
    assert mask_ids("a / b at 3 and/or 4") == "a / b at 0 and/or 0"


def test_masks_hide_numbers_and_nothing_else() -> None:
    assert mask_numbers("core.2275 at 0x00ffee, deadbeef1 facade, 10 fine") == "core.0 at 0, 0 facade, 0 fine"
    assert masked_words("from 10.0.0.1:80 via fe80:0:0:1:2 in 3ms") == ("from", "*", "via", "*", "in", "*ms")
    assert without_prefix("2026-11-21T10:00:00.123Z pump on") == "pump on"
    assert without_prefix("Dec 10 06:55:46 LabSZ sshd[1]: hi") == "sshd[1]: hi"
    assert without_prefix("pump on") == "pump on"
