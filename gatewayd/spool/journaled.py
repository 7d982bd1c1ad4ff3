"""Reading the journal: raw messages that are not handled yet, oldest first. On the writer thread."""

from collections.abc import Sequence

from gatewayd.ports import JournalEntry
from gatewayd.spool.ages import Ages
from gatewayd.spool.damaged import Checked
from gatewayd.spool.migrations import route_range
from gatewayd.spool.positions import Positions


class Journaled:
    """Rows of `journal` as values. Both methods raise DamagedRowsError."""

    def __init__(self, checked: Checked, positions: Positions, ages: Ages) -> None:
        self._checked = checked
        self._positions = positions
        self._ages = ages

    def read(self, route: str, after: int, limit: int) -> list[JournalEntry]:
        """The route's entries after an id, oldest first."""
        route_id = self._positions.route_ids.get(route)
        if route_id is None:
            return []
        first, end = route_range(route_id)
        return [self._ages.entry(row) for row in self._checked.journal(max(first, after), end - 1, limit)]

    def get(self, route: str, ids: Sequence[int]) -> list[JournalEntry]:
        """The route's entries by id, in the order asked for; those that are gone are left out."""
        return [self._ages.entry(row) for row in self._checked.journal_rows(self._positions.own(route, ids))]
