"""Serves the page on the loopback address: to a browser that knows the token, and to no other site.

The page names frames by number only; no request contains a path.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from instaseg_ros.errors import InstasegError
from instaseg_ros.labelling.editing import MOST_ID, EditError
from instaseg_ros.labelling.edits import NARROWEST, WIDEST
from instaseg_ros.labelling.session import Patch, Session

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page")
TYPES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
TOKEN_HEADER, PAGE_HEADER = "x-instaseg-token", "x-instaseg-page"
MOST_BYTES = 1 << 20  # of a request
MOST_POINTS = 20_000  # of a path
FARTHEST_PX = 1e6
LONGEST_SILENCE_S = 10.0  # of a page that is open: it asks for news every second
JPEG_QUALITY = 92
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

log = logging.getLogger(__name__)


class Pages:
    """The one browser window that may edit: the first, until it is closed or another takes over."""

    def __init__(self) -> None:
        self._page, self._heard, self._lock = "", -math.inf, threading.Lock()

    def admit(self, page: str, take_over: bool = False) -> bool:
        """Whether this window may edit."""
        with self._lock:
            now = time.monotonic()
            silent = now - self._heard > LONGEST_SILENCE_S
            if page != self._page and not (take_over or silent):
                return False
            self._page, self._heard = page, now
            return True


def application(session: Session, token: str, port: int) -> Starlette:
    """The web application. Every answer of /api needs the token."""
    pages = Pages()
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request, or say why not."""
        if request.headers.get("host") not in hosts:  # a name of another site that leads here
            return _refused(403, f"expected a request to {HOST}:{port}")
        origin = request.headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            return _refused(403, "expected a request of this page")
        if request.url.path.startswith("/api/"):
            given = request.headers.get(TOKEN_HEADER, "")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _refused(401, "open the address that instaseg label has printed")
            if request.method == "POST" and not _is_small(request):
                return _refused(413, f"expected JSON of at most {MOST_BYTES} bytes")
        try:
            return await call(request)
        except _BadRequest as error:
            return _refused(error.status, str(error))
        except EditError as error:
            return _refused(422, str(error))
        except InstasegError as error:
            return _refused(500, str(error))
        except OSError as error:
            return _refused(500, f"{error.strerror or error}")
        except Exception:
            log.exception("%s failed", request.url.path)
            return _refused(500, "unexpected error: see what instaseg label has printed")

    def may_edit(request: Request, take_over: bool = False) -> None:
        if not pages.admit(request.headers.get(PAGE_HEADER, ""), take_over):
            raise _BadRequest(
                "this dataset is being labelled in another window: close it, or take over here",
                409,
            )

    async def start(request: Request) -> Response:
        asked = await _body(request)
        may_edit(request, bool(asked.get("take_over")))
        return JSONResponse(await run_in_threadpool(session.state))

    async def status(request: Request) -> Response:
        may_edit(request)
        return JSONResponse(await run_in_threadpool(session.status, request.path_params["number"]))

    async def image(request: Request) -> Response:
        def encoded() -> bytes:
            picture = session.image(request.path_params["number"])[..., ::-1]
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            return cv2.imencode(".jpg", picture, quality)[1].tobytes()

        return Response(await run_in_threadpool(encoded), media_type="image/jpeg")

    async def frame(request: Request) -> Response:
        may_edit(request)
        return _packed(await run_in_threadpool(session.open, request.path_params["number"]))

    async def edit(request: Request) -> Response:
        may_edit(request)
        asked = _edit(await _body(request), len(session.store.class_names))
        number = request.path_params["number"]
        return _packed(await run_in_threadpool(session.edit, number, asked))

    async def look_again(request: Request) -> Response:
        may_edit(request)
        await _body(request)
        await run_in_threadpool(session.look_again, request.path_params["number"])
        return JSONResponse({})

    async def add_class(request: Request) -> Response:
        may_edit(request)
        name = str((await _body(request)).get("name", ""))
        number = await run_in_threadpool(session.add_class, name)
        return JSONResponse({"class_id": number, "class_names": session.store.class_names})

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "page.html")
        if name not in TYPES:
            return _refused(404, "no such file")
        content = (PAGE / name).read_bytes()
        return Response(content, headers=HEADERS, media_type=TYPES[name])

    async def icon(request: Request) -> Response:
        return Response(status_code=204)

    def route(path: str, call: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        async def answer(request: Request) -> Response:
            response = await guarded(request, call)
            response.headers.update(HEADERS)
            return response

        return Route(path, answer, methods=[method])

    return Starlette(
        routes=[
            route("/api/start", start, "POST"),
            route("/api/status/{number:int}", status, "GET"),
            route("/api/image/{number:int}", image, "GET"),
            route("/api/frame/{number:int}", frame, "GET"),
            route("/api/edit/{number:int}", edit, "POST"),
            route("/api/again/{number:int}", look_again, "POST"),
            route("/api/classes", add_class, "POST"),
            route("/favicon.ico", icon, "GET"),
            route("/", file, "GET"),
            route("/{name}", file, "GET"),
        ]
    )


class Server:
    """The application on a free port of the loopback address. address: with the token."""

    def __init__(self, session: Session, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, port))
        self._socket.listen()  # a browser may come before the server has started
        self.port = self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(24)
        self.address = f"http://{HOST}:{self.port}/?token={self.token}"
        app = application(session, self.token, self.port)
        self._ended = threading.Event()
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, ws="none", lifespan="off")
        )

    def start(self) -> None:
        """Serve, in a thread: there uvicorn leaves signals to this process."""
        threading.Thread(target=self._serve, daemon=True, name="server").start()

    def wait(self) -> None:
        """Wait until it ends."""
        self._ended.wait()  # joining the thread cannot be interrupted safely in Python 3.11

    def stop(self) -> None:
        """End it."""
        self._uvicorn.should_exit = self._uvicorn.force_exit = True
        self.wait()

    def _serve(self) -> None:
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self._ended.set()


class _BadRequest(Exception):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, why: str, status: int = 422) -> None:
        super().__init__(why)
        self.status = status


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)


def _is_small(request: Request) -> bool:
    length = request.headers.get("content-length", "")
    kind = request.headers.get("content-type", "")
    return length.isdecimal() and int(length) <= MOST_BYTES and kind == "application/json"


async def _body(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise _BadRequest("expected JSON") from error
    if not isinstance(asked, dict):
        raise _BadRequest("expected a JSON object")
    return asked


def _packed(patch: Patch) -> Response:
    """The length of a JSON text in 4 bytes, the text, padding to an even place, labels as 16 bits,
    ignored pixels as 8 bits; little-endian."""
    height, width = patch.labels.shape
    facts = {**patch.facts, "box": [patch.left, patch.top, width, height]}
    text = json.dumps(facts).encode()
    text += b" " * (len(text) % 2)
    labels = patch.labels.astype("<u2").tobytes()
    content = len(text).to_bytes(4, "little") + text + labels + patch.ignore.tobytes()
    return Response(content, media_type="application/octet-stream")


def _edit(asked: dict[str, Any], classes: int) -> dict[str, Any]:
    """An edit with all its values in their ranges."""
    made: dict[str, Any] = {
        "op": str(asked.get("op"))[:40],
        "mode": "less" if asked.get("mode") == "less" else "more",
        "into": int(_number(asked, "into", 0, MOST_ID, 0)),
        "radius": _number(asked, "radius", 0, 500, 8),
        "width": _number(asked, "width", NARROWEST, WIDEST, 1),
        "x": _number(asked, "x", -FARTHEST_PX, FARTHEST_PX, 0),
        "y": _number(asked, "y", -FARTHEST_PX, FARTHEST_PX, 0),
        "class_id": None,
        "path": [(0.0, 0.0)],
    }
    if asked.get("class_id") is not None:
        made["class_id"] = int(_number(asked, "class_id", 0, classes - 1, 0))
    if "path" in asked:
        made["path"] = _path(asked["path"])
    return made


def _number(asked: dict[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = asked.get(name, default)
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not known or not low <= value <= high:
        raise _BadRequest(f"{name}: expected a number from {low:g} to {high:g}")
    return float(value)


def _path(given: Any) -> list[tuple[float, float]]:
    try:
        points = np.array(given, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _BadRequest("path: expected [[x, y], ...]") from error
    shaped = points.ndim == 2 and points.shape[1] == 2 and 0 < len(points) <= MOST_POINTS
    if not shaped or not (np.abs(points) <= FARTHEST_PX).all():
        raise _BadRequest(f"path: expected 1 to {MOST_POINTS} points [x, y] of the image")
    return [(x, y) for x, y in points.tolist()]
