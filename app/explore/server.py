"""The page's server: on 127.0.0.1 alone, for who has the token, and of files it gives images of packed sets alone."""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import polars as pl
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...errors import BandlensError, UsageError
from ...probes.images.image_set import ImageSet
from ..pictures.conditions import Conditions
from ..pictures.sheet import grid_of
from .answers import Answers, ImageQuery

HOST = "127.0.0.1"
COOKIE = "bandlens_explorer"
LARGEST_BODY = 1 << 20
"""Bytes of a request: the names of a thousand models are 50 kB."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
STATIC = {"explore.js": "text/javascript", "explore.css": "text/css"}


class Doorkeeper:
    """Lets nobody in who does not come from this page, and says in every answer what a browser may do with it.

    A page of somebody else's in the same browser can send requests here. It does not have the cookie (SameSite), cannot
    name this host by a name of its own (Host), and says where it comes from (Origin).
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._name = app, token, f"{COOKIE}_{port}"
        self._hosts = (f"{HOST}:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        await self._answer(Request(scope))(scope, receive, guarded)

    def _answer(self, request: Request) -> ASGIApp:
        origin = request.headers.get("origin")
        if request.headers.get("host") not in self._hosts:
            return PlainTextResponse(f"This is {self._hosts[0]} alone.\n", 421)
        if origin is not None and origin not in [f"http://{host}" for host in self._hosts]:
            return PlainTextResponse("Another site may not ask here.\n", 403)
        parameters = parse_qs(request.url.query)
        if request.url.path == "/" and self._is_token(parameters.get("token", [""])[0]):
            rest = urlencode({name: values for name, values in parameters.items() if name != "token"}, doseq=True)
            entered = RedirectResponse(f"/?{rest}" if rest else "/", 303)
            entered.set_cookie(self._name, self._token, httponly=True, samesite="strict")
            return entered
        if not self._is_token(request.cookies.get(self._name, "")):
            return PlainTextResponse("Open the address that `bandlens explore` printed, with its token.\n", 403)
        return self._app

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


CORRELATION: Mapping[str, type] = {"study": str, "bias": str, "group": str, "models": list}
"""Field of a request for a coefficient -> its type; a list is of texts."""
IMAGES: Mapping[str, type] = {
    **dict.fromkeys(("study", "image_set", "condition", "a", "selection"), str),
    "b": str,
    "label": int,
    "models": list,
    "offset": int,
    "limit": int,
}
"""Field of a request for images -> its type; those of OPTIONAL may be null."""
OPTIONAL = ("b", "label")
LARGEST_NUMBER = 1 << 31
MALFORMED = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RecursionError,
    pl.exceptions.PolarsError,
)
"""Errors of requests that the page does not make."""


def read_request(body: bytes, fields: Mapping[str, type]) -> dict[str, Any]:
    """The fields of a request in JSON; ValueError where it has others, or one of another type."""
    asks = json.loads(body)
    if not isinstance(asks, dict) or not asks.keys() <= fields.keys():
        raise ValueError("the request has other fields")
    for name, value in asks.items():
        number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_NUMBER
        texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
        fits = {str: isinstance(value, str), int: number, list: texts}[fields[name]]
        if not fits and not (value is None and name in OPTIONAL):
            raise ValueError(f"the request has another {name}")
    return asks


async def answer_in_thread(answer: Callable[[], Response]) -> Response:
    """Answer in a thread; a request that cannot be answered gets status 400 and a line that says why."""
    try:
        return await run_in_threadpool(answer)
    except BandlensError as error:
        why = str(error)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    except MALFORMED:
        why = "the page asked for what is not there; load it again"
    return _json({"error": why}, 400)


def application(answers: Answers, token: str, port: int) -> ASGIApp:
    """The page, and the routes that it asks."""
    libraries = _libraries()

    def asked(answer: Callable[[Request], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await answer_in_thread(lambda: answer(request))

        return endpoint

    def page(_: Request) -> Response:
        return Response(_asset("page.html"), media_type="text/html")

    def script(_: Request) -> Response:
        return Response(libraries, media_type="text/javascript", headers={"cache-control": "private, max-age=3600"})

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("no such file\n", 404)
        return Response(_asset(name), media_type=STATIC[name])

    def study(request: Request) -> Response:
        return _json(answers.study(request.query_params.get("study")))

    def classes(request: Request) -> Response:
        return _json(answers.classes(request.query_params["study"], request.query_params["set"]))

    def picture(request: Request) -> Response:
        asks = request.query_params
        content = answers.picture(asks["set"], int(asks["index"]), asks.get("condition"), int(asks.get("seed", "0")))
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    def posted(answer: Callable[..., Any], fields: Mapping[str, Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    return _json({"error": "the request is too large"}, 413)
            return await answer_in_thread(lambda: _json(answer(**read_request(body, fields))))

        return endpoint

    routes = [
        Route("/", asked(page)),
        Route("/static/libraries.js", asked(script)),
        Route("/static/{name}", asked(static)),
        Route("/api/study", asked(study)),
        Route("/api/classes", asked(classes)),
        Route("/api/picture", asked(picture)),
        Route("/api/correlation", posted(answers.correlation, CORRELATION), methods=["POST"]),
        Route("/api/images", posted(lambda **asks: answers.images(ImageQuery(**asks)), IMAGES), methods=["POST"]),
    ]
    return Doorkeeper(Starlette(routes=routes), token, port)


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket on 127.0.0.1; port 0 is any that is free. UsageError where the port is taken."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen on port {port}: {error}; choose another --port") from None
        place.listen(64)
        yield place


def serve(
    database: Path, sets: dict[str, ImageSet], study: Path | None, port: int, tell: Callable[[str, int], object]
) -> None:
    """Serve the explorer until the process is interrupted.

    Args:
        database: results; only read.
        sets: image sets by their digest.
        study: a study file, for the probes of one's own that it names.
        port: 0 is any that is free.
        tell: called with the address, token included, and the number of image sets found.
    """
    answers = Answers(database, sets, Conditions(grid_of(study) if study else None))
    answers.study(None)  # a database with faults is refused before anything listens
    token = secrets.token_urlsafe(24)
    with listening(port) as place:
        number = place.getsockname()[1]
        config = uvicorn.Config(
            application(answers, token, number), log_level="error", access_log=False, lifespan="off"
        )
        server = uvicorn.Server(config)
        tell(f"http://{HOST}:{number}/?token={token}", len(sets))
        try:
            server.run(sockets=[place])
        finally:
            answers.close()


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False, default=str), status, media_type="application/json")


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


LIBRARIES = """
import sys, altair, vl_convert
version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
sys.stdout.buffer.write(script.encode())
"""


def _libraries() -> bytes:
    """Vega, Vega-Lite and Vega-Embed as one script, made by a process of its own, since that takes 200 MB."""
    return subprocess.run([sys.executable, "-P", "-c", LIBRARIES], check=True, stdout=subprocess.PIPE).stdout
