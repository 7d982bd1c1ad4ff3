"""The demo's daemon: what `gatewayd run` runs, and one switch on its page: *unplug the cloud*.

python -m gatewayd.cli.demo.daemon CONFIG

It stops when its standard input closes, as it does however the demo ends. On standard output it asks the demo to cut
the cloud or bring it back, a word a line; on standard input it is told, a letter each time, how that is: c for cut, u
for up. A daemon that was started in any other way has no such switch.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gatewayd.config.environment import read_environment, spare_cores
from gatewayd.service import run_service

CUT, UP = "c", "u"


class CloudSwitch:
    """On: the cloud is unplugged."""

    def __init__(self) -> None:
        self._is_cut = False

    def shown(self) -> dict[str, Any]:
        """As /flow has it."""
        return {"words": "Unplug the cloud", "on": self._is_cut}

    def set(self, wanted: bool, /) -> None:
        """Ask for it."""
        os.write(1, (CUT if wanted else UP).encode() + b"\n")

    def told(self, letter: str) -> None:
        """How it is now."""
        self._is_cut = letter == CUT


def _listen(switch: CloudSwitch) -> None:
    while heard := os.read(0, 1024):  # not sys.stdin: its lock, held at exit, would abort the process
        switch.told(heard.decode(errors="replace")[-1])
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    cloud = CloudSwitch()
    threading.Thread(target=_listen, args=(cloud,), name="standard input", daemon=True).start()
    spare_cores()
    asyncio.run(run_service(Path(sys.argv[1]), read_environment(), {"cloud": cloud}))
