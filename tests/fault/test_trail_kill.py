"""kill -9 of a process that writes the audit trail: the trail goes on, and what had reached the kernel is in it."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from gatewayd.cascade.chain_files import examine, lines, trail_files

ROOT = Path(__file__).parents[2]

# Tells on standard output what is on its way, a number a line, then what is in the files.
CHILD = """
import logging, sys, time
import structlog
from pathlib import Path
from gatewayd.cascade.trail import AuditTrail
from gatewayd.clock import SystemClock
from gatewayd.config.environment import Paths
from gatewayd.config.schema import Audit
from tests.sim.decisions import decision

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
root = Path(sys.argv[1])
written = 0
def count(event, n):
    global written
    if event == "written":
        written += n
        print(written, flush=True)
paths = Paths(gateway="g", config_dir=root, state_dir=root, spool=root / "s", models=root / "m")
config = Audit(max_file_bytes=65536, max_files=4, flush_s=0.05)
trail = AuditTrail(paths, config, SystemClock(), count)
trail.start()
for number in range(10**9):
    trail.record(decision(number, route=sys.argv[2]))
    time.sleep(0.0002)
"""


def run_and_kill(root: Path, route: str, n_told: int) -> int:
    """Let a process write until it has told `n_told` times that lines are written; how many those were."""
    command = [sys.executable, "-c", CHILD, str(root), route]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ}) as child:
        assert child.stdout is not None
        n_written = 0
        try:
            for _ in range(n_told):
                n_written = int(child.stdout.readline())
        finally:
            child.send_signal(signal.SIGKILL)
    return n_written


def test_a_process_that_is_killed_again_and_again_leaves_a_trail_that_verifies(tmp_path: Path) -> None:
    draw = random.Random(4)
    for run in range(6):
        n_written = run_and_kill(tmp_path, f"run{run}", draw.randrange(2, 60))

        finding = examine(tmp_path / "audit")
        assert finding.misfit is None
        assert finding.problem == ""
        in_files = b"".join(line for path in trail_files(tmp_path / "audit") for line in lines(path))
        kept = in_files.count(f'"route":"run{run}"'.encode())
        assert kept >= min(n_written, 80), "what had been handed to the kernel is there, but for files rotated away"
        assert b'"was_clean":false' in in_files or run == 0 or b'"event":"started"' not in in_files
    assert not list((tmp_path / "audit").glob("aside-*"))
