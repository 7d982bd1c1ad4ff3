"""What a summary may say of its window, and what is marked in it, with its place."""

import pytest

from gatewayd_handlers.summary_facts import mine
from gatewayd_handlers.summary_form import Written
from gatewayd_handlers.summary_grounding import Grounds, Span, Unsupported

START = 1_150_268_400.0  # 2006-06-14 07:00:00 UTC
TEXTS = (
    "R02-M1-N0: pump-3 failed 3 times, code 0x1f",
    "R02-M1-N0: pump-3 failed 3 times, code 0x1f",
    "connection from 10.0.0.17:5022 closed",
    "pump-4 temperature 71.5, 1200 rpm",
)


def grounds(*examples: str) -> Grounds:
    texts = [(START + 600 * index, text) for index, text in enumerate(TEXTS)]
    facts = mine(texts, START, START + 3600, ["pump-3", "pump-3", "pump-4"])
    return Grounds(TEXTS, facts, examples)


@pytest.mark.parametrize(
    "true",
    [
        "Pump-3 failed twice",
        "Pump 3 failed 2 times at 07:10",
        "R02-M1 reported 2 messages between 07:00 and 08:00",
        "The code was 0x1F, 4 messages in all",
        "50% of the messages came from pump-3",
        "pump-4 ran at 1,200 rpm and 71.5 degrees",
        "A connection from 10.0.0.17 was closed at 07:20:00",
        "10.0.0.17:5022 closed, and pump-3 failed 3 times",
    ],
)
def test_what_the_window_says_is_not_marked(true: str) -> None:
    assert grounds().unsupported(true) == []


@pytest.mark.parametrize(
    ("said", "invented"),
    [
        ("Pump-7 failed", "Pump-7"),
        ("Pump-33 failed", "Pump-33"),
        ("pump-3 failed 17 times", "17"),  # a part of an address, and no count
        ("pump-3 failed 5 times", "5"),
        ("It failed five times", "five"),
        ("It failed at 23:10", "23:10"),
        ("It failed at 07:45", "07:45"),
        ("10.0.0.1 connected", "10.0.0.1"),
        ("10.0.0.17:502 connected", "10.0.0.17:502"),
        ("R02-M1-N4 was lost on the way", "R02-M1-N4"),
        ("It ran at 1,300 rpm", "1,300"),
        ("60% came from pump-3", "60"),
        ("The pump crashed", "crash"),
    ],
)
def test_what_it_does_not_say_is_marked_where_it_stands(said: str, invented: str) -> None:
    start = said.index(invented)

    assert Span(start, start + len(invented), invented) in grounds().unsupported(said)


def test_every_place_is_marked_and_they_come_in_order() -> None:
    spans = grounds().unsupported("door-7, lamp-9 and door-7")

    assert [(span.start, span.end, span.text) for span in spans] == [
        (0, 6, "door-7"),
        (8, 14, "lamp-9"),
        (19, 25, "door-7"),
    ]


def test_words_of_the_examples_are_no_source() -> None:
    assert [span.text for span in grounds("the compressor failed").unsupported("The compressor failed")] == [
        "compressor"
    ]


def test_a_summary_is_checked_field_by_field_and_sentences_that_invent_are_left_out() -> None:
    written = Written(headline="Pump-3 failed", what_happened="Pump-3 failed 2 times. Door-7 was open.")

    assert grounds().check(written) == [Unsupported(field="what_happened", start=23, end=29, text="Door-7")]
    assert grounds().keep(written) == Written(headline="Pump-3 failed", what_happened="Pump-3 failed 2 times.")
    assert grounds().keep(Written(headline="Door-7 failed", what_happened="Pump-3 failed.")) is None


COUNTED = (*["pump sensor failed: no signal"] * 9, *["gate opened by operator"] * 4, "gate opened for the guard")


@pytest.mark.parametrize(
    ("written", "marked"),
    [
        ("The pump sensor failed 9 times and the gate was opened by the operator 4 times.", []),
        ("The pump sensor failed 4 times and the gate was opened by the operator 9 times.", ["4", "9"]),
        ("The sensor of the pump failed four times, with no signal.", ["four"]),
        ("The gate was opened 5 times.", []),  # by operator and guard
        ("Something else entirely came 4 times.", []),  # of what, nobody can say
        ("The gate was opened 9 messages before.", []),
    ],
)
def test_a_count_of_something_else_is_marked_where_it_is_clear_what_was_counted(
    written: str, marked: list[str]
) -> None:
    facts = mine([(START, text) for text in COUNTED], START, START + 60, [])

    assert [span.text for span in Grounds(COUNTED, facts, ()).unsupported(written)] == marked
