"""The service finds what its index finds, says in one shape what it cannot do, opens updates."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from beyond_text.index import main as index
from beyond_text.indexing.index import Index
from beyond_text.serving.app import create_app
from beyond_text.serving.indexes import Indexes, named
from beyond_text.serving.limits import Limits
from beyond_text.serving.measures import Measures
from beyond_text.serving.pictures import SIDE, checked
from tests import ROOT
from tests.hostile import GOOD_PICTURE
from tests.serving.conftest import MARKUP, ODD, serving
from tests.tables.test_pictures import bomb, encode

POLICY = "default-src 'none'; script-src 'self'"
BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def opened(indexed: Path) -> Index:
    return Index.open(indexed)


def in_process(indexed: Path, **limits: Any) -> TestClient:
    """A client of the application in this process."""
    measures = Measures()
    indexes = Indexes({"shop": indexed}, measures)
    app = create_app(indexes, measures, Limits(**limits), hosts=("127.0.0.1",))
    return TestClient(app, base_url=BASE, raise_server_exceptions=False)


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["product_id"] for hit in answer.json()["hits"]]


@pytest.mark.parametrize(
    "asked",
    [
        {"text": "red rug"},
        {"text": "blue vase", "weight": 1},
        {"text": "blue vase", "weight": 0},
        {"text": "a lamp", "filters": ["price<20", 'brand=Norrby|"Ode|""Co"""'], "top": 5},
        {"text": "a lamp", "filters": ["!in_stock"], "weight": 0.5},
    ],
)
def test_words_find_what_the_index_finds(
    client: httpx.Client, opened: Index, asked: dict[str, Any]
) -> None:
    answer = client.post("/search", json=asked)
    [expected] = opened.search(
        [asked["text"]],
        top=asked.get("top", 24),
        where=asked.get("filters", ()),
        weight=asked.get("weight"),
    )
    assert expected
    assert ids(answer) == [hit.product_id for hit in expected]
    for hit, wanted in zip(answer.json()["hits"], expected, strict=True):
        assert hit["score"] == pytest.approx(wanted.score, abs=1e-4)
        assert hit["vector"] == pytest.approx(wanted.vector, abs=1e-4)
        assert (hit["lexical"] is None) == (wanted.lexical is None)
        assert (hit["text"], hit["columns"]) == (wanted.text, wanted.columns)


def test_a_picture_finds_the_same_as_base64_and_as_a_file(
    client: httpx.Client, opened: Index
) -> None:
    [expected] = opened.search(None, [GOOD_PICTURE], top=6)
    coded = base64.b64encode(GOOD_PICTURE).decode()
    by_json = client.post("/search", json={"picture": coded, "top": 6})
    by_form = client.post("/search", data={"top": 6}, files={"picture": ("x", GOOD_PICTURE)})
    assert ids(by_json) == ids(by_form) == [hit.product_id for hit in expected]
    both = client.post(
        "/search",
        data={"text": "rug", "top": "6", "filters": ["price<30", "in_stock"], "weight": "1"},
        files={"picture": ("x.jpg", GOOD_PICTURE, "image/jpeg")},
    )
    [expected] = opened.search(
        ["rug"], [GOOD_PICTURE], top=6, where=("price<30", "in_stock"), weight=1.0
    )
    assert ids(both) == [hit.product_id for hit in expected]


def test_many_clients_at_a_time_get_what_each_gets_alone(client: httpx.Client) -> None:
    asked = [
        {"text": f"{colour} {kind}", "top": 5, "index": "trained"}
        for colour in ("red", "blue", "green")
        for kind in ("rug", "vase", "lamp", "cushion")
    ]
    alone = [ids(client.post("/search", json=each)) for each in asked]
    with ThreadPoolExecutor(12) as threads:
        for _ in range(5):
            answers = threads.map(lambda each: client.post("/search", json=each), asked)
            assert [ids(answer) for answer in answers] == alone
    measured = client.get("/metrics").text
    batches = float(re.search(r"^batch_queries_count (.*)$", measured, re.M)[1])  # type: ignore[index]
    queries = float(re.search(r"^batch_queries_sum (.*)$", measured, re.M)[1])  # type: ignore[index]
    assert queries > batches
    assert 'request_seconds_count{route="/search",status="200"}' in measured


@pytest.mark.parametrize("product_id", ODD)
def test_a_product_of_any_id_is_found_by_it(
    client: httpx.Client, opened: Index, product_id: str
) -> None:
    place = quote(product_id, safe="")
    answer = client.get(f"/products/{place}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["product_id"] == product_id
    place, expected = answer.json()["picture"], opened.picture(product_id)
    assert (place is None) == (expected is None)
    assert place is None or client.get("/" + place).content == expected


@pytest.mark.parametrize(
    "path",
    [
        "/products/..%2f..%2fetc%2fpasswd%00",
        "/pictures/..%2f..%2f..%2f..%2fetc%2fpasswd%2f",
        "/pictures/%2fetc%2fpasswd",
        "/page/..%2fapp.py",
        "/page/%2e%2e%2fapp.py",
        "/page//etc/passwd",
        "/nothing",
        "/docs",
    ],
)
def test_no_path_reaches_the_file_system(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"status", "error"}
    assert "root:" not in answer.text


def test_a_picture_is_sent_with_its_type_and_only_once(client: httpx.Client) -> None:
    answer = client.get("/pictures/dev.0", params={"index": "trained"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    again = client.get("/pictures/dev.0", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("/pictures/dev.5", "/pictures/nobody"):
        assert client.get(path).status_code == 404


def test_facets_count_a_column_among_what_passes_the_other_filters(
    client: httpx.Client, opened: Index
) -> None:
    def counted(*filters: str) -> dict[str, dict[Any, int]]:
        found = client.get("/facets", params={"filters": filters}).json()["facets"]
        return {
            name: {each["value"]: each["products"] for each in values}
            for name, values in found.items()
        }

    brands = counted()["brand"]
    assert sum(brands.values()) == len(opened)
    filtered = counted("brand=Norrby")
    assert filtered["brand"] == brands
    assert sum(filtered["in_stock"].values()) == brands["Norrby"]
    # Where nothing passes both, each tells what it could be beside the other.
    none = counted("brand=Nobody", "in_stock")
    assert sum(none["brand"].values()) < len(opened)
    assert set(none) == {"brand"}


def test_the_service_says_what_it_serves(client: httpx.Client, opened: Index) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert [(one["name"], one["products"], one["weight"]) for one in health["indexes"]] == [
        ("trained", len(opened), 0.8),
        ("untouched", len(opened), 0.8),
    ]
    assert health["indexes"][0]["columns"]["price"] == "number"
    described = client.get("/openapi.json").json()
    assert {
        "/search",
        "/products/{product_id}",
        "/pictures/{product_id}",
        "/facets",
        "/health",
        "/metrics",
    } <= set(described["paths"])
    body = described["paths"]["/search"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    for example in body["application/json"]["examples"].values():
        assert client.post("/search", json=example["value"] | {"filters": []}).status_code == 200


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({"json": {}}, 422, "nothing to look for"),
    "blanks": ({"json": {"text": " \t\n"}}, 422, "nothing to look for"),
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
    "a list": ({"json": []}, 422, "object"),
    "no type": ({"content": b"red rug"}, 415, "expected application/json"),
    "a long text": ({"json": {"text": "x" * 2001}}, 422, "text: String should have at most 2000"),
    "half a character": (
        {"content": b'{"text": "\\ud800"}', "headers": {"content-type": "application/json"}},
        400,
        "JSON",
    ),
    "a number for a text": ({"json": {"text": 5}}, 422, "text: "),
    "none of them": ({"json": {"text": "rug", "top": 0}}, 422, "top: "),
    "too many": ({"json": {"text": "rug", "top": 201}}, 422, "top: "),
    "a text for a number": ({"json": {"text": "rug", "top": "5"}}, 422, "top: "),
    "too heavy": ({"json": {"text": "rug", "weight": 1.01}}, 422, "weight: "),
    "no number": (
        {
            "content": b'{"text": "rug", "weight": NaN}',
            "headers": {"content-type": "application/json"},
        },
        422,
        "weight: ",
    ),
    "words without words": (
        {"json": {"picture": base64.b64encode(GOOD_PICTURE).decode(), "weight": 0.5}},
        422,
        "needs a text",
    ),
    "a name of ours misspelt": ({"json": {"text": "rug", "filter": []}}, 422, "filter: "),
    "an unknown index": ({"json": {"text": "rug", "index": "x"}}, 404, "trained, untouched"),
    "an unknown column": ({"json": {"text": "rug", "filters": ["colour=red"]}}, 422, "'colour'"),
    "a filter that is none": ({"json": {"text": "rug", "filters": ["price<"]}}, 422, "price<"),
    "a price in words": ({"json": {"text": "rug", "filters": ["price<ten"]}}, 422, "'ten'"),
    "too many filters": ({"json": {"text": "rug", "filters": ["in_stock"] * 21}}, 422, "filters: "),
    "no base64": ({"json": {"picture": "n/o b64!"}}, 422, "picture: expected base64"),
    "no picture": ({"json": {"picture": "bm8="}}, 422, "picture unreadable"),
    "a bomb": ({"files": {"picture": ("x.png", bomb(60_000, 60_000))}}, 422, "picture too large"),
    "half a picture": ({"files": {"picture": ("x.jpg", GOOD_PICTURE[:300])}}, 422, "unreadable"),
    "a picture as a text": ({"files": {"picture": (None, "x")}}, 422, "picture: expected a file"),
    "two pictures": (
        {"files": [("picture", ("x", GOOD_PICTURE)), ("picture", ("y", GOOD_PICTURE))]},
        400,
        "",
    ),
    "two texts": ({"files": [("text", (None, "rug")), ("text", (None, "vase"))]}, 422, "text: "),
    "a form that is none": (
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=y"}},
        400,
        "",
    ),
    "a form without boundary": (
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}},
        400,
        "",
    ),
    "too long a body": ({"content": b"x" * 8_000_001}, 413, "8,000,000 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_searched_for_is_one_line_of_one_shape(
    client: httpx.Client, name: str
) -> None:
    request, status, part = WRONG[name]
    answer = client.post("/search", **request)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    assert set(problem) == {"status", "error"}
    assert problem["status"] == status
    assert part in problem["error"]
    assert "\n" not in problem["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/page/app.js", 200),
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/pictures/dev.0", 200),
        ("GET", "/nothing", 404),
        ("DELETE", "/search", 405),
        ("GET", "/facets?filters=", 422),
        ("GET", "/products/dev.0?index=x", 404),
    ],
)
def test_every_answer_has_the_headers_that_keep_strangers_out(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"].startswith(POLICY)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "server" not in answer.headers
    if status >= 400:
        assert set(answer.json()) == {"status", "error"}


def test_a_service_of_this_machine_answers_to_its_own_names_only(client: httpx.Client) -> None:
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 421


def test_a_body_is_cut_off_whatever_its_head_says(indexed: Path) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    with in_process(indexed, body=5000) as client:
        answer = client.post(
            "/search", content=endless(), headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["status"]) == (413, 413)


def test_limits_of_pixels_time_and_requests_are_kept(indexed: Path) -> None:
    with in_process(indexed, pixels=100) as client:
        answer = client.post("/search", files={"picture": ("x", GOOD_PICTURE)})
        assert answer.status_code == 422
        assert "30x20 is 600 pixels, expected <= 100" in answer.json()["error"]
    with in_process(indexed, seconds=1e-9) as client:
        answer = client.post("/search", json={"text": "rug"})
        assert (answer.status_code, answer.json()["error"]) == (
            503,
            "not answered within 1e-09 seconds",
        )
    with in_process(indexed, requests=0) as client:
        assert client.get("/health").status_code == 503


def test_pictures_that_browsers_do_not_show_are_sent_as_jpeg() -> None:
    wide = Image.new("RGB", (2 * SIDE, 30), "teal")
    for data, media_type, longest in (
        (GOOD_PICTURE, "image/jpeg", 30),
        (encode(Image.new("RGB", (30, 20)), "WEBP"), "image/webp", 30),
        (encode(Image.new("RGB", (30, 20)), "BMP"), "image/jpeg", 30),
        (encode(wide, "PNG"), "image/jpeg", SIDE),
    ):
        sent = checked(data)
        assert sent.media_type == media_type
        assert max(Image.open(BytesIO(sent.content)).size) == longest


WITHOUT_TORCH = """
import sys
from starlette.testclient import TestClient
from beyond_text.serve import main
from beyond_text.serving.app import create_app
from beyond_text.serving.indexes import Indexes
from beyond_text.serving.measures import Measures
from pathlib import Path
measures = Measures()
app = create_app(Indexes({"a": Path(sys.argv[1])}, measures), measures)
with TestClient(app, base_url="http://127.0.0.1") as client:
    found = client.post("/search", json={"text": "red rug"})
    assert found.status_code == 200, found.text
    found = client.post("/search", files={"picture": ("x", Path(sys.argv[2]).read_bytes())})
    assert found.status_code == 200, found.text
    assert client.get("/pictures/dev.0").status_code == 200
assert not {"torch", "transformers", "pandas"} & set(sys.modules), sys.modules.keys()
"""


def test_the_service_imports_no_torch(indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(GOOD_PICTURE)
    words = [sys.executable, "-c", WITHOUT_TORCH, str(indexed), str(tmp_path / "x.jpg")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_shop_wrote_is_data(client: httpx.Client) -> None:
    answer = client.get(f"/products/{quote(ODD[0], safe='')}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["columns"]["title"] == MARKUP or "rug" in answer.json()["title"]


@pytest.fixture
def changing(indexed: Path, shop: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A shop and its index that may be changed."""
    shutil.copytree(shop, tmp_path / "shop")
    shutil.copytree(indexed, tmp_path / "index")
    return tmp_path / "shop", tmp_path / "index"


def add_products(shop: Path, count: int = 1) -> None:
    lines = "".join(
        f"new.{n},vase number {n},a new one,decor,,new.{n},train,9.5,Norrby,true\n"
        for n in range(count)
    )
    with (shop / "products.csv").open("a", encoding="utf-8") as file:
        file.write(lines)


def test_an_updated_index_is_opened_without_a_lost_request(
    changing: tuple[Path, Path], model: Path
) -> None:
    tables, folder = changing
    answers: list[int] = []
    stop = threading.Event()

    def ask(address: str) -> None:
        with httpx.Client(base_url=address, timeout=20) as client:
            while not stop.is_set():
                answers.append(client.post("/search", json={"text": "red rug"}).status_code)

    with serving(str(folder)) as address, httpx.Client(base_url=address) as client:
        asking = [threading.Thread(target=ask, args=[address]) for _ in range(4)]
        for thread in asking:
            thread.start()
        try:
            assert client.get("/products/new.0").status_code == 404
            add_products(tables)
            index([str(tables), str(folder), "--model", str(model), "--workers", "1"])
            until = time.monotonic() + 20
            while client.get("/products/new.0").status_code != 200:
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            stop.set()
            for thread in asking:
                thread.join()
        assert 'reloads_total{index="index",outcome="opened"} 1.0' in client.get("/metrics").text
    assert len(answers) > 20
    assert set(answers) == {200}


def test_after_a_kill_in_the_middle_of_an_update_the_old_index_answers(
    changing: tuple[Path, Path], model: Path, opened: Index
) -> None:
    tables, folder = changing
    add_products(tables, 60)
    words = [str(tables), str(folder), "--model", str(model), "--workers", "1"]
    with serving(str(folder)) as address, httpx.Client(base_url=address) as client:
        before = ids(client.post("/search", json={"text": "red rug"}))
        update = subprocess.Popen(
            [sys.executable, "-m", "beyond_text.index", *words], cwd=ROOT, start_new_session=True
        )
        while not (folder / "building").exists() and update.poll() is None:
            time.sleep(0.002)
        os.killpg(update.pid, signal.SIGKILL)
        update.wait()
        assert ids(client.post("/search", json={"text": "red rug"})) == before
        assert client.get("/products/new.0").status_code == 404
    with serving(str(folder)) as address, httpx.Client(base_url=address) as client:
        assert ids(client.post("/search", json={"text": "red rug"})) == before
    # The same command goes on.
    index(words)
    assert len(Index.open(folder)) == len(opened) + 60


def test_an_update_that_cannot_be_opened_leaves_the_old_index_answering(
    changing: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = changing
    measures = Measures()
    indexes = Indexes({"shop": folder}, measures)
    (folder / "index.json").write_text("{")
    assert indexes.reload() == []
    assert "not opened again" in capsys.readouterr().err
    # The same is not said at every look.
    assert indexes.reload() == []
    assert not capsys.readouterr().err
    assert len(indexes["shop"].search(["red rug"], top=3)[0]) == 3
    assert 'outcome="failed"' in measures.text().decode()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere"], "nowhere"),
        (["a=x", "a=y"], "two indexes are called 'a'"),
        (["x", "--host", "203.0.113.1"], "203.0.113.1:8000: not listened at"),
    ],
)
def test_a_command_that_cannot_run_says_why_in_one_line(words: list[str], part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "beyond_text.serve", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert part in done.stderr
    assert done.stderr.count("\n") == 1


def test_indexes_are_called_as_their_folders_unless_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    assert named([str(tmp_path), "x=some/where", str(tmp_path / "a=b")]) == {
        tmp_path.name: tmp_path,
        "x": Path("some/where"),
        "a=b": tmp_path / "a=b",
    }
