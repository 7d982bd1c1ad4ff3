"""Any byte that is flipped, any line that is removed, swapped or put in, is found; so it is in an export."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.cascade.chain import GENESIS, Walk, left_out, seal
from gatewayd.cascade.chain_files import HEAD, Head, examine, file_name

N_LINES = 12
PER_FILE = 4

PATIENT = settings(deadline=None, max_examples=60)  # files are written: how long that takes is the disk's affair

Lines = list[bytes]


def chain(n: int = N_LINES) -> tuple[Lines, str]:
    lines, prev = [], GENESIS
    for seq in range(1, n + 1):
        record = {
            "seq": seq,
            "time": 1.5 * seq,
            "route": f"r{seq % 2}",
            "label": "ü" * (seq % 3),
            "scores": {"a": 1e-7},
        }
        line, prev = seal(record, prev)
        lines.append(line)
    return lines, prev


LINES, LAST_HASH = chain()


def problem(lines: Lines) -> str:
    """What is found of these lines in files of PER_FILE, beside the head of the untouched ones."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in range(0, len(lines), PER_FILE):
            (folder / file_name(number // PER_FILE + 1)).write_bytes(b"".join(lines[number : number + PER_FILE]))
        (folder / HEAD).write_bytes(f'{{"seq":{N_LINES},"hash":"{LAST_HASH}"}}'.encode())
        finding = examine(folder)
        assert finding.head == Head(seq=N_LINES, hash=LAST_HASH)
        return finding.problem


def export_holds(lines: Lines) -> bool:
    walk = Walk(is_export=True)
    return all(not isinstance(walk.step(line), str) for line in lines)


places = st.integers(0, N_LINES - 1)


def test_the_untouched_trail_holds() -> None:
    assert problem(LINES) == ""


@given(at=places, byte=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_any_flipped_byte_is_found(at: int, byte: int, flip: int) -> None:
    changed = bytearray(LINES[at])
    changed[byte % len(changed)] ^= flip

    assert problem([*LINES[:at], bytes(changed), *LINES[at + 1 :]])


@given(first=places, n=st.integers(1, N_LINES))
@PATIENT
def test_any_removed_line_is_found(first: int, n: int) -> None:
    assert problem([*LINES[:first], *LINES[first + n :]])


@given(one=places, other=places)
@PATIENT
def test_any_two_swapped_lines_are_found(one: int, other: int) -> None:
    swapped = list(LINES)
    swapped[one], swapped[other] = swapped[other], swapped[one]

    assert bool(problem(swapped)) == (one != other)


@given(at=st.integers(0, N_LINES), what=places, is_forged=st.booleans())
@PATIENT
def test_any_line_put_in_is_found(at: int, what: int, is_forged: bool) -> None:
    before = GENESIS if at == 0 else LINES[at - 1][-68:-4].decode()
    line = seal({"seq": at + 1, "time": 0.0}, before)[0] if is_forged else LINES[what]

    assert problem([*LINES[:at], line, *LINES[at:]])


@given(at=places)
@PATIENT
def test_a_line_that_stands_for_one_left_out_is_none_of_a_trail(at: int) -> None:
    assert problem([*LINES[:at], left_out(LINES[at]), *LINES[at + 1 :]])


@given(shown=st.sets(places), begin=places, end=places)
@PATIENT
def test_an_export_of_any_lines_holds(shown: set[int], begin: int, end: int) -> None:
    lines = [line if at in shown else left_out(line) for at, line in enumerate(LINES)]

    assert export_holds(lines[begin:end])


@given(shown=st.sets(places), at=places, byte=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_any_flipped_byte_of_an_export_is_found(shown: set[int], at: int, byte: int, flip: int) -> None:
    lines = [line if number in shown else left_out(line) for number, line in enumerate(LINES)]
    changed = bytearray(lines[at])
    changed[byte % len(changed)] ^= flip

    assert not export_holds([*lines[:at], bytes(changed), *lines[at + 1 :]])


@given(shown=st.sets(places), at=st.integers(1, N_LINES - 2))
@PATIENT
def test_any_line_removed_from_within_an_export_is_found(shown: set[int], at: int) -> None:
    lines = [line if number in shown else left_out(line) for number, line in enumerate(LINES)]

    assert not export_holds([*lines[:at], *lines[at + 1 :]])
