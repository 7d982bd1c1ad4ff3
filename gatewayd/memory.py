"""Memory of this process: how much it is, and what the C library does with it.

glibc gives threads arenas of their own, each of which keeps what was freed in it. A daemon with a handful of threads
that seldom allocate at once pays for that with megabytes and gains nothing.
"""

import ctypes
import gc
import os

# How many new containers start a look for cycles (Python: 700), and how many such looks a wider one (10 and 10). A
# message makes a dozen that live for a few batches, and nearly none is ever in a cycle.
_COLLECT_AT = (10_000, 20, 20)
_M_ARENA_MAX = -8  # malloc.h of glibc; see mallopt(3)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")  # 4096 on most, 16384 on a Raspberry Pi 5


def share_one_arena() -> bool:
    """Let all threads allocate from one arena. False where the C library has no such thing (musl, macOS).

    To be called before threads are started; child processes are not affected.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, 1) == 1


def keep_for_good() -> None:
    """Take what there is now out of the cycle collector's sight, and let it look less often.

    To be called once, when all is started: modules and wiring are 90,000 objects that stay to the end, and going over
    them took 50 to 100 ms each time, 7 µs of a message's 45 at QoS 1 (docs/adr, "the short way in").
    """
    gc.freeze()
    gc.set_threshold(*_COLLECT_AT)


def resident_bytes() -> int:
    """Resident memory of this process, in bytes. Source: proc(5), /proc/self/statm counts pages."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - read at every collection
        return int(file.read().split()[1]) * _PAGE_BYTES


def give_back_freed() -> bool:
    """Give what was freed back to the kernel: after a model was unloaded, glibc would keep most of it for later.

    False where the C library has no malloc_trim(3). Takes milliseconds.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and malloc_trim(0) == 1
