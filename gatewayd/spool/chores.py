"""What the writer thread does now and then beside its work: expire, report, carry out orders.

A chore that is due runs in a transaction of its own. It does a bounded amount at a time and is due again when there is
more, so that nobody who waits for a commit waits for it.
"""

from typing import Protocol

CHORES_EVERY_S = 1.0


class Chore(Protocol):
    """One kind of upkeep. Both methods are called on the writer thread."""

    def is_due(self, now_s: float) -> bool:
        """Whether there is something to do at `now_s` (monotonic); called once a second and cheap."""

    def run(self) -> None:
        """Do some of it, within a transaction that has begun. What fails is rolled back and tried again later."""
