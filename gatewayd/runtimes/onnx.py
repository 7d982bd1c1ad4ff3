"""ONNX Runtime: sessions that map named arrays to named arrays, called from a handler's thread.

Invariant: an idle session takes no processor time. Its threads wait instead of spinning, for on a small box the broker,
the spool and other models share the cores.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from gatewayd.config import schema
from gatewayd.errors import ModelError, RejectedError, TransientError
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
        self._nodes = list(session.get_inputs())
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

    def warm(self) -> None:
        """Run once on zeros. Raises ModelError when that fails although the shapes leave nothing open."""
        try:
            self._run(self._output_names, {node.name: _zeros(node) for node in self._nodes})
        except KeyError as exc:
            log.debug("model was not tried before use", model=self._name, cause=str(exc))
        except self._failures as exc:
            if all(_is_fixed(node) for node in self._nodes):
                raise ModelError(f'model "{self._name}" does not run on zeros of the shape it asks for: {exc}') from exc

    def close(self) -> None:
        """Let go of the model; its memory goes when the calls under way are over."""
        self._nodes = []
        self._run = _closed


def _closed(*_: Any) -> Any:
    raise TransientError("the model was unloaded")


# As ONNX Runtime names the types of inputs, and as numpy does. A model of texts is not tried.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _zeros(node: Any) -> Any:
    import numpy as np

    return np.zeros([size if isinstance(size, int) else 1 for size in node.shape], _DTYPES[node.type])


def _is_fixed(node: Any) -> bool:
    """Whether all sizes but that of the batch are given."""
    return node.type in _DTYPES and all(isinstance(size, int) for size in node.shape[1:])


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
