"""A server of the Open Inference Protocol (KServe v2, REST) on loopback, with real models of ONNX Runtime behind it.

As the specification has it: metadata, infer, versions in the path, 400 with {"error": …} for what does not fit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from aiohttp import web

from tests.sim.tier_servers import TierServer

_DATATYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64", "tensor(string)": "BYTES"}
_NUMPY: Mapping[str, Any] = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BYTES": object}


class KServeServer(TierServer):
    """Serves `models`: by name, a graph of ONNX."""

    path = ""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, ort.InferenceSession] = {}
        self.versions: list[str] = ["1"]
        self.n_metadata = 0

    def serve(self, name: str, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions[name] = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def routes(self, app: web.Application) -> None:
        for version in ("", "/versions/{version}"):
            app.router.add_get(f"/v2/models/{{model}}{version}", self._metadata)
            app.router.add_post(f"/v2/models/{{model}}{version}/infer", self._infer)

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        self.n_metadata += 1
        self.paths.append(request.path_qs)
        if self.script:
            return await self._answer(request, b"{}", {})
        session = self._session(request)
        if session is None:
            return web.json_response({"error": "no such model"}, status=404)
        return web.json_response(
            {
                "name": request.match_info["model"],
                "versions": self.versions,
                "platform": "onnx_onnxv1",
                "inputs": [_tensor(each) for each in session.get_inputs()],
                "outputs": [_tensor(each) for each in session.get_outputs()],
            }
        )

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        if (session := self._session(request)) is None:
            return web.json_response({"error": "no such model"}, status=404)
        self._asked_of = (request.match_info["model"], session)
        try:
            return await self._post(request)
        except (ValueError, KeyError, ort.capi.onnxruntime_pybind11_state.InvalidArgument) as exc:
            return web.json_response({"error": str(exc)[:100]}, status=400)

    async def answer(self, asked: Any) -> Any:
        name, session = self._asked_of
        known = {each.name: _tensor(each) for each in session.get_inputs()}
        feeds = {each["name"]: _array(each, known[each["name"]]) for each in asked["inputs"]}
        wanted = [each["name"] for each in asked.get("outputs", [])] or [each.name for each in session.get_outputs()]
        arrays = session.run(wanted, feeds)
        types = {each.name: _DATATYPES[each.type] for each in session.get_outputs()}
        outputs = [
            {"name": output, "datatype": types[output], "shape": list(array.shape), "data": array.ravel().tolist()}
            for output, array in zip(wanted, arrays, strict=True)
        ]
        return {"model_name": name, "model_version": self.versions[-1], "outputs": outputs}

    def _session(self, request: web.Request) -> ort.InferenceSession | None:
        version = request.match_info.get("version")
        return self.sessions.get(request.match_info["model"]) if version in (None, *self.versions) else None


def _tensor(each: Any) -> Mapping[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in each.shape]
    return {"name": each.name, "datatype": _DATATYPES[each.type], "shape": shape}


def _array(given: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    if given["datatype"] != known["datatype"]:
        raise ValueError(f"input {given['name']} is of type {known['datatype']}")
    shape = given["shape"]
    if len(shape) != len(known["shape"]) or any(k not in (-1, n) for k, n in zip(known["shape"], shape, strict=True)):
        raise ValueError(f"input {given['name']} has the shape {known['shape']}")
    return np.array(given["data"], dtype=_NUMPY[given["datatype"]]).reshape(shape)
