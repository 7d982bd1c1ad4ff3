"""The demo's daemon: `gatewayd run`, which also stops when its standard input closes, as it does however the demo ends.

python -m gatewayd.cli.demo.daemon CONFIG
"""

import os
import signal
import sys
import threading

from gatewayd.cli import main


def _stop_with_the_demo() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock, held at exit, would abort the process
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_stop_with_the_demo, name="standard input", daemon=True).start()
    sys.argv = ["gatewayd", "run", "--config", sys.argv[1]]
    main()
