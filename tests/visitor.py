"""A visitor of the playground without a browser: what the page's own code says to the server, so that it can be said wrongly."""

import json
import uuid
from pathlib import Path

import httpx

API = "gradio_api"


class Visitor:
    """One session: `ask` returns all that the server answers to a request, `said` what it tells the visitor of it."""

    def __init__(self, address: str) -> None:
        self.http, self.session = httpx.Client(base_url=address, timeout=60), uuid.uuid4().hex
        config = self.http.get("config").raise_for_status().json()
        self.numbers = {one["api_name"]: one["id"] for one in config["dependencies"] if one["api_name"]}

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_) -> None:
        self.http.close()

    def join(self, name: str, *values) -> httpx.Response:
        """Queue a request."""
        body = {"data": list(values), "fn_index": self.numbers[name], "session_hash": self.session}
        return self.http.post(f"{API}/queue/join", json=body)

    def ask(self, name: str, *values) -> list[dict]:
        """The messages that answer a request, to the last."""
        self.join(name, *values).raise_for_status()
        messages = []
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    messages.append(json.loads(line[5:]))
                    if messages[-1]["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                        break
        return messages

    def said(self, name: str, *values) -> str:
        """What a visitor reads beside the pictures: warnings, notes, and errors that Gradio itself makes."""
        messages = self.ask(name, *values)
        logs = [one["log"] for one in messages if one["msg"] == "log"]
        return "\n".join(logs + [str((one.get("output") or {}).get("error") or "") for one in messages]).strip()

    def upload(self, path: Path) -> dict:
        """The file as a value of a picture."""
        with path.open("rb") as file:
            answer = self.http.post(f"{API}/upload", files={"files": (path.name, file)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
