"""What summaries remember from window to window: bounded, and what is new or rare comes first."""

from gatewayd_handlers.summary_facts import Facts, mine
from gatewayd_handlers.summary_memory import Familiar, Headlines


def facts_of(*texts: str) -> Facts:
    return mine([(float(i), text) for i, text in enumerate(texts)], 0.0, 3600.0, ())


def ranked(familiar: Familiar, *texts: str) -> list[str]:
    return [statement.example for statement in familiar.rank(facts_of(*texts)).statements]


def test_new_statements_come_before_known_ones_and_severity_before_both() -> None:
    familiar = Familiar(100)
    familiar.remember(facts_of("door open", "pump failed").statements)

    order = ranked(familiar, "door open", "door open", "pump failed", "boat seen")

    assert order == ["pump failed", "boat seen", "door open"]


def test_what_few_windows_had_comes_before_what_all_have() -> None:
    familiar = Familiar(100)
    familiar.remember(facts_of("boat seen").statements)
    for _ in range(20):
        familiar.remember(facts_of("door open").statements)

    assert ranked(familiar, "door open", "door open", "boat seen") == ["boat seen", "door open"]


def test_a_statement_is_known_by_what_its_texts_have_in_common() -> None:
    familiar = Familiar(100)
    familiar.remember(facts_of("user anna sat down at desk 3").statements)
    familiar.remember(facts_of("user bert sat down at desk 4").statements)

    assert len(familiar) == 1
    assert ranked(familiar, "user carl sat down at desk 5", "user carl sat down at desk 5", "boat seen") == [
        "boat seen",
        "user carl sat down at desk 5",
    ]


def test_the_statement_unseen_for_the_longest_is_forgotten_first() -> None:
    familiar = Familiar(2)
    for text in ("door open", "boat seen", "door open", "lamp lit"):
        familiar.remember(facts_of(text).statements)

    assert len(familiar) == 2
    assert ranked(familiar, "door open", "boat seen", "lamp lit") == ["boat seen", "door open", "lamp lit"]


def test_a_memory_of_nothing_leaves_the_order_alone() -> None:
    familiar = Familiar(0)
    familiar.remember(facts_of("door open", "boat seen").statements)

    assert len(familiar) == 0
    assert ranked(familiar, "boat seen", "door open", "door open") == ["door open", "boat seen"]


def test_headlines_are_kept_of_the_devices_seen_last() -> None:
    headlines = Headlines(2)
    for device, headline in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")):
        headlines.remember(device, headline)

    assert [headlines.of(device) for device in "abc"] == ["3", "", "4"]
    assert len(headlines) == 2
