"""How much of the writer's time upkeep may take. Pure: time comes in as an argument.

Upkeep is done in steps. After a step the writer rests for so many times what it took that no more than the share is
spent on it, and the next one is made longer or shorter so that a message that comes just then waits about as long as it
would for another message's commit.
"""

_SHARE = 0.1  # of the time, while messages come
_PATIENCE_S = 0.005  # a step may take this long, or
_COMMITS = 2.0  # as long as so many commits on this disk: most of it is the sync, whatever the number of pages
_MIN_PAGES = 64
_SMOOTH = 0.1  # weight of the newest commit


class Duty:
    """When the next step is due, and how large it may be."""

    def __init__(self, max_pages: int) -> None:
        self._max_pages = max_pages
        self.n_pages = min(_MIN_PAGES, max_pages)
        self.due_at_s = 0.0
        self._commit_s = _PATIENCE_S / _COMMITS

    def committed(self, seconds: float) -> None:
        """A group of works took so long to write."""
        self._commit_s += _SMOOTH * (seconds - self._commit_s)

    def took(self, seconds: float, now_s: float, *, is_busy: bool) -> None:
        """A step ended at `now_s` after `seconds`; `is_busy`: messages are coming."""
        patience_s = max(_PATIENCE_S, _COMMITS * self._commit_s)
        if seconds > patience_s:
            self.n_pages = max(min(_MIN_PAGES, self._max_pages), self.n_pages // 2)
        elif seconds < patience_s / 2:
            self.n_pages = min(self._max_pages, self.n_pages * 2)
        rests = (1 - _SHARE) / _SHARE if is_busy else 1.0
        self.due_at_s = now_s + rests * seconds
