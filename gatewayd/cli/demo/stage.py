"""What stands behind the show: the broker and the daemon, processes of their own, and the spool on disk."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gatewayd.cli.demo.config import Ports
from gatewayd.errors import GatewaydError
from gatewayd.spool.books import Books
from gatewayd.spool.reader import SpoolReader

_START_S = 60.0
_STOP_S = 40.0
_TAIL_BYTES = 1500


class StageError(GatewaydError):
    """The broker or the daemon ended while it was needed; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the show."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def tell(self, letter: str) -> None:
        """A letter on its standard input; one that is gone hears nothing."""
        if self.process.stdin is not None and not self.process.stdin.is_closing():
            self.process.stdin.write(letter.encode())

    async def heard(self) -> str:
        """The next line of its standard output; "" at the end."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode(errors="replace").strip()

    async def watch(self) -> None:
        """Until cancelled. Raises StageError when the process ends before that."""
        raise self.ended(await self.process.wait())

    def ended(self, status: int | None) -> StageError:
        """Why the show cannot go on."""
        said = self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return StageError(
            f"{self.name} ended with status {status}; its log ({self.log}) ends with:\n{said or '(empty)'}"
        )


@asynccontextmanager
async def broker(port: int, folder: Path) -> AsyncIterator[Child]:
    """An MQTT broker that listens on `port`. Raises StageError when it does not come up."""
    command = ["gatewayd.cli.demo.broker", str(port)]
    async with _child("the broker", command, folder / "broker.log") as child:
        assert child.process.stdout is not None
        async with asyncio.timeout(_START_S):
            if not await child.process.stdout.readline():
                raise child.ended(await child.process.wait())
        yield child


@asynccontextmanager
async def daemon(config: Path, ports: Ports, folder: Path) -> AsyncIterator[Child]:
    """The daemon, subscribed. Raises StageError when it does not come up. It is stopped cleanly on the way out."""
    command = ["gatewayd.cli.demo.daemon", str(config)]
    async with _child("the daemon", command, folder / "gatewayd.log") as child:
        async with asyncio.timeout(_START_S):
            while not await _is_subscribed(ports.web):
                if child.process.returncode is not None:
                    raise child.ended(child.process.returncode)
                await asyncio.sleep(0.05)
        yield child
        if child.process.returncode is None:
            child.process.terminate()
            async with asyncio.timeout(_STOP_S):
                await child.process.wait()


async def _is_subscribed(port: int) -> bool:
    import aiohttp

    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/status") as response:
            return bool((await response.json())["broker"]["subscribed"])
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def _child(name: str, module: Sequence[str], log: Path) -> AsyncIterator[Child]:
    """A process that does not outlive us: it ends when its standard input closes, and is killed on the way out."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for us: the broker must outlive the daemon
        )
    try:
        yield Child(name, process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def read_books(folder: Path) -> Books:
    """The books as they are on disk."""
    with SpoolReader.open(folder / "state" / "spool.db") as reader:
        return reader.books()


def n_pending(folder: Path) -> int:
    """Results that wait for the cloud."""
    return sum(book["pending"] for sinks in read_books(folder).results.values() for book in sinks.values())


def free_ports(n: int) -> list[int]:
    """`n` ports on loopback that were free a moment ago."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
