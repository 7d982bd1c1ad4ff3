"""The terminal: the picture drawn once a second and at each key; left as it was found, whatever ends it.

Escape sequences are those of every terminal since the VT100 and xterm (ECMA-48; xterm's alternate screen, 1049).
"""

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from gatewayd.cli.daemon_link import DaemonAway, DaemonLink, ask, follow, link_to, say_away, say_no_way
from gatewayd.cli.top.picture import PANELS, View, picture, plain_line
from gatewayd.config.environment import read_environment

_EVERY_S = 1.0
_AGAIN_S = 2.0
_MAX_LOG = 200
_STYLES = {"bold": "1", "dim": "2", "good": "32", "warning": "33", "bad": "1;31", "chosen": "7"}
_KEYS = {"q": "quit", "\x1b[A": "up", "k": "up", "\x1b[B": "down", "j": "down", "\t": "panel", "\x1b[Z": "panel"}
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@dataclass(slots=True)
class Seen:
    """What the daemon has told so far."""

    flow: dict[str, Any]
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_MAX_LOG))
    view: View = field(default_factory=View)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def run_top(config_path: Path, *, once: bool) -> bool:
    """Until q or Ctrl-C. False when no daemon answers at the begin."""
    link = link_to(config_path)
    if link is None:
        say_no_way()
        return False
    try:
        asyncio.run(_top(link, once=once))
    except KeyboardInterrupt:
        return True
    except DaemonAway as error:
        say_away(error)
        return False
    return True


async def _top(link: DaemonLink, *, once: bool) -> None:
    flow = await ask(link, "/flow")
    if once:
        size = _size() if sys.stdout.isatty() else os.terminal_size((80, 24))
        for line in picture(flow, [], View(panel="results"), size.columns, size.lines)[:-1]:
            typer.echo(line.text.rstrip())
        return
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        await _plain(link)
        return
    seen = Seen(flow)
    with _terminal(seen):
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(_listen(link, seen), name="follow the flow"),
                tasks.create_task(_draw(seen), name="draw"),
            ]
            await seen.ended.wait()
            for helper in helpers:
                helper.cancel()


async def _plain(link: DaemonLink) -> None:
    """A line every second, for a pipe or a file."""
    while True:
        typer.echo(plain_line(await ask(link, "/flow")))
        await asyncio.sleep(_EVERY_S)


async def _listen(link: DaemonLink, seen: Seen) -> None:
    while True:
        try:
            async for name, event in follow(link):
                if name == "flow":
                    seen.flow, seen.view.message = event, ""
                    seen.changed.set()
                elif name == "log":
                    seen.log.append(event)
        except DaemonAway as error:
            seen.view.message = f"{error}; trying again"
            seen.changed.set()
            await asyncio.sleep(_AGAIN_S)


async def _draw(seen: Seen) -> None:
    color = not read_environment().variables.get("NO_COLOR")  # no-color.org
    while True:
        size = _size()
        lines = picture(seen.flow, seen.log, seen.view, size.columns, size.lines)
        # Erased before it is written: after a full line the cursor still stands on its last letter.
        shown = ["\x1b[K" + _styled(line.text, line.style, color=color) for line in lines]
        _write("\x1b[H" + "\r\n".join(shown) + "\x1b[J")
        seen.changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVERY_S):
                await seen.changed.wait()


def _styled(text: str, style: str, *, color: bool) -> str:
    if not style or (not color and style != "chosen"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _size() -> os.terminal_size:
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return os.terminal_size((80, 24))
    return size if size.columns and size.lines else os.terminal_size((80, 24))  # 0 x 0: a serial line


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _terminal(seen: Seen) -> Iterator[None]:
    """The alternate screen, keys one by one; and back, also after Ctrl-C."""
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    loop = asyncio.get_running_loop()
    try:
        tty.setcbreak(keys)  # Ctrl-C stays a signal
        _write(_ENTER)
        loop.add_reader(keys, _read_keys, keys, seen)
        yield
    finally:
        loop.remove_reader(keys)
        _write(_LEAVE)
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _read_keys(keys: int, seen: Seen) -> None:
    typed = os.read(keys, 64)
    if not typed:  # the terminal is gone
        seen.ended.set()
        return
    for key in _split(typed.decode(errors="replace")):
        press(seen, _KEYS.get(key, ""))


def _split(text: str) -> Iterator[str]:
    """Letters, and the escape sequences of arrows as one each."""
    while text:
        n = 3 if text.startswith("\x1b[") else 1
        yield text[:n]
        text = text[n:]


def press(seen: Seen, action: str) -> None:
    """What a key does."""
    view = seen.view
    if action == "quit":
        seen.ended.set()
    elif action in ("up", "down"):
        last = max(0, len(seen.flow["routes"]) - 1)
        view.chosen = min(last, max(0, view.chosen + (1 if action == "down" else -1)))
    elif action == "panel":
        view.panel = PANELS[(PANELS.index(view.panel) + 1) % len(PANELS)]
    seen.changed.set()
