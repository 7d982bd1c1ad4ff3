"""What a journal row remembers of an open escalation: the answers so far, and whom it waits for. Pure.

Invariant: a note is ours alone. A publisher's property of its name never gets into the journal (`without_note`), for
whoever could write one could speak for a tier.
"""

from collections.abc import Mapping

import msgspec

from gatewayd.cascade.verdict import Cause, Verdict
from gatewayd.ports import Clock, RawMessage

PROPERTY = "gatewayd-first"


class Born(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A moment on the clocks that can be compared with it later: over restarts, over boots where that is possible."""

    boot: str = ""
    boottime_s: float = 0.0
    time: float = 0.0  # seconds since the epoch
    is_synced: bool = False

    @classmethod
    def now(cls, clock: Clock) -> "Born":
        """This moment."""
        return cls(boot=clock.boot_id, boottime_s=clock.boottime(), time=clock.now(), is_synced=_is_synced(clock))

    def age_s(self, clock: Clock) -> float:
        """How long ago it was for certain, in seconds. Within one boot whatever the wall clock says; over boots by the
        wall clock where that was synchronized then and is now, and else what this boot has lasted."""
        if self.boot == clock.boot_id:
            return max(0.0, clock.boottime() - self.boottime_s)
        least_s = clock.boottime()
        return max(least_s, clock.now() - self.time) if self.is_synced and _is_synced(clock) else least_s


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An open escalation."""

    waits_for: str  # name of the tier that is asked next
    cause: Cause  # why
    first_key: str  # CloudEvents id of the provisional answer
    asked: tuple[Verdict, ...]  # every tier that answered, in order
    n_local: int = 1  # of them those that answered at once; the last of these is in the provisional answer
    refused: Mapping[str, Cause] = {}  # tiers that will not answer
    evidence: msgspec.Raw = msgspec.Raw(b"null")  # JSON: what a higher tier judges, where that is not the payload
    born: Born = Born()

    @property
    def first(self) -> Verdict:
        """What the provisional answer said."""
        return self.asked[self.n_local - 1]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


def with_note(raw: RawMessage, note: Note) -> RawMessage:
    """The message as it goes into the journal."""
    kept = without_note(raw).properties
    own = (PROPERTY, _encode(note).decode())
    return msgspec.structs.replace(raw, properties=(*kept, own), receipt=None)


def without_note(raw: RawMessage) -> RawMessage:
    """The message as its publisher may send it."""
    if not any(name == PROPERTY for name, _ in raw.properties):
        return raw
    kept = tuple(pair for pair in raw.properties if pair[0] != PROPERTY)
    return msgspec.structs.replace(raw, properties=kept)


def read_note(raw: RawMessage) -> Note | None:
    """The note of a journal row; None for a message that no tier has answered yet."""
    text = next((value for name, value in raw.properties if name == PROPERTY), None)
    if text is None:
        return None
    try:
        note = _decode(text)
    except msgspec.MsgspecError:  # of a version that wrote another form: the message is answered anew
        return None
    return note if 1 <= note.n_local <= len(note.asked) else None


def _is_synced(clock: Clock) -> bool:
    return clock.is_synced() is not False
