"""Pauses that a far side asked for (Retry-After), kept over restarts on the age clock: who asks again too early is
turned away again, and for longer.
"""

import apsw

from gatewayd.spool.ages import Ages
from gatewayd.spool.sql import rows
from gatewayd.spool.sums import fields_sum

_PUT = (
    "INSERT INTO holds VALUES (?, ?, ?) ON CONFLICT (sink) "
    "DO UPDATE SET until_age_s = excluded.until_age_s, sum = excluded.sum"
)


class Holds:
    """The table `holds`. Changed on the writer thread; `rest_s` is for any."""

    def __init__(self, ages: Ages) -> None:
        self._ages = ages
        self._until_s: dict[str, float] = {}

    def load(self, connection: apsw.Connection) -> None:
        """Remember what is on disk; what is damaged there is asked for anew by the far side."""
        held = rows(connection, "SELECT sink, until_age_s, sum FROM holds")
        self._until_s = {sink: until_s for sink, until_s, sum_ in held if fields_sum(sink, until_s) == sum_}

    def put(self, connection: apsw.Connection, sink: str, delay_s: float) -> None:
        """Nothing is to be sent to the sink for so long. Within a transaction; should that fail, the hold is not kept
        over a restart, and no harm is done."""
        now_s = self._ages.now_s()
        over = [known for known, until_s in self._until_s.items() if until_s <= now_s and known != sink]
        for known in over:
            del self._until_s[known]
        connection.executemany("DELETE FROM holds WHERE sink = ?", [(known,) for known in over])
        until_s = self._until_s[sink] = max(now_s + delay_s, self._until_s.get(sink, 0.0))
        connection.execute(_PUT, (sink, until_s, fields_sum(sink, until_s)))
        self._ages.save()

    def rest_s(self, sink: str) -> float:
        """How much of the sink's pause is left; 0 for none."""
        until_s = self._until_s.get(sink)
        return 0.0 if until_s is None else max(0.0, until_s - self._ages.now_s())
