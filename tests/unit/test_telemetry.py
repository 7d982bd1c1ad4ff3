"""gatewayd.telemetry: what is counted is on /metrics and at the OTLP receiver, under the name that is documented."""

import inspect
import threading
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatewayd.config import Config, read_environment
from gatewayd.instruments import INSTRUMENTS
from gatewayd.otel import Count
from gatewayd.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    built = Telemetry.build(Config().telemetry, read_environment({}), "g1", "0.1.0")
    yield built
    built.shutdown()


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(telemetry.prometheus().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def touch_everything(telemetry: Telemetry) -> None:
    """One call of every method that reports a number."""
    telemetry.message_received("a", 3)
    telemetry.handled("a", 2)
    telemetry.journaled("a", 1)
    telemetry.dropped("a", "queue_full", 1)
    telemetry.buried("a", "decode", 1)
    telemetry.duplicates(1)
    telemetry.spooled("a", 2)
    telemetry.batch_handled("a", 2, 0.02)
    telemetry.batch_late("a")
    telemetry.live_published("a", 2)
    telemetry.live_failed("a", 1)
    telemetry.spool_event("commit", {"works": 2, "results": 2, "bytes": 100, "seconds": 0.002})
    telemetry.spool_event("evicted", {"route": "a", "reason": "cap", "n": 4})
    telemetry.spool_event("purged", {"n": 2})
    telemetry.decided("a", "student", "unsure", 1)
    telemetry.corrected("a", "changed", 1)
    telemetry.redacted("a", "email", 1)
    telemetry.tier_answered("t", 2, 0.1)
    telemetry.tier_refused("t", "too_long", 1)
    telemetry.tier_failed("t", "timeout")
    telemetry.tier_down("t", "timeout")
    telemetry.tier_tokens("t", 10, 2)
    telemetry.tier_up("t")
    telemetry.tier_recalled("t", 1)
    telemetry.observe("gatewayd.tier.wire", lambda: {("t",): 1.0})
    telemetry.audit_event("written", 1)
    telemetry.audit_event("dropped", 1)
    telemetry.audit_event("torn", 1)
    telemetry.lessons_event("a", "kept", 1)
    telemetry.lessons_event("a", "full", 1)
    telemetry.sent("s", "a", 2, 100, 0.1)
    telemetry.retried("s", "a", "timeout", 1.0)
    telemetry.refused("s", "a", 1)
    telemetry.away("s", "timeout")
    telemetry.source_event("connected", {})
    telemetry.source_event("lost", {"cause": "eof"})
    telemetry.source_event("retry", {"delay_s": 1.0})
    telemetry.commanded("obeyed")
    telemetry.web_denied("token")
    telemetry.web_changed("requeued", 1)
    telemetry.sparkplug_event("a", "gaps", 1)
    telemetry.model_event("m", "loaded")
    telemetry.generated("m", 0.5)
    telemetry.observe("gatewayd.llm.tokens", lambda: {("m", "input"): 10.0})
    telemetry.loop_lagged(0.01)
    telemetry.observe("gatewayd.model.calls", lambda: {("m",): 1.0})
    telemetry.observe("hw.energy", lambda: {("intel-rapl:0", "package-0", "cpu"): 1.0})
    telemetry.observe("hw.host.energy", lambda: {("hwmon3/in1", "VDD_IN"): 1.0})
    telemetry.observe("gatewayd.model.refused", lambda: {("a", "hot"): 1.0})
    telemetry.observe("gatewayd.model.unloads", lambda: {("m", "idle"): 1.0})
    telemetry.observe("gatewayd.llm.waited", lambda: {("m",): 1.0})
    telemetry.observe("gatewayd.llm.preempted", lambda: {("m",): 1.0})
    telemetry.observe("gatewayd.llm.prefixes", lambda: {("m", "file"): 1.0})
    telemetry.observe("gatewayd.llm.refused", lambda: {("m", "deadline"): 1.0})
    telemetry.observe("gatewayd.uplink.wire", lambda: {("s",): 1.0})
    telemetry.observe("gatewayd.spool.written", lambda: 1.0)
    telemetry.observe("gatewayd.process.written", lambda: 1.0)
    for name, instrument in INSTRUMENTS.items():
        if instrument.kind == "gauge" and name not in ("gatewayd.build.info", "gatewayd.sink.reachable"):
            labels = tuple("x" for _ in instrument.attributes)
            telemetry.observe(name, lambda labels=labels: {labels: 7.0})


def test_every_metric_of_the_table_is_on_the_page_under_its_documented_name(telemetry: Telemetry) -> None:
    touch_everything(telemetry)

    names = {name for name, _ in samples(telemetry)}

    wanted = {
        instrument.prometheus_name + ("_count" if instrument.kind == "histogram" else "")
        for instrument in INSTRUMENTS.values()
    }
    extra = {name for name in names if not name.endswith(("_bucket", "_sum"))}
    assert wanted == extra


def test_every_metric_has_the_attributes_it_is_documented_with(telemetry: Telemetry) -> None:
    touch_everything(telemetry)

    by_name = {name.removesuffix("_count"): {label for label, _ in labels} for name, labels in samples(telemetry)}

    for instrument in INSTRUMENTS.values():
        documented = {name.replace(".", "_") for name in (*instrument.attributes, *instrument.fixed)}
        assert by_name[instrument.prometheus_name] == documented


def test_counts_add_up_per_attribute_values(telemetry: Telemetry) -> None:
    telemetry.dropped("a", "queue_full", 2)
    telemetry.dropped("a", "queue_full", 3)
    telemetry.dropped("b", "late", 1)

    found = samples(telemetry)

    assert found["gatewayd_messages_dropped_total", (("reason", "queue_full"), ("route", "a"))] == 5
    assert found["gatewayd_messages_dropped_total", (("reason", "late"), ("route", "b"))] == 1
    assert telemetry.total("gatewayd.messages.dropped", "a", "queue_full") == 5


def test_a_handler_that_makes_up_reasons_does_not_grow_the_daemon() -> None:
    count = Count()

    for number in range(5000):
        count.add(("a", f"reason {number}"), 1)

    assert len(count.values) <= 1001
    assert sum(count.values.values()) == 5000


def test_counting_from_many_threads_loses_nothing() -> None:
    count = Count()

    def add() -> None:
        for _ in range(5000):
            count.add(("a",), 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert count.values == {("a",): 20000}


def test_a_gauge_reads_its_callback_when_the_page_is_asked_for(telemetry: Telemetry) -> None:
    waiting = {("a",): 1.0}
    telemetry.observe("gatewayd.queue.messages", lambda: waiting)
    before = samples(telemetry)
    waiting["a",] = 9.0

    after = samples(telemetry)

    key = ("gatewayd_queue_messages", (("route", "a"),))
    assert (before[key], after[key]) == (1.0, 9.0)


def test_only_what_is_in_the_table_can_be_observed(telemetry: Telemetry) -> None:
    with pytest.raises(KeyError):
        telemetry.observe("gatewayd.made.up", lambda: 1.0)
    with pytest.raises(ValueError, match="histogram"):
        telemetry.observe("gatewayd.loop.lag", lambda: 1.0)


def test_a_sink_is_reachable_until_it_goes_away_and_when_it_is_back(telemetry: Telemetry) -> None:
    seen = []
    for happens in (
        lambda: telemetry.sent("s", "a", 1, 1, 0.1),
        lambda: telemetry.away("s", "timeout"),
        lambda: telemetry.back("s", 5.0, 3),
    ):
        happens()
        seen.append((samples(telemetry)["gatewayd_sink_reachable", (("sink", "s"),)], telemetry.reachable("s")))

    assert seen == [(1.0, True), (0.0, False), (1.0, True)]
    assert telemetry.reachable("never used") is None


def test_the_figures_of_loaded_models_are_read_when_the_page_is_asked_for(telemetry: Telemetry) -> None:
    figures = {"calls": 2.0, "tokens_in": 30.0, "tokens_cached": 20.0, "tokens_out": 5.0, "resident_bytes": 4096.0}
    telemetry.observe_models(lambda: {"gemma": figures, "pumps": {"calls": 7.0}})

    found = samples(telemetry)

    tokens = {dict(labels)["type"]: n for (name, labels), n in found.items() if name == "gatewayd_llm_tokens_total"}
    assert tokens == {"input": 30.0, "cached": 20.0, "output": 5.0}
    assert found["gatewayd_model_calls_total", (("model", "pumps"),)] == 7.0
    assert [n for (name, _), n in found.items() if name == "gatewayd_worker_memory_bytes"] == [4096.0]


def test_what_handlers_tell_of_themselves_are_metrics_by_route(telemetry: Telemetry) -> None:
    told = {"logs": {"cache_hits_total": 3.0, "cached_texts": 2.0}, "lines": {"cached_texts": 1.0}, "plain": {}}
    telemetry.observe_handlers(lambda: told)
    told["logs"]["cache_hits_total"] = 5.0

    found = samples(telemetry)

    assert found["gatewayd_handler_cache_hits_total", (("route", "logs"),)] == 5.0
    assert found["gatewayd_handler_cached_texts", (("route", "logs"),)] == 2.0
    assert found["gatewayd_handler_cached_texts", (("route", "lines"),)] == 1.0


def test_every_public_method_is_documented() -> None:
    methods = [each for name, each in inspect.getmembers(Telemetry, inspect.isfunction) if not name.startswith("_")]

    assert [method.__name__ for method in methods if not method.__doc__] == []
