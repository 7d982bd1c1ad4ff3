"""Budgets as the client keeps them with the real spool: over restarts, over kills, over midnight."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gatewayd.cascade.verdict import Refusal, Verdict
from gatewayd.config.tiers import HttpTier, OpenAITier
from gatewayd.errors import TierSpent
from tests.sim.clock import ManualClock
from tests.sim.openai_server import OpenAIServer
from tests.sim.real_spool import opened
from tests.sim.tier_servers import HttpTierServer, Scripted, asking, question, questions

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z


@pytest.fixture
async def server() -> AsyncIterator[HttpTierServer]:
    server = HttpTierServer()
    await server.start()
    yield server
    await server.stop()


async def test_a_day_allows_so_many_questions_whatever_the_restarts(server: HttpTierServer, tmp_path: Path) -> None:
    config = HttpTier(url=server.url, max_batch=4, max_calls_per_day=10)
    clock = ManualClock(NOON)
    for _ in range(3):
        async with opened(tmp_path) as spool, asking(config, book=spool.spending, clock=clock) as rig:
            for index in range(3):
                with suppress(TierSpent):
                    await rig.client.ask(questions(2 + index))
            with pytest.raises(TierSpent) as caught:
                await rig.client.ask(questions(11))
            assert caught.value.retry_after_s == 12 * 3600.0

    assert sum(map(len, server.asked_ids)) == 10


async def test_what_still_fits_into_a_day_is_asked(server: HttpTierServer) -> None:
    async with asking(HttpTier(url=server.url, max_batch=16, max_calls_per_day=5), clock=ManualClock(NOON)) as rig:
        with pytest.raises(TierSpent):
            await rig.client.ask(questions(8))
        await rig.clock.advance(12 * 3600.0)

        answers = await rig.client.ask(questions(8))

    assert [len(ids) for ids in server.asked_ids] == [4, 1, 3]  # the five that were answered are not asked again
    assert all(isinstance(answer, Verdict) for answer in answers)
    assert rig.client.state == "up"


async def test_failed_requests_cost_their_bytes_and_nothing_else(server: HttpTierServer) -> None:
    server.script.append(Scripted(503))
    async with asking(HttpTier(url=server.url, cost_per_call=1.0), clock=ManualClock(NOON)) as rig:
        with pytest.raises(Exception, match="503"):
            await rig.client.ask(questions(3))

        spent = rig.client.budget.spent()
        assert (spent.n_calls, spent.n_nanos) == (0, 0)
        assert spent.n_bytes == rig.client.sent_bytes > 500


async def test_bytes_are_those_on_the_wire(server: HttpTierServer) -> None:
    async with asking(HttpTier(url=server.url, max_batch=4), clock=ManualClock(NOON)) as rig:
        answers = await rig.client.ask(questions(10))

        assert rig.client.budget.spent().n_bytes == rig.client.sent_bytes
        told = sum(answer.n_bytes for answer in answers if isinstance(answer, Verdict))
        assert told == pytest.approx(rig.client.sent_bytes, rel=0.01)


async def test_a_limit_of_bytes_is_overrun_by_one_request_at_most(server: HttpTierServer) -> None:
    limit = 30_000
    server.say = lambda event: {"label": "ok", "why": "x" * 5000}  # far more than anybody would expect
    async with asking(HttpTier(url=server.url, max_batch=1, max_bytes_per_day=limit), clock=ManualClock(NOON)) as rig:
        with pytest.raises(TierSpent):
            await rig.client.ask(questions(50))

        one = rig.client.sent_bytes / len(server.requests)
        assert limit < rig.client.sent_bytes < limit + 2 * one


async def test_a_limit_of_tokens_holds_for_requests_side_by_side() -> None:
    server = OpenAIServer()
    server.usage = {"prompt_tokens": 5000, "completion_tokens": 1}  # a server with its own long prompt
    await server.start()
    try:
        config = OpenAITier(
            url=server.url, model="m", labels={"ok": "", "faulty": ""}, max_batch=8, max_tokens_per_day=20_000
        )
        async with asking(config, clock=ManualClock(NOON)) as rig:
            with pytest.raises(TierSpent):
                await rig.client.ask([question(f"m-{index}", labels=("ok", "faulty")) for index in range(50)])

            assert 20_000 - 5001 < rig.client.budget.spent().n_tokens <= 20_000 + 5001
    finally:
        await server.stop()


async def test_the_cost_that_an_answer_names_counts_and_not_the_price_list(server: HttpTierServer) -> None:
    server.say = lambda event: {"label": "ok", "cost": 0.25}
    async with asking(HttpTier(url=server.url, cost_per_call=1.0, max_batch=4), clock=ManualClock(NOON)) as rig:
        answers = await rig.client.ask(questions(4))

        assert rig.client.budget.spent().cost == 1.0
        assert [answer.cost for answer in answers if isinstance(answer, Verdict)] == [0.25] * 4


async def test_a_refused_question_was_worked_on_and_costs(server: HttpTierServer) -> None:
    server.script.append(Scripted(422))
    async with asking(HttpTier(url=server.url, cost_per_call=1.0), clock=ManualClock(NOON)) as rig:
        [answer] = await rig.client.ask([question()])

        assert isinstance(answer, Refusal)
        assert rig.client.budget.spent().cost == 1.0


async def test_a_process_that_is_killed_again_and_again_does_not_overrun_its_day(
    server: HttpTierServer, tmp_path: Path
) -> None:
    """Each process is killed as soon as the far side has its request: what nobody settled was spent."""
    code = """
        import asyncio, sys
        from pathlib import Path
        from gatewayd.config.tiers import HttpTier
        from gatewayd.errors import TierSpent
        from tests.sim.clock import ManualClock
        from tests.sim.real_spool import opened
        from tests.sim.tier_servers import asking, questions

        async def main():
            config = HttpTier(url=sys.argv[2], max_batch=4, max_calls_per_day=10)
            async with opened(Path(sys.argv[1])) as spool:
                async with asking(config, book=spool.spending, clock=ManualClock(1_795_262_400.0)) as rig:
                    try:
                        await rig.client.ask(questions(4))
                    except TierSpent:
                        sys.exit(3)

        asyncio.run(main())
    """
    program = tmp_path / "asks.py"
    program.write_text(textwrap.dedent(code))
    server.gate = asyncio.Event()

    statuses = [await _killed_when_it_asks(program, tmp_path, server) for _ in range(4)]

    assert statuses == [-signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL, 3]
    assert [len(ids) for ids in server.asked_ids] == [4, 4, 2]


async def _killed_when_it_asks(program: Path, folder: Path, server: HttpTierServer) -> int:
    """The exit status of a process that was killed with its request under way, or that made none."""
    n_before = len(server.requests)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = (sys.executable, str(program), str(folder), server.url)
    process = await asyncio.create_subprocess_exec(*command, cwd=root, env=environment)
    while len(server.requests) == n_before and process.returncode is None:
        await asyncio.sleep(0.01)
    if process.returncode is None:
        process.kill()
    return await process.wait()
