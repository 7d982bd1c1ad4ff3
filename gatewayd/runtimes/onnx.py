"""ONNX Runtime: sessions that map named arrays to named arrays, called from a handler's thread.

Invariant: an idle session takes no processor time. Its threads wait instead of spinning, for on a small box the broker,
the spool and other models share the cores.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from gatewayd.config import schema
from gatewayd.errors import ModelError, RejectedError
from gatewayd.models.bundle import Bundle
from gatewayd.runtimes.options import OnnxOptions

log = structlog.get_logger(__name__)

_CPU = "CPUExecutionProvider"


class OnnxSession:
    """Implements api.TensorSession. Safe to call from several threads at once, as ONNX Runtime is."""

    def __init__(self, session: Any, failures: tuple[type[Exception], ...], *, name: str) -> None:
        self.inputs: Sequence[str] = tuple(node.name for node in session.get_inputs())
        self.outputs: Sequence[str] = tuple(node.name for node in session.get_outputs())
        self.providers: Sequence[str] = tuple(session.get_providers())
        self._run = session.run
        self._output_names = list(self.outputs)
        self._failures = failures
        self._name = name
        self._calls = 0

    def run(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run once. Raises RejectedError(reason="model_input") when the arrays are not what the model takes."""
        self._calls += 1  # two threads may lose a count here; a lock would cost more than the figure is worth
        try:
            answers = self._run(self._output_names, dict(arrays))
        except self._failures as exc:
            raise RejectedError(f'model "{self._name}" cannot take this input: {exc}', reason="model_input") from exc
        return dict(zip(self.outputs, answers, strict=True))

    def stats(self) -> Mapping[str, float]:
        """`calls` so far."""
        return {"calls": float(self._calls)}

    def close(self) -> None:
        """Nothing to do: the memory goes when the last who holds the session lets go of it."""


def load(bundle: Bundle, files: Mapping[str, Path], config: schema.Models) -> OnnxSession:
    """Load the verified bundle. Raises ModelError when the library is missing or the model does not load."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as exc:
        raise ModelError(f'model "{bundle.manifest.name}" needs ONNX Runtime: pip install "gatewayd[onnx]"') from exc
    options = bundle.options
    if not isinstance(options, OnnxOptions):
        raise ModelError(f'model "{bundle.manifest.name}" is not an ONNX model')
    providers = _providers(options.providers, onnxruntime.get_available_providers(), model=bundle.manifest.name)
    settings = _settings(onnxruntime, options.threads or config.threads or 1)
    # Of everything ONNX Runtime raises there is no common class but Exception, and a damaged model may raise any of
    # them: this is the adapter's boundary. MemoryError and the like are not Exceptions of the model.
    try:
        session = onnxruntime.InferenceSession(str(files["model"]), settings, providers=providers)
    except Exception as exc:
        raise ModelError(f'model "{bundle.manifest.name}": ONNX Runtime cannot load {files["model"]}: {exc}') from exc
    failures = (ValueError, TypeError, RuntimeError, state.InvalidArgument, state.Fail, state.RuntimeException)
    return OnnxSession(session, failures, name=bundle.manifest.name)


def _settings(onnxruntime: Any, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3  # errors; warnings about graph optimisation are no news to an operator
    # https://onnxruntime.ai/docs/performance/tune-performance/threading.html: spinning is on unless told
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return settings


def _providers(wanted: Sequence[str], available: Sequence[str], *, model: str) -> list[str]:
    """Those wanted that the box has, in order, the CPU last."""
    missing = [provider for provider in wanted if provider not in available]
    if missing:
        log.warning("execution providers are not available here", model=model, missing=missing)
    return [provider for provider in wanted if provider in available and provider != _CPU] + [_CPU]
