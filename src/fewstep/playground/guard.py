"""What the playground's server refuses before Gradio sees it: pages of other sites, fetching from the net, large bodies, full disks."""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIB = 2**20
UPLOAD = 20 * MIB  # bytes of an upload, at most
BODY = 100_000  # bytes of any other request
KEPT = 200 * MIB  # bytes of all uploads and downloads; beyond it the oldest go


class Guard:
    """ASGI middleware that answers what must not be answered with a status and a sentence, and bounds the folder of uploads."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...] | None, folder: Path, kept: int = KEPT) -> None:
        """`names` are those that the server answers to; None: any. `folder` holds uploads and downloads, `kept` bytes of them."""
        self.app, self.names, self.folder, self.kept, self.arriving = app, names, folder, kept, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers, writes = Headers(scope=scope), scope.get("method", "GET") not in ("GET", "HEAD", "OPTIONS")
        if refusal := self.refusal(scope["path"].lower(), headers, writes):
            return await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
        size = int(headers["content-length"]) if writes else 0
        self.arriving += size
        try:
            if writes and is_upload(scope["path"]):
                remove_oldest(self.folder, self.kept - self.arriving)
            await self.app(scope, receive, send)
        finally:
            self.arriving -= size

    def refusal(self, path: str, headers: Headers, writes: bool) -> tuple[int, str] | None:
        """The status and the reason of a refusal; None where there is no reason."""
        if "/proxy=" in path or "/file=http:" in path or "/file=https:" in path:
            return 403, "This server fetches nothing from other machines."
        host, origin, length = (headers.get(name, "") for name in ("host", "origin", "content-length"))
        if self.names is not None and host_of(host) not in self.names:
            return 403, f"This server answers to {', '.join(self.names)} alone; start it with --host to let others in."
        if not writes:
            return None
        if "origin" in headers and origin.split("://")[-1].lower() != host.lower():
            return 403, "This server takes nothing from pages of other sites."
        if path.rstrip("/").endswith("/cancel"):  # of Gradio, which loses a place of its queue by it; `Slot.end` ends a drawing
            return 403, "A drawing is ended by the page's button Stop."
        if not length.isdecimal():
            return 411, "The length of what is sent is needed."
        size, limit = int(length[:20]), UPLOAD + BODY if is_upload(path) else BODY
        if size > limit:
            return 413, f"{size} bytes are more than the {limit} that are taken."
        if self.arriving + size > self.kept:
            return 503, "Too much is being uploaded; try again."
        return None


def is_upload(path: str) -> bool:
    """Whether a request's path is that of uploads."""
    return path.rstrip("/").lower().endswith("/upload")


def remove_oldest(folder: Path, kept: int) -> None:
    """Remove the oldest files of a folder until the others have so many bytes, at most."""
    files = [(path.stat().st_mtime_ns, path.stat().st_size, path) for path in folder.rglob("*") if path.is_file()]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= kept:
            break
        path.unlink(missing_ok=True)
        total -= size


def host_of(header: str) -> str | None:
    """The name in a Host header, without its port and the brackets of an address of version 6; None where there is none."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def answers_to(host: str) -> tuple[str, ...] | None:
    """The names that a server on an address answers to: on loopback its own, else any."""
    return (*dict.fromkeys((host, *LOOPBACK)),) if host in LOOPBACK or host.startswith("127.") else None
