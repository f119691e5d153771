"""HTTP server of the explorer page.

It listens only on this machine and requires a token. Images of packed image sets are the only user data files that it
serves.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import polars as pl

from ...analysis.charts.grammar import begin_libraries
from ...core.errors import BandlensError, UsageError
from ...core.untrusted import words_of
from ...probes.images.image_set import ImageSet
from ..study.file import grid_of
from ..study.set_lookup import Conditions
from .answers import Answers, ImageQuery

LOOPBACK = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
CACHED = {"cache-control": "private, max-age=3600"}
"""Header of a response that browsers may cache for an hour."""
REQUEST_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, pl.exceptions.PolarsError)
"""Exceptions caused by malformed requests, which the page itself does not send."""


Routes = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Response:
    """Response to a browser."""

    body: str | bytes
    kind: str = "text/plain"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Doorkeeper:
    """Rejects requests that do not come from the explorer page.

    A page of another site in the same browser can also send requests to this server. Three checks reject them. The
    browser does not send the cookie with them (SameSite). A host name of the other site that resolves to this machine
    (DNS rebinding) is not accepted as Host. The Origin header names the other site.
    """

    def __init__(self, token: str, port: int) -> None:
        self._token, self._cookie = token, f"bandlens_explorer_{port}"
        names = (LOOPBACK, "localhost")
        # Browsers omit the default port of http.
        self._hosts = [f"{name}:{port}" for name in names] + [name for name in names if port == 80]

    def refuse(self, path: str, query: str, headers: Mapping[str, str]) -> Response | None:
        """Return the response to a request that is rejected or that logs in with the token, otherwise None.

        The names in `headers` must be in lower case.
        """
        origin = headers.get("origin")
        if headers["host"] not in self._hosts:
            return Response(f"This is {self._hosts[0]} alone.\n", status=421)
        if origin is not None and origin not in [f"http://{host}" for host in self._hosts]:
            return Response("Another site may not ask here.\n", status=403)
        parameters = parse_qs(query)
        if path == "/" and self._is_token(parameters.pop("token", [""])[0]):
            rest = urlencode(parameters, doseq=True)
            cookie = f"{self._cookie}={self._token}; HttpOnly; Path=/; SameSite=strict"
            return Response("", status=303, headers={"location": f"/?{rest}" if rest else "/", "set-cookie": cookie})
        cookies = dict(pair.strip().partition("=")[::2] for pair in headers.get("cookie", "").split(";"))
        if not self._is_token(cookies.get(self._cookie, "")):
            return Response(
                "Open the address that `bandlens explore` printed, with its token, or add &token=TOKEN to a link.\n",
                status=403,
            )
        return None

    def _is_token(self, token: str) -> bool:
        # The comparison takes constant time, so that response times do not reveal the token.
        return hmac.compare_digest(token.encode(), self._token.encode())


def routes(answers: Answers) -> tuple[Routes, Routes]:
    """Return functions by path: those for GET requests with a query string, and those for POST requests with JSON."""
    libraries = begin_libraries().result()

    def picture(query: Mapping[str, str]) -> Response:
        seed = int(query.get("seed", "0"))
        content = answers.picture(query["set"], int(query["index"]), query.get("condition"), seed)
        return Response(content, "image/png", headers=CACHED)

    pages: Routes = {
        "/": lambda _: _asset("page.html", "text/html"),
        "/static/explore.js": lambda _: _asset("explore.js", "text/javascript"),
        "/static/explore.css": lambda _: _asset("explore.css", "text/css"),
        "/static/libraries.js": lambda _: Response(libraries, "text/javascript", headers=CACHED),
        "/api/study": lambda query: _json(answers.study(query.get("study"))),
        "/api/filters": lambda query: _json(answers.filters(query["study"], query["set"])),
        "/api/octaves": lambda query: _json(answers.octaves(query["study"], query["set"], int(query["index"]))),
        "/api/picture": picture,
    }
    images = {"/api/images": lambda **fields: answers.images(ImageQuery(**fields))}
    return pages, images | {"/api/correlation": answers.correlation}


class Handler(BaseHTTPRequestHandler):
    """Handles one request, and adds security headers to every response."""

    server_version, sys_version = "bandlens", ""
    timeout = 60
    """Seconds to wait for the rest of a request."""

    def __init__(self, doorkeeper: Doorkeeper, pages: Routes, questions: Routes, *connection: Any) -> None:
        self._doorkeeper, self._pages, self._questions = doorkeeper, pages, questions
        super().__init__(*connection)  # handles the request, so the attributes must be set before

    def answer(self) -> None:
        """Respond to a request with any method."""
        answer = self._answer()
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        kind = f"{answer.kind}; charset=utf-8" if answer.kind.startswith("text/") else answer.kind
        self.send_response(answer.status)
        headers = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
        for name, value in (headers | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = answer  # noqa: N815

    def _answer(self) -> Response:
        """Return the response. If a request fails, it has status 400 and contains the reason."""
        path, _, query = self.path.partition("?")
        if len(self.headers.get_all("host", [])) != 1:
            return Response("A request names one host.\n", status=400)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if refusal := self._doorkeeper.refuse(path, query, headers):
            return refusal
        try:
            if path in self._pages and self.command in ("GET", "HEAD"):
                response: Response = self._pages[path](dict(parse_qsl(query, keep_blank_values=True)))
                return response
            if path in self._questions and self.command == "POST":
                body = self.rfile.read(max(0, int(headers.get("content-length", "0"))))
                return _json(self._questions[path](**json.loads(body)))
        except BandlensError as error:
            why = str(error)
        except OSError as error:
            why = f"{error.filename}: {words_of(error)}"
        except REQUEST_ERRORS:
            why = "the page asked for what is not there; load it again"
        else:
            is_known = path in self._pages or path in self._questions
            return Response("Nothing here.\n", status=405 if is_known else 404)
        return _json({"error": why}, 400)

    def end_headers(self) -> None:
        """Add the security headers to every response, including errors that http.server sends itself."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Do not log requests."""


class Listener(ThreadingTCPServer):
    """Listens on this machine and handles each request in a daemon thread, which does not delay shutdown."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *connection: Any) -> None:
        """Report errors other than closed connections."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*connection)


def listen(port: int) -> Listener:
    """Listen on a port of this machine, or on any free port if `port` is 0. Raises UsageError if it is in use."""
    try:
        return Listener((LOOPBACK, port), BaseHTTPRequestHandler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on port {port}: {error}; choose another --port") from None


def serve(
    database: Path, sets: dict[str, ImageSet], study: Path | None, port: int, tell: Callable[[str, int], object]
) -> None:
    """Serve the explorer until the process is interrupted, as described in `api.results.explore`.

    Args:
        database: Results database.
        sets: Image sets by their digest.
        study: Study file, for its custom probes.
        port: Port to listen on. 0 for any free port.
        tell: Called with the address of the page and the number of image sets when the server is ready.
    """
    answers = Answers(database, sets, Conditions(grid_of(study) if study else None))
    answers.study(None)  # raises an error for an invalid database before the server starts listening
    token = secrets.token_urlsafe(24)
    with closing(answers), listen(port) as listener:
        number = listener.server_address[1]
        listener.RequestHandlerClass = partial(Handler, Doorkeeper(token, number), *routes(answers))
        tell(f"http://{LOOPBACK}:{number}/?token={token}", len(sets))
        listener.serve_forever()


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False, default=str), "application/json", status)


def _asset(name: str, kind: str) -> Response:
    return Response(files(__package__).joinpath(name).read_text(encoding="utf-8"), kind)
