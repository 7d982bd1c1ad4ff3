from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.config.schema import WindowLimits
from gatewayd.windows import Closed, Windows

LIMITS = st.builds(
    WindowLimits,
    every_s=st.none() | st.sampled_from([0.001, 0.1, 1.0, 7.3, 3600.0]),
    max_messages=st.integers(1, 4),
    max_bytes=st.integers(1, 100),
    grace_s=st.sampled_from([0.0, 0.1, 5.0]),
    late=st.sampled_from(["next", "drop", "bury"]),
    idle_close_s=st.sampled_from([0.5, 20.0]),
    max_open=st.integers(1, 3),
)
CLOCK = st.floats(0, 2e9) | st.floats(0, 50)
ANY_TIME = CLOCK | st.floats(allow_nan=True, allow_infinity=True)


class Step(NamedTuple):
    key: str
    time: float
    size: int
    now: float
    tick: float | None


STEPS = st.lists(st.builds(Step, st.sampled_from("abc"), ANY_TIME, st.integers(0, 60), CLOCK, st.none() | CLOCK))


def feed(windows: Windows, steps: list[Step], *, first_id: int = 0) -> tuple[list[Closed], list[int]]:
    closed: list[Closed] = []
    lost: list[int] = []
    for entry, step in enumerate(steps, start=first_id):
        placed = windows.add(entry, step.key, step.time, step.size, step.now)
        closed += placed.closed
        if placed.fate in ("drop", "bury"):
            lost.append(entry)
        if step.tick is not None:
            closed += windows.tick(step.tick)
    return closed, lost


@given(LIMITS, st.booleans(), STEPS)
def test_every_id_comes_out_in_one_window_or_was_told_to_be_late(
    limits: WindowLimits, event_time: bool, steps: list[Step]
) -> None:
    windows = Windows(limits, event_time=event_time)

    closed, lost = feed(windows, steps)
    closed += windows.flush()

    out = [entry for one in closed for entry in one.ids] + lost
    assert sorted(out) == list(range(len(steps)))
    assert not lost or (event_time and limits.late != "next")
    assert len(windows) == 0
    assert windows.deadline() is None


@given(LIMITS, st.booleans(), STEPS)
def test_a_window_keeps_its_bounds_and_its_limits(limits: WindowLimits, event_time: bool, steps: list[Step]) -> None:
    windows = Windows(limits, event_time=event_time)

    closed, _ = feed(windows, steps)
    assert len(windows) <= limits.max_open
    closed += windows.flush()

    for one in closed:
        assert 1 <= len(one.ids) <= limits.max_messages
        assert list(one.ids) == sorted(one.ids)
        assert {steps[entry].key for entry in one.ids} == {one.key}
        assert 0 <= one.late <= len(one.ids)
        assert one.start <= one.end
        if limits.every_s is not None and event_time:
            inside = [entry for entry in one.ids if one.start <= steps[entry].time < one.end]
            believed = [entry for entry in one.ids if 0 <= steps[entry].time <= steps[entry].now + limits.max_ahead_s]
            assert len(inside) >= len(believed) - one.late


@given(LIMITS, st.booleans(), STEPS)
def test_the_same_messages_again_give_the_same_windows(
    limits: WindowLimits, event_time: bool, steps: list[Step]
) -> None:
    first, second = Windows(limits, event_time=event_time), Windows(limits, event_time=event_time)

    assert feed(first, steps) == feed(second, steps)
    assert first.flush() == second.flush()


@given(LIMITS, STEPS, st.integers(0, 100))
def test_windows_rebuilt_from_what_a_crash_left_close_as_if_there_had_been_none(
    limits: WindowLimits, steps: list[Step], crash_after: int
) -> None:
    # By time of arrival, and the clock goes forward: what was closed has left the journal, what is open is fed again.
    steps = [step._replace(tick=None) for step in sorted(steps, key=lambda step: step.now)]
    whole = Windows(limits, event_time=False)
    expected = feed(whole, steps)[0] + whole.flush()

    before, _ = feed(Windows(limits, event_time=False), steps[:crash_after])
    gone = {entry for one in before for entry in one.ids}
    after = Windows(limits, event_time=False)
    for entry in range(len(steps)):
        if entry not in gone:
            step = steps[entry]
            before += after.add(entry, step.key, step.time, step.size, step.now).closed
    before += after.flush()

    def strip(closed: list[Closed]) -> list[tuple[object, ...]]:
        return sorted((one.key, one.start, one.end, one.ids) for one in closed)

    assert strip(before) == strip(expected)


@given(LIMITS, st.booleans(), STEPS)
def test_at_its_deadline_something_always_closes(limits: WindowLimits, event_time: bool, steps: list[Step]) -> None:
    windows = Windows(limits, event_time=event_time)
    feed(windows, steps)

    while (deadline := windows.deadline()) is not None:
        assert windows.tick(max(deadline, windows._clock)), "a worker would wake up for ever"
