"""The page's files, as they are in the package: read and compressed when somebody asks for the first time."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from aiohttp import web

# Nothing from elsewhere, nothing inline, no frame around it, forms and requests to ourselves alone.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
TYPES: Mapping[str, str] = {
    "page.html": "text/html",
    "login.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "draw.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file."""

    body: bytes
    zipped: bytes
    etag: str


class Assets:
    """Serves them, each with an ETag: a browser that has one asks only whether it is still that."""

    def __init__(self) -> None:
        self._known: dict[str, Asset] = {}

    def serve(self, request: web.Request, name: str) -> web.Response:
        """The file. 304 where the browser has it."""
        asset = self._known.get(name) or self._read(name)
        headers = {"ETag": asset.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding, Accept, Cookie"}
        if asset.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        is_zipped = "gzip" in request.headers.get("Accept-Encoding", "")
        if is_zipped:
            headers["Content-Encoding"] = "gzip"
        body = asset.zipped if is_zipped else asset.body
        return web.Response(body=body, headers=headers, content_type=TYPES[name], charset="utf-8")

    def _read(self, name: str) -> Asset:
        body = (resources.files("gatewayd.web") / "page" / name).read_bytes()
        # Weak: the same etag stands for the compressed form.
        asset = Asset(body, gzip.compress(body, 9, mtime=0), f'W/"{hashlib.sha256(body).hexdigest()[:16]}"')
        self._known[name] = asset
        return asset
