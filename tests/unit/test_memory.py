"""One arena for all threads, as the C library itself reports it."""

import subprocess
import sys

import pytest

_SCRIPT = """
import ctypes, os, sys, threading
from gatewayd.memory import share_one_arena
if sys.argv[1] == "one":
    assert share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
ready = threading.Barrier(5)
def work():
    libc.malloc(100_000)
    ready.wait()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
ready.wait()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(os.dup(1), b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def n_arenas(how: str) -> int:
    command = [sys.executable, "-c", _SCRIPT, how]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return done.stdout.count(b"<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_all_threads_share_one_arena() -> None:
    assert n_arenas("each") > 1  # or there would be nothing to share

    assert n_arenas("one") == 1


def test_what_stays_to_the_end_is_out_of_the_cycle_collectors_sight() -> None:
    # In a process of its own: it would last for all the tests after this one.
    script = (
        "import gc; from gatewayd.memory import keep_for_good; keep_for_good();"
        "print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] > 700, gc.isenabled())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)

    assert found.stdout.split() == ["True", "True", "True"]
