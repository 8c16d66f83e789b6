"""Who may ask the playground's server, and for what: a page of another site, or one that would have it fetch from the net, may not."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Guard:
    """Answers 403 where a server on loopback is asked under another name (DNS rebinding), or a server to fetch an address for someone."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], names: tuple[str, ...] | None) -> None:
        """`names` are those that the server answers to; None: any."""
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (reason := self.refusal(scope)):
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})
            return
        await self.app(scope, receive, send)

    def refusal(self, scope: Scope) -> str:
        """Why there is no answer, in a sentence; empty where there is one."""
        path = scope.get("path", "").lower()
        if "/proxy=" in path or "/file=http:" in path or "/file=https:" in path:
            return "This server fetches nothing from other machines."
        host = host_of(dict(scope.get("headers") or ()).get(b"host", b"").decode("latin-1"))
        if self.names is not None and host not in self.names:
            return f"This server answers to {', '.join(self.names)} alone; start it with --host to let others in."
        return ""


def host_of(header: str) -> str:
    """The name in a Host header, without its port and the brackets of an address of version 6."""
    if header.startswith("["):
        return header[1:].split("]")[0].lower()
    return header.split(":")[0].lower()


def answers_to(host: str) -> tuple[str, ...] | None:
    """The names that a server on an address answers to: on loopback its own, else any."""
    return (*dict.fromkeys((host, *LOOPBACK)),) if host in LOOPBACK or host.startswith("127.") else None
