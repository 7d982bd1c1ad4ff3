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
