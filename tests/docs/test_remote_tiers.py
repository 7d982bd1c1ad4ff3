"""The guide's server answers what the http tier asks."""

import asyncio
import re
import socket
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gatewayd.cascade.patterns import NAMED
from gatewayd.cascade.verdict import Refusal, Verdict
from gatewayd.config.tiers import HttpTier
from gatewayd.errors import TierUnavailable
from tests.sim.tier_servers import asking, question

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "remote-tiers.md"


async def test_the_server_of_the_guide_answers_questions(tmp_path: Path) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (tmp_path / "server.py").write_text(code)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (sys.executable, str(tmp_path / "server.py"), str(port))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asking(HttpTier(url=f"http://127.0.0.1:{port}/")) as rig:
            asked = [question("a", {"text": "hot"}), question("b", "calm"), question("c", "")]
            while True:
                try:
                    answers = await rig.client.ask(asked)
                    break
                except TierUnavailable as exc:  # it is starting
                    await asyncio.sleep(0.05)
                    await rig.clock.advance(exc.retry_after_s or 0.0)
    finally:
        process.kill()
        await process.wait()

    assert [answer.label for answer in answers if isinstance(answer, Verdict)] == ["faulty", "ok"]
    assert answers[2] == Refusal(reason="refused", detail="there is nothing to judge")


@pytest.mark.parametrize("name", NAMED)
def test_every_named_pattern_is_in_the_guide(name: str) -> None:
    assert f"| `{name}` |" in GUIDE.read_text()
