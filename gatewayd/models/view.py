"""The models as one route sees them: its calls of a language model carry its priority, and end with its deadline.

Invariant: a handler asks for what api.Models offers and never says whose call it is; what it gets is the very session
that every other route has.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gatewayd.api import Completion, LabelScores, Model, Models, TensorSession, TextSession
from gatewayd.errors import TransientError

# Before each call of a language model. Raises TransientError while the route has to do without: gatewayd.board.heat.
MayAsk = Callable[[], None]

_TIMEOUT_S = 120.0  # of who says nothing: api.TextSession.complete


class RouteTerms(Protocol):
    """What the view needs of gatewayd.terms.Terms."""

    @property
    def priority(self) -> int:
        """0 to 9, 9 first."""

    def left_s(self) -> float | None:
        """For how long the answer at hand is worth anything, in seconds; None: for ever."""


class RouteModels:
    """Implements api.Models."""

    def __init__(self, models: Models, terms: RouteTerms, may_ask: MayAsk = lambda: None) -> None:
        self._models = models
        self._terms = terms
        self._may_ask = may_ask

    def get(self, name: str) -> "RouteModel":
        """See api.Models."""
        return RouteModel(self._models.get(name), self._terms, self._may_ask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)  # what a store offers beyond the protocol is not the route's own


class RouteModel:
    """Implements api.Model."""

    def __init__(self, model: Model, terms: RouteTerms, may_ask: MayAsk = lambda: None) -> None:
        self.name = model.name
        self.version = model.version
        self.labels: Sequence[str] = model.labels
        self.input: Mapping[str, Any] = model.input
        self.calibration: Mapping[str, Any] = model.calibration
        self._model = model
        self._terms = terms
        self._may_ask = may_ask

    def file(self, role: str) -> str:
        """See api.Model."""
        return self._model.file(role)

    def tensors(self) -> TensorSession:
        """See api.Model."""
        return self._model.tensors()

    def text(self) -> TextSession:
        """See api.Model."""
        return RouteText(self._model.text(), self._terms, self._may_ask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class RouteText:
    """Implements api.TextSession."""

    def __init__(self, session: TextSession, terms: RouteTerms, may_ask: MayAsk = lambda: None) -> None:
        self.context_tokens = session.context_tokens
        self._session: Any = session
        self._terms = terms
        self._may_ask = may_ask
        # Sessions that wait for slots say which of their methods take a priority; others know of none.
        self._scheduled: frozenset[str] = getattr(session, "scheduled", frozenset())

    def complete(self, prompt: str, **options: Any) -> Completion:
        """See api.TextSession. Raises TransientError when the route's deadline has passed."""
        return self._call("complete", prompt, **options)  # type: ignore[no-any-return]

    def label_scores(self, prompt: str, labels: Sequence[str], **options: Any) -> LabelScores:
        """See api.TextSession. Raises TransientError when the route's deadline has passed."""
        return self._call("label_scores", prompt, labels, **options)  # type: ignore[no-any-return]

    def keep_prefix(self, text: str) -> None:
        """See api.TextSession."""
        self._session.keep_prefix(text)

    def count_tokens(self, text: str) -> int:
        """See api.TextSession."""
        return self._session.count_tokens(text)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name in self._scheduled:
            return functools.partial(self._call, name)
        return getattr(self._session, name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._may_ask()
        if name in self._scheduled:
            options["priority"] = self._terms.priority
        left_s = self._terms.left_s()
        if left_s is not None:
            if left_s <= 0:
                raise TransientError("the route's deadline has passed: the model was not asked")
            options["timeout_s"] = min(options.get("timeout_s", _TIMEOUT_S), left_s)
        return getattr(self._session, name)(*arguments, **options)
