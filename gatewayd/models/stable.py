"""The sessions that handlers hold: they stay the same while the loaded model behind them comes and goes.

Invariant: a call has a loaded session from its beginning to its end, and between calls nothing is held. What a call
raises is what the session raises; when the model must be loaded again first, ModelError as at the first load.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from gatewayd.api import Completion, LabelScores, TensorSession, TextSession
from gatewayd.models.residency import Resident

Take = Callable[[], Any]

_MAX_PREFIXES = 64  # remembered here; how many a loaded model keeps computed is models.llm_max_prefixes


class StableTensors:
    """Implements api.TensorSession."""

    def __init__(self, resident: Resident, take: Take) -> None:
        """Loads the model. Raises ModelError."""
        session = cast("TensorSession", take())
        resident.give_back()
        self.inputs: Sequence[str] = session.inputs
        self.outputs: Sequence[str] = session.outputs
        self._take = take
        self._give_back = resident.give_back

    def run(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """See api.TensorSession."""
        session = self._take()
        try:
            return session.run(arrays)  # type: ignore[no-any-return]
        finally:
            self._give_back()

    def __getattr__(self, name: str) -> Any:
        return _passed_on(self._take, self._give_back, name)


class StableText:
    """Implements api.TextSession."""

    def __init__(self, resident: Resident, take: Take) -> None:
        """Loads the model. Raises ModelError."""
        session = cast("TextSession", take())
        resident.give_back()
        self.context_tokens = session.context_tokens
        self._take_any = take
        self._give_back = resident.give_back
        self._prefixes: OrderedDict[str, None] = OrderedDict()
        self._informed: Any = None  # the session that knows the prefixes

    def complete(self, prompt: str, **options: Any) -> Completion:
        """See api.TextSession."""
        session = self._take()
        try:
            return session.complete(prompt, **options)  # type: ignore[no-any-return]
        finally:
            self._give_back()

    def count_tokens(self, text: str) -> int:
        """See api.TextSession."""
        session = self._take()
        try:
            return session.count_tokens(text)  # type: ignore[no-any-return]
        finally:
            self._give_back()

    def label_scores(self, prompt: str, labels: Sequence[str], **options: Any) -> LabelScores:
        """See api.TextSession."""
        session = self._take()
        try:
            return session.label_scores(prompt, labels, **options)  # type: ignore[no-any-return]
        finally:
            self._give_back()

    def keep_prefix(self, text: str) -> None:
        """See api.TextSession. Said again to a session that was loaded anew."""
        self._prefixes[text] = None
        self._prefixes.move_to_end(text)
        while len(self._prefixes) > _MAX_PREFIXES:
            self._prefixes.popitem(last=False)
        session = self._take()
        try:
            session.keep_prefix(text)
        finally:
            self._give_back()

    def _take(self) -> Any:
        session = self._take_any()
        known = None if self._informed is None else self._informed()
        if known is not session:
            self._informed = weakref.ref(session)
            for text in list(self._prefixes):
                session.keep_prefix(text)
        return session

    def __getattr__(self, name: str) -> Any:
        return _passed_on(self._take, self._give_back, name)


def _passed_on(take: Take, give_back: Callable[[], None], name: str) -> Any:
    """What else a session offers beyond the protocol."""
    if name.startswith("_"):
        raise AttributeError(name)
    session = take()
    try:
        value = getattr(session, name)
    finally:
        give_back()
    if not callable(value):
        return value

    def call(*arguments: Any, **options: Any) -> Any:
        now = take()
        try:
            return getattr(now, name)(*arguments, **options)
        finally:
            give_back()

    return call
