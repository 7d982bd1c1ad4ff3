"""The http tier, and what every tier outside of the box does with an answer, with none, and with nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from gatewayd.cascade.verdict import Refusal, Verdict
from gatewayd.config.links import Tls
from gatewayd.config.tiers import HttpTier
from gatewayd.errors import ConfigError, TierMisconfigured, TierUnavailable
from gatewayd.ports import TierClient
from tests.sim.tier_servers import (
    HANG_UP,
    LABELS,
    NEVER,
    HttpTierServer,
    Scripted,
    TierRig,
    asking,
    question,
    questions,
)


@pytest.fixture
async def server() -> AsyncIterator[HttpTierServer]:
    server = HttpTierServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def rig(server: HttpTierServer) -> AsyncIterator[TierRig]:
    async with asking(HttpTier(url=server.url, max_batch=4, max_answer_bytes=4096, place="site")) as rig:
        yield rig


def verdict(answer: Verdict | Refusal) -> Verdict:
    assert isinstance(answer, Verdict), answer
    return answer


async def test_a_question_is_a_cloudevent_and_its_answer_a_verdict(server: HttpTierServer, rig: TierRig) -> None:
    server.say = lambda event: {"label": "faulty", "scores": {"ok": 0.1, "faulty": 0.9}, "model": "m", "tokens_in": 7}

    [answer] = await rig.client.ask([question(value={"text": "hot", "rows": [1, 2]})])

    assert server.requests == [
        [
            {
                "specversion": "1.0",
                "id": "m-1",
                "source": "/gateways/gw/tiers/far",
                "type": "dev.gatewayd.question",
                "subject": "pumps/7/log",
                "time": "2025-11-21T11:20:00.000Z",
                "datacontenttype": "application/json",
                "data": {
                    "value": {"text": "hot", "rows": [1, 2]},
                    "labels": list(LABELS),
                    "first": {"label": "ok", "scores": {"ok": 0.6}, "confidence": 0.6, "tier": "student"},
                },
            }
        ]
    ]
    assert server.headers[0]["Content-Type"] == "application/cloudevents-batch+json"
    answer = verdict(answer)
    assert (answer.tier, answer.label, answer.confidence, answer.model) == ("far", "faulty", 0.9, "m")
    assert answer.n_bytes > 500
    assert rig.report.tokens == (7, 0)
    assert rig.client.usual_latency_ms is not None


async def test_it_is_a_tier_client(rig: TierRig) -> None:
    client: TierClient = rig.client

    assert (client.name, client.place, client.usual_latency_ms) == ("far", "site", None)


async def test_many_questions_become_several_requests_and_answers_keep_their_order(
    server: HttpTierServer, rig: TierRig
) -> None:
    server.say = lambda event: {"label": "ok", "confidence": 1.0, "model": event["id"]}

    answers = await rig.client.ask(questions(10))

    assert [len(ids) for ids in server.asked_ids] == [4, 4, 2]
    assert [verdict(answer).model for answer in answers] == [f"m-{index}" for index in range(10)]
    assert rig.report.n_answered == 10


async def test_the_same_message_asked_about_twice_gets_two_answers(server: HttpTierServer, rig: TierRig) -> None:
    answers = await rig.client.ask([question(), question(value="another view of it")])

    assert [verdict(answer).label for answer in answers] == ["faulty", "faulty"]


async def test_answers_may_come_in_any_order(server: HttpTierServer, rig: TierRig) -> None:
    said = [{"id": "m-1", "label": "faulty"}, {"id": "unasked", "label": "ok"}, {"id": "m-0", "label": "ok"}]
    server.script.append(Scripted(body=json.dumps(said)))

    answers = await rig.client.ask(questions(2))

    assert [verdict(answer).label for answer in answers] == ["ok", "faulty"]


async def test_an_id_that_is_missing_is_asked_again_and_given_up_the_third_time(
    server: HttpTierServer, rig: TierRig
) -> None:
    server.say = lambda event: None if event["id"] == "m-1" else {"label": "ok"}

    answers = await rig.client.ask(questions(3))

    assert server.asked_ids == [["m-0", "m-1", "m-2"], ["m-1"], ["m-1"]]
    assert answers[1] == Refusal(reason="no_answer", detail="left out of 3 answers")
    assert [verdict(answers[index]).label for index in (0, 2)] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"label": "a unicorn"}, "unknown_label"),
        ({"label": ""}, "no_answer"),
        ({"label": "ok", "confidence": 1.5}, "bad_scores"),
        ({"label": "ok", "confidence": -0.1}, "bad_scores"),
        ({"label": "ok", "scores": {"ok": 1e300}}, "bad_scores"),
        ({"label": "ok", "confidence": float("nan")}, "bad_scores"),
        ({"label": "ok", "scores": {"ok": 0.5, "faulty": float("inf")}}, "bad_scores"),
        ({"label": "ok", "tokens_in": -1}, "bad_usage"),
        ({"label": "ok", "cost": -1}, "bad_usage"),
        ({"refused": "nobody can tell"}, "refused"),
    ],
)
async def test_an_answer_that_makes_no_sense_refuses_its_question_alone(
    server: HttpTierServer, rig: TierRig, said: dict[str, object], reason: str
) -> None:
    server.say = lambda event: said if event["id"] == "m-1" else {"label": "ok"}

    answers = await rig.client.ask(questions(3))

    assert isinstance(answers[1], Refusal)
    assert answers[1].reason == reason
    assert rig.report.refusals == [reason]
    assert [verdict(answers[index]).label for index in (0, 2)] == ["ok", "ok"]


@pytest.mark.parametrize(
    "body",
    [
        "<html>Please sign in to the guest network</html>",
        "",
        '{"label": "ok"}',
        '[{"id": "m-1", "label": 7}]',
        '[{"label": "ok"}]',
        b"\xff\xfe",
    ],
)
async def test_what_is_no_answer_at_all_refuses_nothing_and_an_operator_is_told(
    server: HttpTierServer, rig: TierRig, body: str | bytes
) -> None:
    server.script.append(Scripted(body=body))

    with pytest.raises(TierMisconfigured) as caught:
        await rig.client.ask([question()])

    assert "check `url`" in caught.value.hint
    assert "sign in" not in str(caught.value)
    assert rig.report.turns == ["down: misconfigured"]


@pytest.mark.parametrize("status", [301, 401, 402, 403, 404, 405, 407, 415])
async def test_being_turned_away_is_no_fault_of_a_question(server: HttpTierServer, rig: TierRig, status: int) -> None:
    server.script.append(Scripted(status))

    with pytest.raises(TierMisconfigured) as caught:
        await rig.client.ask(questions(3))

    assert str(status) in str(caught.value)
    assert caught.value.hint
    assert (len(server.requests), rig.client.state, rig.client.reason) == (1, "down", "misconfigured")


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_a_tier_that_is_away_is_asked_again_later(server: HttpTierServer, rig: TierRig, status: int) -> None:
    server.script.append(Scripted(status))

    with pytest.raises(TierUnavailable) as caught:
        await rig.client.ask(questions(3))

    assert type(caught.value) is TierUnavailable
    assert caught.value.retry_after_s == 0.5  # a draw of one half below a ceiling of one second
    assert rig.report.failures == ["unavailable"]


async def test_a_lost_connection_and_nobody_listening_are_the_same(server: HttpTierServer, rig: TierRig) -> None:
    server.script.append(HANG_UP)
    with pytest.raises(TierUnavailable):
        await rig.client.ask([question()])
    await server.stop()
    await rig.clock.advance(1.0)

    with pytest.raises(TierUnavailable):
        await rig.client.ask([question()])

    assert rig.report.turns == ["down: unavailable"]


async def test_an_answer_that_takes_too_long_is_none(server: HttpTierServer) -> None:
    server.script.append(NEVER)
    async with asking(HttpTier(url=server.url, timeout_s=0.2)) as rig:
        with pytest.raises(TierUnavailable, match=r"within 0\.2 s"):
            await rig.client.ask(questions(3))

        assert rig.report.turns == ["down: timeout"]
        assert rig.client.usual_latency_ms == 200.0


async def test_a_request_that_is_too_large_is_split_until_it_fits(server: HttpTierServer, rig: TierRig) -> None:
    await rig.client.ask([question()])
    server.max_request_bytes = len(json.dumps(server.requests[0])) * 5 // 2

    answers = await rig.client.ask(questions(4))

    assert [verdict(answer).label for answer in answers] == ["faulty"] * 4
    assert [len(ids) for ids in server.asked_ids[1:]] == [4, 2, 2]


async def test_one_question_that_is_too_large_is_refused_alone(server: HttpTierServer, rig: TierRig) -> None:
    server.max_request_bytes = 2000
    asked = questions(3)
    asked[1] = question("large", "x" * 3000)

    answers = await rig.client.ask(asked)

    assert [isinstance(answer, Refusal) for answer in answers] == [False, True, False]
    assert answers[1] == Refusal(reason="too_large", detail="HTTP 413")


@pytest.mark.parametrize("status", [400, 409, 410, 422])
async def test_a_refused_request_is_halved_until_the_refused_question_stands_alone(
    server: HttpTierServer, rig: TierRig, status: int
) -> None:
    server.fault = lambda events: Scripted(status, "not this one") if "m-2" in str(events) else None

    answers = await rig.client.ask(questions(4))

    assert answers[2] == Refusal(reason="refused", detail=f"HTTP {status}: not this one")
    assert [verdict(answers[index]).label for index in (0, 1, 3)] == ["faulty"] * 3
    assert rig.client.state == "up"


async def test_an_answer_without_end_is_not_read_to_its_end(server: HttpTierServer, rig: TierRig) -> None:
    server.fault = lambda events: Scripted(body="[" + " " * 5_000_000 + "]")

    answers = await rig.client.ask(questions(2))

    assert [answer.reason for answer in answers if isinstance(answer, Refusal)] == ["answer_too_large"] * 2
    assert rig.client.sent_bytes < 1_000_000


async def test_neither_token_nor_query_appears_in_a_message(server: HttpTierServer) -> None:
    config = HttpTier(url=f"{server.url}?sig=s1gnature")
    async with asking(config, token="s3cret-token") as rig:
        server.script.append(Scripted(400, "s3cret-token sig=s1gnature"))
        [refusal] = await rig.client.ask([question()])
        server.script.append(Scripted(401, "s3cret-token"))
        with pytest.raises(TierMisconfigured) as caught:
            await rig.client.ask([question()])

    assert server.headers[0]["Authorization"] == "Bearer s3cret-token"
    said = f"{refusal} {caught.value} {caught.value.hint}"
    assert "s3cret" not in said
    assert "s1gnature" not in said


async def test_answers_that_came_before_a_failure_are_not_asked_for_again(server: HttpTierServer, rig: TierRig) -> None:
    server.fault = lambda events: Scripted(503) if len(server.requests) == 2 else None
    asked = questions(6)
    with pytest.raises(TierUnavailable) as caught:
        await rig.client.ask(asked)
    await rig.clock.advance(caught.value.retry_after_s or 0.0)

    answers = await rig.client.ask(asked)

    assert [verdict(answer).label for answer in answers] == ["faulty"] * 6
    assert server.asked_ids == [["m-0", "m-1", "m-2", "m-3"], ["m-4", "m-5"], ["m-4"], ["m-5"]]


async def test_answers_that_came_before_a_call_was_cancelled_are_not_asked_for_again(
    server: HttpTierServer, rig: TierRig
) -> None:
    server.fault = lambda events: NEVER if len(server.requests) == 2 else None
    asked = questions(6)
    async with asyncio.TaskGroup() as tasks:
        asking_ = tasks.create_task(rig.client.ask(asked))
        while rig.report.n_answered < 4 or len(server.requests) < 2:
            await asyncio.sleep(0.001)
        asking_.cancel()

    answers = await rig.client.ask(asked)

    assert [verdict(answer).label for answer in answers] == ["faulty"] * 6
    assert server.asked_ids[-1] == ["m-4", "m-5"]


async def test_no_questions_no_request(server: HttpTierServer, rig: TierRig) -> None:
    assert await rig.client.ask([]) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (HttpTier(url="https://user:password@far.example/"), "tiers.far.url"),
        (HttpTier(url="https://far.example/", tls=Tls(ca_file="/nowhere.pem")), "tiers.far.tls.ca_file"),
    ],
)
def test_a_tier_that_cannot_be_reached_as_it_is_written_is_a_mistake_in_the_config(config: HttpTier, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TierRig(config)

    assert caught.value.key == key
    assert "password" not in str(caught.value)
