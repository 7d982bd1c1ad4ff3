from pathlib import Path

from structlog.testing import capture_logs

from gatewayd.mqtt.remembered import Remembered, Subscribed, Subscription
from gatewayd.mqtt.subscriptions import Subscriptions

KEPT = Subscribed(((Subscription("a/+", 1, 7), Subscription("+/b", 0, 8, True)),), ("old",))


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    Remembered(tmp_path / "s.json", "broker:1883 me").save(KEPT)

    assert Remembered(tmp_path / "s.json", "broker:1883 me").load() == KEPT


def test_each_broker_and_client_id_has_its_own_and_the_oldest_are_forgotten(tmp_path: Path) -> None:
    for number in range(10):
        Remembered(tmp_path / "s.json", f"broker {number}").save(Subscribed(stale=(str(number),)))

    kept = [Remembered(tmp_path / "s.json", f"broker {number}").load().stale for number in range(10)]

    assert kept == [(), (), *[(str(number),) for number in range(2, 10)]]


def test_a_damaged_file_is_a_warning_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for damage in (b"", b"{", b"\xff\xff", b'{"me": {"generations": 3}}'):
        path.write_bytes(damage)
        with capture_logs() as logs:
            assert Remembered(path, "me").load() == Subscribed()
        assert [line["log_level"] for line in logs] == ["warning"]

    Remembered(path, "me").save(KEPT)

    assert Remembered(path, "me").load() == KEPT


def test_a_disk_that_takes_nothing_is_a_warning(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Remembered(tmp_path / "missing" / "s.json", "me").save(KEPT)

    assert [line["event"] for line in logs] == ["subscriptions could not be remembered"]


def test_the_file_does_not_grow_with_the_number_of_changes(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "s.json", "me")
    for number in range(5000):
        kept = Subscribed(((Subscription(f"t/{number}", 1),),), tuple(f"t/{old}" for old in range(number)))
    remembered.save(kept)

    assert len(remembered.load().stale) == 4096


def test_an_unchanged_config_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    filters = [("a/+", 1), ("+/b", 1)]
    first = Subscriptions(filters, Remembered(path, "me"), is_v5=True, draw=lambda: 0.0)
    for packet in first.begin(has_identifiers=True):
        first.answered(packet, [1])
    first.unsubscribed([])
    written = path.stat().st_mtime_ns

    second = Subscriptions(filters, Remembered(path, "me"), is_v5=True, draw=lambda: 0.0)
    packets = second.begin(has_identifiers=True)
    second.unsubscribed([])

    assert [[one.identifier for one in packet] for packet in packets] == [[1], [2]]
    assert path.stat().st_mtime_ns == written


def test_a_refused_subscription_yields_to_the_next_one_that_matches(tmp_path: Path) -> None:
    subscriptions = Subscriptions([("a/+", 1), ("+/b", 1)], Remembered(), is_v5=True, draw=lambda: 0.0)
    first, second = subscriptions.begin(has_identifiers=True)
    subscriptions.answered(first, [1])
    subscriptions.answered(second, [1])
    assert subscriptions.is_copy("a/b", [2])

    with capture_logs() as logs:
        subscriptions.answered(first, [0x87])

    assert not subscriptions.is_copy("a/b", [2])
    assert logs[0]["filters"] == ["a/+"]


def test_a_broker_without_identifiers_is_asked_for_none_and_a_person_is_warned_once() -> None:
    subscriptions = Subscriptions([("a/+", 1), ("+/b", 1)], Remembered(), is_v5=True, draw=lambda: 0.0)

    with capture_logs() as logs:
        packets = [subscriptions.begin(has_identifiers=False) for _ in range(2)]

    assert [[(one.filter, one.identifier) for one in packet] for packet in packets[1]] == [[("a/+", 0), ("+/b", 0)]]
    assert len(logs) == 1
    assert not subscriptions.is_copy("a/b", [])
