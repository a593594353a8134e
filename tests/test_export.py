"""The command export: a run becomes a folder that needs neither torch nor this package."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard

import beyond_text
from beyond_text.export import main
from beyond_text.exporting.folder import is_export
from beyond_text.metrics.ranking import per_query, retrieval_metrics
from beyond_text.metrics.results import with_pool, write_results
from beyond_text.metrics.trec import read_trec
from beyond_text.models.checkpoint import load_model, save_model
from beyond_text.retrieval.encode import Encoder
from beyond_text.retrieval.ranking import rank
from beyond_text.retrieval.run import split_for
from tests import ROOT
from tests.conftest import tiny_tokenizer
from tests.encoding.samples import moved, some_pictures
from tests.models.test_two_tower import tiny_model

# An export takes seconds.
pytestmark = pytest.mark.slow

MARKUP = "shop [x](http://a.b) <img src=x> | `c`"


@pytest.fixture(scope="module")
def run(folder: Path, tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that is not trained, but measured."""
    run = tmp_path_factory.mktemp("runs") / "run"
    changes = {"share_text_encoder": False, "query_prefix": "the ", "lower_case": True}
    model = moved(tiny_model(folder, "bert", "timm_resnet", picture_size=40, **changes))
    save_model(model, tiny_tokenizer(), run)
    model, tokenizer = load_model(run)
    catalogue, query_set = split_for(model, tiny_shards, "dev")
    queries = query_set.queries.assign(kind=MARKUP)
    ranking = rank(Encoder(model, tokenizer), catalogue, query_set)["product"]
    metrics = retrieval_metrics(ranking, queries, query_set.qrels)
    pooled = with_pool(metrics, len(catalogue.product_ids), catalogue.pool)
    write_results(run, pooled, ranking, queries, query_set.qrels)
    data = {"dev": str(tiny_shards), "sources": {"tables": {"path": str(tiny_shards)}}}
    # No folder, so the card knows no licence; the default's is there where the encoders are made.
    settings = {"data": data, "start": MARKUP, "text_encoder": {"path": "no/such/minilm-l6"}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    return run


@pytest.fixture(scope="module")
def out(run: Path, tiny_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "out"
    main([str(run), str(out), "--products", str(tiny_tables)])
    return out


def test_an_export_is_whole(out: Path) -> None:
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    graphs = {f"onnx/{n}.onnx" for n in ("query", "query.int8", "query_picture", "product")}
    beside = {"README.md", "example.py", "preprocessing.json", "tokenizer.json", "vectors.parquet"}
    assert graphs | beside | {"query/modules.json", "query/model.safetensors"} <= files
    assert is_export(out)


def test_the_card_says_what_was_measured_and_nothing_of_a_shop_is_markup(
    run: Path, out: Path
) -> None:
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "sentence-transformers"
    values = per_query(*read_trec(run))
    assert f"| all | {len(values)} | {values.mean():.3f} | " in card.text
    assert "24 products searched" in card.text
    assert "| tables | 24 | 22 | " in card.text
    assert "| text | minilm\\-l6 | unknown |" in card.text
    shown = r"shop \[x\]\(http\:\/\/a\.b\) &lt;img src=x&gt; \| \`c\`".replace(r"\.", ".")
    assert card.text.count(shown) >= 1
    assert "<img" not in card.text
    assert "](http://a.b)" not in card.text
    for name in ("pgvector", "Qdrant", "OpenSearch", "Vespa"):
        assert f"**{name}**" in card.text


def test_int8_is_near_and_its_cost_is_stated(run: Path, out: Path) -> None:
    texts = ["red vase", "a blue lamp for the home", "rug"]
    exact = beyond_text.load(out).encode_queries(texts)
    small = beyond_text.load(out, precision="int8").encode_queries(texts)
    assert not np.array_equal(exact, small)
    assert (exact * small).sum(axis=1).min() > 0.95
    assert "`query.int8.onnx` gives an nDCG@10 of 0." in (out / "README.md").read_text()


def test_vectors_are_those_of_the_products(run: Path, out: Path, tiny_tables: Path) -> None:
    table = pq.read_table(out / "vectors.parquet").to_pylist()
    assert len(table) == 48
    row = next(row for row in table if row["product_id"] == "dev.1")
    assert (row["title"], row["category"]) == ("vase", "decor")
    file = tiny_tables / "images" / "dev.1.jpg"
    fields = load_model(run)[0].settings.text_fields
    words = {"title": "vase", "category": "decor", "description": "a vase home decor"}
    text = ". ".join(words[name] for name in fields)
    expected = beyond_text.load(out).encode_products([text], [file])[0]
    np.testing.assert_allclose(row["vector"], expected, atol=1e-4)


def test_an_export_encodes_without_torch(out: Path) -> None:
    picture = out.parent / "picture.jpg"
    picture.write_bytes(some_pictures(1)[0])
    code = (
        "import sys, beyond_text\n"
        "from pathlib import Path\n"
        f"model = beyond_text.load({str(out)!r})\n"
        f"picture = Path({str(picture)!r})\n"
        "model.encode_queries(['red vase', ''], [None, picture])\n"
        "model.encode_products(['red vase', ''], [None, picture])\n"
        "assert not {'torch', 'transformers', 'pytorch_lightning', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_example_gives_the_vectors_of_torch(run: Path, out: Path) -> None:
    picture = some_pictures(2)[1]
    place = out.parent / "pictures"
    place.mkdir(exist_ok=True)
    (place / "a.png").write_bytes(picture)
    code = (
        "import json, sys\nfrom pathlib import Path\nimport example as e\n"
        f"p = Path({str(place / 'a.png')!r}).read_bytes()\n"
        "q = e.encode('query.onnx', ['Red vase', 'rug'], [None] * 2, e.TEXTS['query_prefix'])\n"
        "t = e.encode('query_picture.onnx', ['Red vase', ''], [p, p], e.TEXTS['query_prefix'])\n"
        "r = ['Red vase', 'Rug', ''], [p, None, p], e.TEXTS['text_prefix']\n"
        "assert not {'torch', 'beyond_text', 'transformers'} & set(sys.modules)\n"
        "print(json.dumps([q.tolist(), t.tolist(), e.encode('product.onnx', *r).tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=out, capture_output=True, text=True
    )
    queries, triggers, products = (np.array(part) for part in json.loads(done.stdout))
    model = beyond_text.load(run)
    np.testing.assert_allclose(queries, model.encode_queries(["Red vase", "rug"]), atol=1e-4)
    expected = model.encode_queries(["Red vase", ""], [picture, picture])
    # Pillow resizes with other rounding than torchvision: one level of 255 in a few pixels.
    assert (triggers * expected).sum(axis=1).min() > 0.999
    expected = model.encode_products(["Red vase", "Rug", ""], [picture, None, picture])
    np.testing.assert_allclose(products[1], expected[1], atol=1e-4)
    assert (products * expected).sum(axis=1).min() > 0.999


def test_a_folder_that_is_not_an_export_is_kept_and_an_export_is_replaced(
    run: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    with pytest.raises(SystemExit, match=r"error: .*mine: expected a new or empty folder"):
        main([str(run), str(mine)])
    assert (mine / "thesis.txt").read_text() == "all of it"
    (out / "left over").write_text("")
    (out / "onnx" / "product.onnx").unlink()
    with pytest.raises(ValueError, match=r"product.onnx: no such file, which this needs"):
        beyond_text.load(out).encode_products(["red vase"])
    assert len(beyond_text.load(out).encode_queries(["red vase"])) == 1
    # Nothing of a failed export is seen.
    with pytest.raises(SystemExit, match="error: "):
        main([str(run), str(out), "--products", str(mine)])
    assert (out / "left over").exists()
    main([str(run), str(out)])
    assert not (out / "left over").exists()
    assert not (out / "vectors.parquet").exists()
    assert beyond_text.load(out).encode_products(["red vase"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/run", "OUT"], "no/run: no finished model there"),
        (["RUN", "OUT", "--products", "no/shop"], "no/shop: no such file or folder"),
        (["RUN", "OUT", "--push", "../x"], "--push: expected OWNER/NAME, got '../x'"),
    ],
)
def test_a_mistake_is_one_line(run: Path, tmp_path: Path, words: list[str], message: str) -> None:
    places = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    with pytest.raises(SystemExit, match=f"error: {message}"):
        main([places.get(word, word) for word in words])
    assert not (tmp_path / "out").exists()


@contextmanager
def fake_hub(
    is_private: bool = True,
) -> Iterator[tuple[str, dict[str, bytes], list[dict[str, Any]]]]:
    """Yields the address of a hub on the loopback, the files it was sent, and its repositories."""
    files: dict[str, bytes] = {}
    created: list[dict[str, Any]] = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size) if size else self._chunks()
            answer: dict[str, Any] = {}
            if self.path.endswith("/repos/create"):
                created.append(json.loads(body))
                answer = {"url": f"http://{self.headers['Host']}/owner/name", "id": "1"}
            elif "/preupload/" in self.path:
                paths = [each["path"] for each in json.loads(body)["files"]]
                answer = {
                    "files": [
                        {"path": path, "uploadMode": "regular", "shouldIgnore": False}
                        for path in paths
                    ]
                }
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    if line["key"] == "deletedFile":
                        del files[line["value"]["path"]]
                answer = {
                    "commitUrl": f"http://{self.headers['Host']}/owner/name/commit/1",
                    "commitOid": "1" * 40,
                }
            self._answer(answer)

        def do_GET(self) -> None:
            listed = [{"type": "file", "path": p, "size": 1, "oid": "0" * 40} for p in files]
            about = {"id": "owner/name", "sha": "0" * 40, "tags": [], "private": is_private}
            of_files = [{"rfilename": path} for path in files]
            self._answer(listed if "/tree/" in self.path else about | {"siblings": of_files})

        def _chunks(self) -> bytes:
            content = b""
            while length := int(self.rfile.readline() or b"0", 16):
                content += self.rfile.read(length)
                self.rfile.readline()
            return content

        def _answer(self, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", files, created
    finally:
        server.shutdown()
        server.server_close()


def push(folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    code = (
        "from pathlib import Path\nfrom beyond_text.exporting.push import push\n"
        "from beyond_text.terminal import errors_in_one_line\n"
        f"with errors_in_one_line():\n    print(push(Path({str(folder)!r}), 'owner/name'))"
    )
    changes = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"}
    changes |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "hf")}
    environment = {**os.environ, **changes}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_an_export_is_uploaded_to_a_hub(tmp_path: Path) -> None:
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "README.md").write_text("# a card\n")
    (tmp_path / "out" / "onnx" / "query.onnx").write_bytes(bytes(range(256)))
    with fake_hub() as (endpoint, files, created):
        files["vectors.parquet"] = b"of an earlier export"
        done = push(tmp_path / "out", endpoint)
    assert done.returncode == 0, done.stderr
    assert "/owner/name" in done.stdout
    assert files == {"README.md": b"# a card\n", "onnx/query.onnx": bytes(range(256))}
    assert [(each["name"], each["visibility"]) for each in created] == [("name", "private")]


def test_nothing_is_uploaded_to_a_repository_that_is_public(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("# a card\n")
    with fake_hub(is_private=False) as (endpoint, files, _):
        done = push(tmp_path / "out", endpoint)
    assert done.returncode == 1
    assert "owner/name: not uploaded: the repository is public" in done.stderr
    assert files == {}


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = push(tmp_path / "out", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: --push owner/name: not uploaded")


def test_vectors_are_searched_in_postgresql(out: Path, tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pgserver", reason="needs a PostgreSQL with pgvector (pgserver)")
    psycopg = pytest.importorskip("psycopg")
    model = beyond_text.load(out)
    texts = ["red vase", "a rug", "blue lamp for the home"]
    vectors = model.encode_products(texts)
    try:
        server = pgserver.get_server(str(tmp_path / "postgres"))
    except Exception as error:
        pytest.skip(f"PostgreSQL does not start here: {error}"[:200])
    card = (out / "README.md").read_text()
    sql = card.split("```sql\n")[1].split("```")[0]
    *making, searching = [statement for statement in sql.split(";") if statement.strip()]
    with psycopg.connect(server.get_uri()) as database:
        for statement in making:
            database.execute(statement)
        for number, vector in enumerate(vectors):
            row = (str(number), texts[number], "", json.dumps(vector.tolist()))
            database.execute("INSERT INTO products VALUES (%s, %s, %s, %s)", row)
        query = json.dumps(model.encode_queries(["a rug"])[0].tolist())
        found = database.execute(searching, {"query": query}).fetchall()
    expected = np.argsort(-(vectors @ model.encode_queries(["a rug"])[0]))
    assert [product_id for product_id, _ in found] == [str(number) for number in expected]
    server.cleanup()
