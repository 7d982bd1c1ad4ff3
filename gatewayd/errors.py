"""Every error gatewayd raises on purpose. A class says what happens next, not who failed."""


class GatewaydError(Exception):
    """Base class. `hint` tells the operator what to do; it is logged with the error."""

    hint: str = ""


class ConfigError(GatewaydError):
    """The daemon must not start: exit status 78, and systemd does not restart it.

    Attributes:
        key: the dotted key in config.toml, e.g. `routes.pumps.batch.max_messages`.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem
        self.hint = "run `gatewayd check`; every key is described in docs/reference/config.md"


class TransientError(GatewaydError):
    """The same call may succeed later: retry with backoff.

    Attributes:
        reason: a short stable word where the caller may want to know, e.g. `hot`; "" else.
    """

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class GivesWay(TransientError):
    """The box has no room for this call now (it is hot): the call was not made, and counts as no attempt."""


class SinkUnavailable(TransientError):
    """The far side did not confirm the results. `retry_after_s` is its own wish, obeyed to the second."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkMisconfigured(SinkUnavailable):
    """The far side turned us away (401, 403, 404 …): retried like any other, and an operator is told."""


class TierUnavailable(TransientError):
    """A tier outside of this box did not answer. `retry_after_s`: not to be asked before that; None: when you like."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TierMisconfigured(TierUnavailable):
    """The tier turned us away (401, 403, 404 …), or what answers there is no such tier: an operator is told."""


class TierSpent(TierUnavailable):
    """The tier's budget of the day does not allow the call: it was not made."""


class WorkerCrashed(TransientError):
    """The child process of a model died during the call: one retry, counted against message and model."""


class BatchTooLarge(GatewaydError):
    """The far side takes smaller batches only: split in two and send again."""


class BatchRefused(GatewaydError):
    """The far side will never take this batch as it is: bisect until the refused result stands alone."""


class RejectedError(GatewaydError):
    """This one message can never succeed: bury it as a dead letter and go on.

    Attributes:
        reason: a short stable word for counters, e.g. `decode`, `schema`, `too_large`.
    """

    def __init__(self, message: str, *, reason: str = "rejected") -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(GatewaydError):
    """A model bundle is damaged, incomplete or unknown: it is not loaded, its route answers without it or buries."""


class SpoolFull(TransientError):
    """The byte cap is reached and the route says `when_full = "block"`: hold the message back and try again."""


class FatalError(GatewaydError):
    """An invariant broke: let it end the process; systemd starts a clean one."""
