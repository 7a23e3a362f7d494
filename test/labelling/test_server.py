"""The server: what a browser with the token gets, and that nobody else gets anything."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from label_sessions import CLASSES, DISCS, DiscNetwork, disc_labels, write_frames

for package in ("starlette", "uvicorn", "pycocotools"):
    pytest.importorskip(package, reason="the extra `label` is not installed")

from instaseg_ros.labelling.frames import open_frames  # noqa: E402
from instaseg_ros.labelling.network import Network  # noqa: E402
from instaseg_ros.labelling.server import HEADERS, MOST_BYTES, Server  # noqa: E402
from instaseg_ros.labelling.session import Session  # noqa: E402
from instaseg_ros.labelling.store import open_store  # noqa: E402

EVIL = "<img src=x onerror=alert(1)>.png"


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def patch(self) -> tuple[dict[str, Any], np.ndarray]:
        """Facts, and labels."""
        length = int.from_bytes(self.content[:4], "little")
        facts = json.loads(self.content[4 : 4 + length])
        _, _, width, height = facts["box"]
        labels = np.frombuffer(self.content, "<u2", width * height, 4 + length)
        return facts, labels.reshape(height, width)


class Client:
    """A browser's window."""

    def __init__(self, server: Server, page: str = "one") -> None:
        self._server = server
        self.headers = {"X-Instaseg-Token": server.token, "X-Instaseg-Page": page}

    def ask(
        self, path: str, body: Any = None, method: str = "", raw: bytes = b"", **headers: str
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        sent = {**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}}
        content = raw or (None if body is None else json.dumps(body).encode())
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        method = method or ("GET" if content is None else "POST")
        connection.request(method, path, content, sent)
        answer = connection.getresponse()
        found = Answer(answer.status, answer.msg, answer.read())
        connection.close()
        return found

    def edit(self, op: str, **more: Any) -> Answer:
        return self.ask("/api/edit/0", {"op": op, **more})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = write_frames(tmp_path / "frames")
    (folder / "002.png").rename(folder / EVIL)
    session = Session(
        open_frames(str(folder), None, 1), open_store(tmp_path / "mine", CLASSES, False)
    )
    session.network = cast(Network, DiscNetwork())
    one = Server(session)
    one.start()
    yield one
    one.stop()
    session.close()


def test_a_session_over_http(server: Server) -> None:
    client = Client(server)
    state = client.ask("/api/start", {}).json
    assert state["frames"] == 3 and state["class_names"] == [*CLASSES]
    image = client.ask("/api/image/0")
    assert image.headers["Content-Type"] == "image/jpeg" and image.content[:2] == b"\xff\xd8"
    facts, labels = client.ask("/api/frame/0").patch
    assert len(facts["objects"]) == 2
    np.testing.assert_array_equal(labels > 0, np.isin(disc_labels(), (1, 2)))
    x, y, radius = DISCS[2]
    facts, labels = client.edit("click", x=x + 0.5, y=y + 0.5).patch
    assert facts["active"] == 3 and facts["objects"][2] == [3, 1, "click"]
    assert facts["box"] == [x - radius, y - radius, 2 * radius + 1, 2 * radius + 1]
    assert client.edit("undo").patch[0]["redo"]
    answer = client.edit("undo")
    assert (answer.status, answer.json) == (422, {"error": "nothing to undo"})
    made = client.ask("/api/classes", {"name": "cone\x1b[31m"}).json
    assert made == {"class_id": 2, "class_names": [*CLASSES, "cone?[31m"]}
    status = client.ask("/api/status/0").json
    assert status["how"] == DiscNetwork.how
    assert not status["newer"] and not status["learning"]  # without --learn
    assert client.ask("/api/again/0", {}).status == 200
    assert client.ask("/api/again/0").status == 405
    assert client.ask("/api/frame/2").patch[0]["name"].endswith(EVIL)  # the page shows it as text


def test_every_answer_forbids_what_the_page_does_not_need(server: Server) -> None:
    client = Client(server)
    for path in ("/", "/page.js", "/page.css", "/api/status/0", "/api/frame/77", "/none"):
        headers = client.ask(path).headers
        for name, value in HEADERS.items():
            assert headers[name] == value, path
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X_Instaseg_Token": ""}, 401),
        ({"X_Instaseg_Token": "wrong"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_strangers_get_nothing(server: Server, headers: dict[str, str], status: int) -> None:
    client = Client(server)
    client.ask("/api/start", {})
    for path, body in (("/api/status/0", None), ("/api/image/0", None), ("/api/edit/0", {})):
        answer = client.ask(path, body, **headers)
        assert answer.status == status and set(answer.json) == {"error"}


def test_the_page_itself_may_ask(server: Server) -> None:
    client = Client(server)
    origin = f"http://127.0.0.1:{server.port}"
    assert client.ask("/api/start", {}, Origin=origin).status == 200
    answer = client.ask("/api/start", {}, Host=f"localhost:{server.port}")
    assert answer.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/server.py",
        "/..%2fserver.py",
        "/page.js/../../server.py",
        "//etc/passwd",
        "/.labelling",
        "/api/image/../../../etc/passwd",
        "/api/image/0%2f..%2f1",
        "/api/image/-1",
        "/api/image/99",
    ],
)
def test_no_path_leads_anywhere(server: Server, path: str) -> None:
    answer = Client(server).ask(path)
    assert answer.status in (404, 422) and b"import" not in answer.content


@pytest.mark.parametrize(
    "body",
    [
        {"op": "click", "x": "1", "y": 2},
        {"op": "click", "x": 1e300, "y": 2},
        {"op": "brush", "radius": -1, "path": [[1, 1]]},
        {"op": "brush", "path": [[1, None]]},
        {"op": "brush", "path": []},
        {"op": "brush", "path": [[1, 2, 3]]},
        {"op": "brush", "path": {"a": 1}},
        {"op": "brush", "path": [[10**400, 1]]},
        {"op": "brush", "path": [[0, 0]] * 20001},
        {"op": "class", "into": 1, "class_id": 2},
        {"op": "class", "into": 65536, "class_id": 0},
        {"op": "class", "into": True, "class_id": 0},
        {"op": "width", "width": 1e9},
        {"op": "__class__"},
        {"op": ["click"]},
        [],
        "click",
        None,
    ],
)
def test_what_the_page_does_not_send_changes_nothing(server: Server, body: Any) -> None:
    client = Client(server)
    client.ask("/api/start", {})
    before = client.ask("/api/frame/0").content
    answer = client.ask("/api/edit/0", raw=json.dumps(body).encode())
    assert answer.status == 422 and set(answer.json) == {"error"}
    assert client.ask("/api/frame/0").content == before


def test_what_is_no_json_or_too_much_is_refused(server: Server) -> None:
    client = Client(server)
    client.ask("/api/start", {})
    assert client.ask("/api/edit/0", raw=b"{").status == 422
    assert client.ask("/api/edit/0", raw=b"[" * 100_000).status == 422
    assert client.ask("/api/edit/0", raw=b'{"op": NaN, "x": NaN, "path": [[NaN, 1]]}').status == 422
    assert client.ask("/api/edit/0", raw=b"x" * (MOST_BYTES + 1)).status == 413
    # What a form of another site could send without asking first.
    assert client.ask("/api/edit/0", raw=b"{}", Content_Type="text/plain").status == 413
    assert client.ask("/api/start", method="GET").status == 405


def test_a_second_window_is_refused_in_words_until_it_takes_over(server: Server) -> None:
    first, second = Client(server, "one"), Client(server, "two")
    assert first.ask("/api/start", {}).status == 200
    answer = second.ask("/api/start", {})
    assert answer.status == 409 and "in another window" in answer.json["error"]
    assert second.edit("accept").status == 409
    assert second.ask("/api/start", {"take_over": True}).status == 200
    assert first.edit("accept").status == 409 and second.edit("accept").status == 200


def test_the_page_takes_nothing_from_elsewhere() -> None:
    page = Path(__file__).parents[2] / "instaseg_ros" / "labelling" / "page"
    for file in page.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "://" not in text and "innerHTML" not in text, file
        assert "eval(" not in text and "style=" not in text, file
