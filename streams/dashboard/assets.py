"""The page's files, read once: HTML, styles, scripts and the icon, with their names for caches and what the page may do."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("static")
PAGE = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Only what this gateway serves, nothing inline, no frames: a shopper's id that holds markup stays text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Asked each time, answered by 304: modules name each other without a version, so none may be older than another.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is served."""

    body: bytes
    packed: bytes
    kind: str
    etag: str

    def headers(self, packed: bool) -> dict[str, str]:
        """Return what goes with it; the packed form has a tag of its own."""
        named = HEADERS | {"ETag": f'"{self.etag}{"-gz" if packed else ""}"'}
        return named | ({"Content-Encoding": "gzip"} if packed else {})

    def is_known(self, if_none_match: str) -> bool:
        """Whether a client that sends this header has it already."""
        return f'"{self.etag}' in if_none_match


@cache
def assets() -> dict[str, Asset]:
    """Return the files by name."""
    return {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}


def _read(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, gzip.compress(body, mtime=0), KINDS[path.suffix], hashlib.sha256(body).hexdigest()[:20])
