"""When a sink refuses everything: is it the results, or the sink? Pure but for the clock it is given.

A far side with a wrong address, an old schema or a proxy in front may answer every result with a 4xx of the kind that
means "never", and believing it would turn a night's results into dead letters. So a lease of some size of which each
single result was refused is not buried at once: it waits, like one for a sink that is misconfigured. The refusals are
believed as soon as the sink has stored something of another route or share, or after `wait_s`: then they are buried,
for what is really bad must not stand in the way for ever. Invariant: a doubt ends.
"""

from gatewayd.errors import SinkMisconfigured
from gatewayd.ports import Clock, Share

Who = tuple[str, Share]

MIN_REFUSED = 8  # fewer results than this, all refused, may well be bad


class Doubt:
    """Whether refusals of one sink are believed. Used by the tasks of one event loop."""

    def __init__(self, *, wait_s: float, clock: Clock) -> None:
        self._wait_s = wait_s
        self._clock = clock
        self._since_s = 0.0
        self._doubted: set[Who] = set()  # routes or shares of which everything was refused
        self._believed: set[Who] = set()  # until the sink stores something of theirs

    @property
    def is_active(self) -> bool:
        """Whether a refusal is taken for the sink's own fault now."""
        if self._doubted and self._clock.monotonic() - self._since_s >= self._wait_s:
            self._end()
        return bool(self._doubted)

    def begins(self, who: Who, *, n_results: int, n_refused: int) -> bool:
        """A lease has been settled: whether its refusals are not to be believed yet."""
        if n_refused < max(MIN_REFUSED, n_results) or who in self._believed:
            return False
        self._doubted.add(who)
        self._since_s = self._clock.monotonic()
        return True

    def stored(self, who: Who) -> None:
        """The sink has stored something: what it refuses of others it refuses for good."""
        self._end()
        self._believed.discard(who)

    def _end(self) -> None:
        self._believed |= self._doubted
        self._doubted.clear()


def refuses_everything(why: str) -> SinkMisconfigured:
    """The error that stands for it; `why` is what the sink said last, of which the first word or two may be logged."""
    error = SinkMisconfigured(f"every result is refused, the last one with {why.partition(':')[0]}")
    error.hint = (
        "is this the right `url`, and are these the events it takes? They become dead letters after `refused_wait_s`"
    )
    return error
