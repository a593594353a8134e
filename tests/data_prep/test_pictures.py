"""Tests that pictures are fetched once, whole or with a reason, and tables name their files."""

from __future__ import annotations

import csv
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beyond_text.tables.layouts import DEFAULT_LAYOUT, TableError
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import RejectError
from data_prep.adapters import ADAPTERS
from data_prep.fetch import slices
from data_prep.fetch.fetcher import FetchSettings
from data_prep.fetch.shop import read_shop, write_table
from data_prep.fetch.status import Outcome, read_outcomes, write_outcomes
from data_prep.pictures import Fetched, fetch_pictures, main
from data_prep.rejects import BuildError
from data_prep.shards import build_shards
from tests import ROOT
from tests.data_prep.fetch.server import JPEG, PNG, Host, picture_host

QUICK = FetchSettings(timeout=5, backoff=0.01, allow_private=True)


@pytest.fixture
def host() -> Iterator[Host]:
    with picture_host() as host:
        yield host


def write(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    return folder


def shop(folder: Path, *images: str) -> Path:
    """Writes a product for each value of `image`: p0, p1 ..."""
    rows = [
        {"product_id": f"p{number}", "title": f"Vase {number}", "image": image}
        for number, image in enumerate(images)
    ]
    return write(folder / "shop", "products", rows)


def fetch(tables: Path, out: Path, **options: object) -> Fetched:
    quick = {name: options.pop(name) for name in list(options) if name in QUICK.__dict__}
    return fetch_pictures(
        tables,
        out,
        settings=FetchSettings(**{**QUICK.__dict__, **quick}),
        **options,  # type: ignore[arg-type]
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images_of(out: Path, table: str = "products") -> list[str]:
    return [row["image"] for row in rows_of(out / f"{table}.csv")]


def test_shards_are_made_of_what_was_fetched(host: Host, tmp_path: Path) -> None:
    tables = shop(tmp_path, f"{host.url}/ok.png", f" {host.url}/photo ", "", f"{host.url}/ok.png")
    asked = {"query_id": "q", "query": "red", "image": f"{host.url}/ok.png", "kind": "picture"}
    write(tables, "queries", [asked, {**asked, "query_id": "r", "image": f"{host.url}/gone.jpg"}])
    judged = [
        {"query_id": q, "product_id": "p1", "relevance": "2", "desirability": "0.5"} for q in "qr"
    ]
    write(tables, "qrels", judged)
    out = tmp_path / "out"
    fetched = fetch(tables, out)
    assert fetched == Fetched(
        urls=3,
        fetched=2,
        kept=0,
        failed={"status 404": 1},
        failed_before=0,
        rows={"queries.csv": (1, 2), "products.csv": (3, 4)},
        rejects={"status 404": 1},
    )
    assert host.hits["/ok.png"] == 1
    assert rows_of(out / "qrels.csv") == judged
    read = read_tables(out)
    assert not read.rejects
    assert [Path(path).read_bytes() if path else b"" for path in read.products["image"]] == [
        PNG, JPEG, b"", PNG,
    ]  # fmt: skip
    assert read.grades == ["relevance", "desirability"]
    manifest = build_shards(out, tmp_path / "shards", workers=1)
    assert manifest["rejects"] == {}
    assert sum(entry["pictures"] for entry in manifest["splits"].values()) >= 3


def test_the_bytes_decide_what_a_picture_is(host: Host, tmp_path: Path) -> None:
    names = (
        "ok.png", "photo", "gone.jpg", "page.jpg", "drawing.svg", "empty.jpg", "half.jpg",
        "giant.png", "heavy.jpg", "zipped.png", "bomb.png", "cut", "moved", "circle",
    )  # fmt: skip
    tables = shop(tmp_path, *(f"{host.url}/{name}" for name in names))
    out = tmp_path / "out"
    fetch(tables, out, max_bytes=100_000, attempts=1)
    reasons = {
        row["url"].rpartition("/")[2]: row["reason"] for row in rows_of(out / "pictures.csv")
    }
    assert reasons == {
        "ok.png": "",
        "photo": "",
        "gone.jpg": "status 404",
        "page.jpg": "not a picture",
        "drawing.svg": "not a picture",
        "empty.jpg": "not a picture",
        "half.jpg": "picture unreadable",
        "giant.png": "picture too large",
        "heavy.jpg": "picture too large",
        "zipped.png": "",
        "bomb.png": "picture too large",
        "cut": "connection broken",
        "moved": "",
        "circle": "redirect circle",
    }
    suffixes = [Path(image).suffix for image in images_of(out) if image]
    assert suffixes == [".png", ".jpg", ".png", ".png"]
    details = {row["id"]: row["detail"] for row in rows_of(out / "rejects.csv")}
    assert "an HTML page" in details["p3"]
    assert "an SVG drawing" in details["p4"]
    assert "an empty body" in details["p5"]


def test_a_row_without_its_picture_stays_and_is_listed(host: Host, tmp_path: Path) -> None:
    tables = shop(tmp_path, f"{host.url}/ok.png", f"{host.url}/gone.jpg", "ftp://127.0.0.1/a.jpg")
    fetch(tables, tmp_path / "out")
    assert [row["title"] for row in rows_of(tmp_path / "out/products.csv")] == [
        "Vase 0", "Vase 1", "Vase 2",
    ]  # fmt: skip
    listed = rows_of(tmp_path / "out/rejects.csv")
    assert [(row["file"], row["row"], row["id"], row["reason"]) for row in listed] == [
        ("products.csv", "3", "p1", "status 404"),
        ("products.csv", "4", "p2", "not http or https"),
    ]
    assert f"{host.url}/gone.jpg" in listed[0]["detail"]


@pytest.mark.parametrize(
    ("name", "attempts", "requests"),
    [("busy.png", 2, 2), ("down.png", 3, 3), ("date.png", 2, 2), ("cut-once.png", 2, 2)],
)
def test_a_fault_that_passes_is_tried_again(
    host: Host, tmp_path: Path, name: str, attempts: int, requests: int
) -> None:
    fetched = fetch(shop(tmp_path, f"{host.url}/{name}"), tmp_path / "out")
    assert (fetched.fetched, host.hits[f"/{name}"]) == (1, requests)
    assert rows_of(tmp_path / "out/pictures.csv")[0]["attempts"] == str(attempts)


@pytest.mark.parametrize(
    ("name", "requests"), [("always-500.png", 4), ("later", 1), ("gone.jpg", 1), ("page.jpg", 1)]
)
def test_attempts_end(host: Host, tmp_path: Path, name: str, requests: int) -> None:
    fetched = fetch(shop(tmp_path, f"{host.url}/{name}"), tmp_path / "out")
    assert (fetched.fetched, host.hits[f"/{name}"]) == (0, requests)


def test_what_failed_is_tried_again_only_where_that_is_asked(host: Host, tmp_path: Path) -> None:
    tables, out = shop(tmp_path, f"{host.url}/down.png", f"{host.url}/ok.png"), tmp_path / "out"
    assert fetch(tables, out, attempts=1).failed == {"status 503": 1}
    again = fetch(tables, out, attempts=1)
    assert (again.failed_before, again.kept, host.hits["/down.png"]) == (1, 1, 1)
    last = fetch(tables, out, attempts=2, retry_failed=True)
    assert (last.fetched, last.kept, last.failed) == (1, 1, {})
    assert host.hits == {"/down.png": 3, "/ok.png": 1}
    assert read_outcomes(out / "pictures.csv")[f"{host.url}/down.png"].attempts == 3
    assert all(images_of(out))
    assert rows_of(out / "rejects.csv") == []


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(host: Host, tmp_path: Path) -> None:
    many = [f"{host.url}/many/{number}" for number in range(12)]
    tables, out = shop(tmp_path, f"{host.url}/slow", *many), tmp_path / "out"
    command = [sys.executable, "-m", "data_prep.pictures", str(tables), str(out)]
    process = subprocess.Popen(
        [*command, "--allow-private", "--per-host", "2"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list(out.glob("images/*/*"))) < 12:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "products.csv").exists()
    status = out / "pictures.csv"
    # The last line was cut short, and so was a file that has not its name yet.
    status.write_bytes(status.read_bytes()[:-9])
    partial = next(out.glob("images/*")) / ".half.png.1"
    partial.write_bytes(PNG[:9])
    fetched = fetch(tables, out, timeout=0.3, attempts=1)
    assert (fetched.fetched, fetched.kept, fetched.failed) == (0, 12, {"timeout": 1})
    assert [host.hits[f"/many/{number}"] for number in range(12)] == [1] * 12
    assert not partial.exists()
    assert [bool(image) for image in images_of(out)] == [False] + [True] * 12


def test_a_file_that_is_gone_or_not_whole_is_fetched_again(host: Host, tmp_path: Path) -> None:
    tables = shop(tmp_path, *(f"{host.url}/{name}" for name in ("ok.png", "photo", "zipped.png")))
    out = tmp_path / "out"
    fetch(tables, out)
    first, second, _ = (out / image for image in images_of(out))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    again = fetch(tables, out)
    assert (again.fetched, again.kept) == (2, 1)
    assert (first.read_bytes(), second.read_bytes()) == (PNG, JPEG)


def test_a_list_of_pictures_stays_one(host: Host, tmp_path: Path) -> None:
    ok, photo, gone = (f"{host.url}/{name}" for name in ("ok.png", "photo", "gone.jpg"))
    tables = shop(
        tmp_path, f"{ok}|{gone}|{photo}", f'["{photo}", "{ok}"]', f'["{gone}"]', f"{gone}|{gone}"
    )
    fetch(tables, tmp_path / "out")
    file = {
        url: outcome.file for url, outcome in read_outcomes(tmp_path / "out/pictures.csv").items()
    }
    assert images_of(tmp_path / "out") == [
        f'["{file[ok]}", "{file[photo]}"]', f'["{file[photo]}", "{file[ok]}"]', "", "",
    ]  # fmt: skip


def test_a_file_beside_urls_is_linked_and_one_that_is_not_there_is_listed(
    host: Host, tmp_path: Path
) -> None:
    tables = shop(
        tmp_path,
        "mine/a.png",
        "mine/b.png",
        "../shop/mine/a.png",
        "products.csv",
        f"{host.url}/ok.png",
    )
    (tables / "mine").mkdir()
    (tables / "mine/a.png").write_bytes(PNG)
    before = (tables / "products.csv").read_bytes()
    fetch(tables, tmp_path / "out")
    fetched = fetch(tables, tmp_path / "out")
    assert images_of(tmp_path / "out")[:4] == [
        "mine/a.png", "mine/b.png", "../shop/mine/a.png", "products.csv",
    ]  # fmt: skip
    assert (tmp_path / "out/mine/a.png").read_bytes() == PNG
    assert fetched.rejects == {"picture missing": 3}
    assert (tables / "products.csv").read_bytes() == before
    reasons = [reject.reason for reject in read_tables(tmp_path / "out").rejects]
    assert reasons == ["picture outside folder"]


def test_few_requests_go_to_a_host_at_a_time(host: Host, tmp_path: Path) -> None:
    tables = shop(tmp_path, *(f"{host.url}/held/{number}" for number in range(9)))
    fetch(tables, tmp_path / "out", per_host=3)
    assert host.most_held == 3


def test_few_requests_go_to_a_host_that_others_redirect_to(host: Host, tmp_path: Path) -> None:
    port = host.server_address[1]
    held = [f"{host.url}/held/{number}" for number in range(6)]
    names = ("localhost", "127.1", "127.0.1")
    tables = shop(tmp_path, *(f"http://{names[n % 3]}:{port}/to?{held[n]}" for n in range(6)))
    fetched = fetch(tables, tmp_path / "out", per_host=2)
    assert (fetched.fetched, host.most_held) == (6, 2)


def test_few_requests_go_out_at_a_time_whatever_the_hosts(host: Host, tmp_path: Path) -> None:
    """Three names of one host are three hosts to us."""
    port = host.server_address[1]
    names = ("127.0.0.1", "localhost", "127.1")
    tables = shop(tmp_path, *(f"http://{names[n % 3]}:{port}/held/{n}" for n in range(12)))
    fetched = fetch(tables, tmp_path / "out", per_host=4, concurrency=5)
    assert (fetched.fetched, host.most_held) == (12, 5)


def test_a_host_that_does_not_answer_is_given_up_and_others_are_not(
    host: Host, tmp_path: Path
) -> None:
    dead = [f"http://127.0.0.1:1/{number}.jpg" for number in range(30)]
    tables = shop(tmp_path, *dead, f"{host.url.replace('127.0.0.1', 'localhost')}/ok.png")
    fetched = fetch(tables, tmp_path / "out", attempts=1)
    assert fetched.fetched == 1
    assert set(fetched.failed) == {"no connection", "host given up"}
    assert 20 <= fetched.failed["no connection"] <= 24


def test_a_host_that_is_always_busy_is_given_up(host: Host, tmp_path: Path) -> None:
    tables = shop(tmp_path, *(f"{host.url}/busy/{number}" for number in range(30)))
    fetched = fetch(tables, tmp_path / "out", attempts=1, per_host=1)
    assert fetched.failed == {"status 429": 20, "host given up": 10}


def test_tables_that_the_shop_no_longer_has_go_and_fields_come_along(
    host: Host, tmp_path: Path
) -> None:
    tables, out = shop(tmp_path, f"{host.url}/ok.png"), tmp_path / "out"
    write(tables, "queries", [{"query_id": "q", "query": "red"}])
    write(tables, "qrels", [{"query_id": "q", "product_id": "p0", "relevance": "2"}])
    write(tables, "attributes", [{"product_id": "p0", "colour": "red"}])
    fetch(tables, out)
    (out / "notes.txt").touch()
    assert rows_of(out / "attributes.csv") == [{"product_id": "p0", "colour": "red"}]
    for name in ("queries", "qrels", "attributes"):
        (tables / f"{name}.csv").unlink()
    (tables / "attributes.tsv").write_text("product_id\tcolour\np0\tblue\n")
    fetch(tables, out)
    assert {path.name for path in out.iterdir() if path.suffix} == {
        "products.csv", "attributes.tsv", "pictures.csv", "rejects.csv", "notes.txt",
    }  # fmt: skip


def test_a_shop_whose_pictures_lie_there_is_done_though_a_url_is_dead(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, out = shop(tmp_path, "a|b.png", f"{host.url}/gone.jpg"), tmp_path / "out"
    (tables / "a|b.png").write_bytes(PNG)
    assert main([str(tables), str(out), "--allow-private"]) == 0
    assert "2 rows, 1 with a picture" in capsys.readouterr().out
    assert [Path(path).name for path in read_tables(out).products["image"]] == ["a|b.png", ""]


def test_a_folder_that_is_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(shop(tmp_path, "")), "s3://bucket/out"])


def test_what_one_stopped_plan_has_fetched_is_there_whatever_another_says(tmp_path: Path) -> None:
    found = {"a": "fetched", "b": "failed"}
    for plan, status in found.items():
        folder = tmp_path / "fetching" / plan
        folder.mkdir(parents=True)
        file = "x.png" if status == "fetched" else ""
        write_outcomes(folder / "0.csv", [Outcome("http://a/x", status, file, 1, 1, "", "")])
    assert slices.left_outcomes(tmp_path)["http://a/x"].status == "fetched"


def test_private_addresses_are_refused_unless_they_are_allowed(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, out = shop(tmp_path, f"{host.url}/ok.png", "http://169.254.169.254/"), tmp_path / "out"
    assert main([str(tables), str(out)]) == 1
    captured = capsys.readouterr()
    assert "failed: 2 address refused" in captured.out
    assert captured.err.splitlines()[-1] == f"error: {out}: none of the 2 pictures was fetched"
    assert not host.hits
    assert images_of(out) == ["", ""]


def test_the_command_prints_counts_and_asks_as_whom_it_is_told(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, out = shop(tmp_path, f"{host.url}/ok.png", f"{host.url}/gone.jpg"), tmp_path / "out"
    command = [str(tables), str(out), "--allow-private", "--user-agent", "shop/1 (me@shop.example)"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 URLs: 1 fetched, 0 kept from before, 1 failed",
        "failed: 1 status 404",
        "products.csv: 2 rows, 1 with a picture",
        "rejected: 1 status 404",
    ]
    assert host.agents == {"shop/1 (me@shop.example)"}
    assert main(command) == 0
    assert "1 had failed before; --retry-failed tries them again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--concurrency", "0", "concurrency"),
        ("--per-host", "0", "per_host"),
        ("--attempts", "0", "attempts"),
        ("--timeout", "0", "timeout"),
        ("--timeout", "nan", "timeout"),
        ("--backoff", "-1", "backoff"),
        ("--max-bytes", "999999999999", "max_bytes"),
        ("--max-pixels", "0", "max_pixels"),
        ("--max-pixels", "400000000", "max_pixels: expected 1 to 178956970, got 400000000"),
        ("--user-agent", " shop", "user_agent"),
        ("--user-agent", "a\r\nX: b", "user_agent"),
        ("--user-agent", "Ä", "user_agent"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    tables, out = shop(tmp_path, ""), tmp_path / "out"
    assert main([str(tables), str(out), option, value]) == 1
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    tables = shop(tmp_path, "")
    with pytest.raises(BuildError, match="another folder than that of the tables"):
        fetch(tables, tables)
    other = write(tmp_path / "other", "products", [{"product_id": "x"}])
    with pytest.raises(BuildError, match="expected a new or empty folder or one with"):
        fetch(tables, other)
    (other / "pictures.csv").write_text("name,picture\n")
    with pytest.raises(BuildError, match="not a table of fetched pictures"):
        fetch(tables, other)
    assert rows_of(other / "products.csv") == [{"product_id": "x"}]
    with pytest.raises(TableError, match="no such file or folder"):
        fetch(tmp_path / "no such", tmp_path / "out")
    with pytest.raises(TableError, match=r"expected products\.csv"):
        fetch(write(tmp_path / "logs", "query_title", [{"query": "a"}]), tmp_path / "out")


def test_two_runs_do_not_fetch_into_one_folder(tmp_path: Path) -> None:
    tables, out = shop(tmp_path, ""), tmp_path / "out"
    fetch(tables, out)
    handle = os.open(out / ".lock", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another run is fetching into it"):
            fetch(tables, out)
    finally:
        os.close(handle)


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, out = shop(tmp_path, f"{host.url}/ok.png"), tmp_path / "out"
    write_empty_status(out)
    (out / "images").write_text("in the way")
    assert main([str(tables), str(out), "--allow-private"]) == 1
    assert f"{out}/images" in capsys.readouterr().err.splitlines()[-1]


def write_empty_status(out: Path) -> None:
    out.mkdir()
    write_outcomes(out / "pictures.csv", [])


def test_rows_that_are_no_rows_are_listed_and_stop_where_they_are_many(tmp_path: Path) -> None:
    tables, out = shop(tmp_path, *[""] * 9), tmp_path / "out"
    with (tables / "products.csv").open("a") as file:
        file.write("one field too few,x\n")
    with pytest.raises(RejectError, match="1 of 10 rows rejected"):
        fetch(tables, out)
    assert rows_of(tmp_path / "out.rejects.csv")[0]["row"] == "11"
    assert fetch(tables, out, max_rejected=0.2).rejects == {"malformed row": 1}
    assert not (tmp_path / "out.rejects.csv").exists()
    assert rows_of(out / "rejects.csv")[0]["reason"] == "malformed row"


def test_another_layout_is_written_in_ours(tmp_path: Path) -> None:
    """Its pictures are named, but only some are there; the others are no fault."""
    tables = tmp_path / "shop"
    write(
        tables,
        "shopping_queries_dataset_products",
        [
            {
                "product_id": name,
                "product_title": f"Mug {name}",
                "product_description": "",
                "product_bullet_point": "",
                "product_brand": "Acme",
                "product_color": "red",
                "product_locale": "us",
            }
            for name in "AB"
        ],
    )
    asked = {"query_id": "1", "query": "mug", "split": "test", "product_locale": "us"}
    judged = [{**asked, "product_id": name, "esci_label": "E"} for name in "AB"]
    write(tables, "shopping_queries_dataset_examples", judged)
    (tables / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tables / "images/A.jpg")
    fetch(tables, tmp_path / "out", layout=ADAPTERS["esci"])
    read = read_tables(tmp_path / "out")
    assert read.rejects == []
    assert read.products["category"].tolist() == ["Acme, red"] * 2
    assert [bool(image) for image in read.products["image"]] == [True, False]
    assert read.qrels["relevance"].tolist() == [3.0, 3.0]
    assert read.queries["split"].tolist() == ["test"]


def test_an_export_of_a_shop_system_becomes_tables_with_pictures(
    host: Host, tmp_path: Path
) -> None:
    """Shopify's: a row for each picture; judgments and further pictures beside it."""
    tables = tmp_path / "shop"
    row = {"Handle": "mug", "Title": "Mug", "Body (HTML)": "<p>Tea &amp; more</p>", "Type": "Mugs"}
    pictures = [f"{host.url}/ok.png", f"{host.url}/photo"]
    further = dict.fromkeys(row, "") | {"Handle": "mug"}
    rows = [{**row, "Image Src": pictures[0]}, {**further, "Image Src": pictures[1]}]
    write(tables, "products_export", rows)
    third = {"product_id": "mug", "image": f"{host.url}/zipped.png"}
    write(tables, "images", [third, {"product_id": "no such", "image": f"{host.url}/gone.jpg"}])
    write(tables, "queries", [{"query_id": "q", "query": "mug"}])
    write(tables, "qrels", [{"query_id": "q", "product_id": "mug", "relevance": "1"}])
    shopify = ADAPTERS["shopify"]
    fetched = fetch(
        tables / "products_export.csv", tmp_path / "out", layout=shopify, max_rejected=0.5
    )
    assert (fetched.urls, fetched.fetched) == (3, 3)
    assert fetched.rejects == {"unknown product": 1}
    read = read_tables(tmp_path / "out")
    assert read.rejects == []
    (product,) = read.products.to_dict("records")
    assert (product["title"], product["description"]) == ("Mug", "Tea & more")
    assert [Path(path).read_bytes() for path in product["images"]] == [PNG, JPEG, PNG]
    assert read.qrels["relevance"].tolist() == [1.0]


def test_a_log_of_clicks_goes_with_its_products(host: Host, tmp_path: Path) -> None:
    tables = shop(tmp_path, f"{host.url}/ok.png", "")
    write(tables, "clicks", [{"query": "vase", "product_id": "p0", "event": "purchase"}])
    fetch(tables, tmp_path / "out", layout=ADAPTERS["clicks"])
    read = read_tables(tmp_path / "out", ADAPTERS["clicks"])
    assert read.queries["query"].tolist() == ["vase"]
    assert len(read.qrels) == 1


def test_grades_of_other_names_are_kept(tmp_path: Path) -> None:
    tables = shop(tmp_path, "")
    write(tables, "queries", [{"query_id": "q", "query": "vase"}])
    write(tables, "qrels", [{"query_id": "q", "product_id": "p0", "relevance": "1", "fit": "3"}])
    fetch(tables, tmp_path / "out", grades=["relevance", "fit"])
    assert rows_of(tmp_path / "out/qrels.csv")[0]["fit"] == "3"


def test_a_layout_without_pictures_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "shop"
    corpus.mkdir()
    (corpus / "corpus.jsonl").write_text('{"_id": "a", "title": "Mug", "text": "red"}\n')
    with pytest.raises(TableError, match="layout beir has no pictures to fetch"):
        fetch(corpus, tmp_path / "out", layout=ADAPTERS["beir"])


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=9)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_texts_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    write_table(folder, "products", pd.DataFrame(rows, columns=["product_id", "title"]))
    read = []
    for _ in range(2):
        (table,) = read_shop(folder, DEFAULT_LAYOUT, rejects := []).tables
        assert rejects == []
        read.append(table.frame[["product_id", "title"]].to_dict("list"))
        write_table(folder, "products", table.frame.drop(columns="row"))
    assert read[0] == read[1]


@given(
    st.lists(st.builds(Outcome, TEXTS, TEXTS, TEXTS, st.integers(0), st.integers(0), TEXTS, TEXTS))
)
@settings(deadline=None, max_examples=50)
def test_outcomes_come_back_a_line_each(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[Outcome]
) -> None:
    path = tmp_path_factory.mktemp("outcomes") / "pictures.csv"
    write_outcomes(path, outcomes)
    assert path.read_bytes().count(b"\n") == 1 + len(outcomes)
    found = read_outcomes(path)
    for outcome in outcomes:
        if not set("\r\n") & set("".join(map(str, outcome))):
            assert outcome.url in found


def many(folder: Path, host: Host, count: int = 30) -> Path:
    """Writes a shop whose pictures lie on three hosts, which are one; two of them fail."""
    port = host.server_address[1]
    names = ("127.0.0.1", "localhost", "127.1")
    images = [f"http://{names[n % 3]}:{port}/many/{n}" for n in range(count)]
    return shop(folder, *images, f"{host.url}/gone.jpg", f"{host.url}/page.jpg")


def in_order(path: Path) -> list[dict[str, str]]:
    return sorted(rows_of(path), key=lambda row: row["url"])


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE", 4)


@pytest.mark.parametrize("how", ["processes", "array", "late array"])
def test_slices_fetch_what_one_process_fetches(
    how: str, small_slices: None, host: Host, tmp_path: Path
) -> None:
    tables, out = many(tmp_path, host), tmp_path / "out"
    if how == "processes":
        fetched = fetch(tables, out, workers=2)
    else:
        shares = [0, 1, 2] if how == "array" else [2, 2, 0, 1]
        for share in shares[:-1]:
            assert fetch(tables, out, array=(share, 3), workers=1) is None
        assert not (out / "products.csv").exists()
        fetched = fetch(tables, out, array=(shares[-1], 3), workers=1)
    assert set(host.hits.values()) == {1}
    assert not (out / "fetching").exists()
    alone = tmp_path / "alone"
    assert fetch(tables, alone) == fetched
    assert in_order(out / "pictures.csv") == in_order(alone / "pictures.csv")
    for name in ("products.csv", "rejects.csv"):
        assert (out / name).read_bytes() == (alone / name).read_bytes()
    # Nothing is asked again, by whomever.
    host.hits.clear()
    assert fetch(tables, out, workers=2)._replace(fetched=30, kept=0, failed_before=0) == fetched
    assert fetch(tables, out, array=(0, 2), workers=1).kept == 30
    assert not host.hits


@pytest.mark.parametrize("then", [{"workers": 1}, {"workers": 2}, {"array": (0, 1), "workers": 1}])
def test_shares_of_an_array_that_are_not_done_are_fetched_by_any_further_run(
    then: dict[str, object], small_slices: None, host: Host, tmp_path: Path
) -> None:
    tables, out = many(tmp_path, host), tmp_path / "out"
    fetch(tables, out, array=(1, 3), workers=1)
    done = sum(host.hits.values())
    assert 4 <= done <= 20
    fetched = fetch(tables, out, **then)
    assert (fetched.urls, fetched.rows["products.csv"]) == (32, (30, 32))
    assert set(host.hits.values()) == {1}


def test_a_slice_that_was_stopped_goes_on(host: Host, tmp_path: Path) -> None:
    tables, out = many(tmp_path, host), tmp_path / "out"
    fetch(tables, out, array=(1, 2), workers=1)
    plan = next((out / "fetching").iterdir())
    task = next(iter(slices._tasks(plan / "urls.jsonl", QUICK)))
    aside = plan / "aside"
    aside.mkdir()
    assert slices.fetch_slice(task, aside) == {"fetched": 30, "failed": 2}
    running = next(plan.glob("*.running.csv"))
    # As a kill leaves it: two lines are lost, of a third a part is there.
    lines = running.read_bytes().splitlines(keepends=True)
    lost = [line for line in lines if b"gone.jpg" in line or b"/many/7," in line]
    kept = [line for line in lines if line not in lost]
    running.write_bytes(b"".join(kept) + lost[0][:-9])
    host.hits.clear()
    assert slices.fetch_slice(task, aside) == {"fetched": 30, "failed": 2}
    # Of the picture the file is there, of the failure nothing is known.
    assert host.hits == {"/gone.jpg": 1}
    fetched = fetch(tables, out)
    assert (fetched.fetched, fetched.kept, fetched.failed_before) == (0, 30, 2)


def test_slices_of_a_host_share_what_it_is_asked_at_a_time() -> None:
    urls = [f"http://large/{n}" for n in range(5_000)] + [f"http://h{n}/" for n in range(1_500)]
    urls += [f"http://middle/{n}" for n in range(2_100)] + ["no url"]
    found = list(slices._slices(urls, 4))
    assert sorted(url for part, _ in found for url in part) == sorted(urls)
    asked: dict[str, int] = {}
    for part, few in found:
        assert 0 < len(part) <= 2_000
        for name in {slices.host_of(url) for url in part}:
            asked[name] = asked.get(name, 0) + few
    assert set(asked.values()) == {4}
    assert len([part for part, few in found if few == 1]) == 4


def test_another_shop_or_setting_is_another_plan(
    small_slices: None, host: Host, tmp_path: Path
) -> None:
    tables, out = many(tmp_path, host), tmp_path / "out"
    fetch(tables, out, array=(0, 3), workers=1)
    fetch(tables, out, array=(1, 3), workers=1, attempts=2)
    assert len(list((out / "fetching").iterdir())) == 2
    shop(tmp_path, f"{host.url}/ok.png")
    fetched = fetch(tables, out, array=(0, 1), workers=1)
    assert (fetched.urls, images_of(out)[0][:7]) == (1, "images/")


def test_jobs_of_an_array_fetch_together_and_no_other_run_does(host: Host, tmp_path: Path) -> None:
    tables, out = many(tmp_path, host), tmp_path / "out"
    assert fetch(tables, out, array=(1, 2), workers=1) is None
    with (out / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(BuildError, match="another run is fetching into it"):
            fetch(tables, out)
        # All is fetched, and the job that holds the lock will write the tables.
        assert fetch(tables, out, array=(0, 2), workers=1) is None
    assert fetch(tables, out, array=(0, 2), workers=1).kept == 0
    assert set(host.hits.values()) == {1}


def test_the_command_takes_shares(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, out = many(tmp_path, host), tmp_path / "out"
    words = [str(tables), str(out), "--allow-private"]
    assert main([*words, "--array", "1/2"]) == 0
    assert "the job that finds all shares done writes the tables" in capsys.readouterr().out
    assert main([*words, "--array", "0/2"]) == 0
    assert "32 URLs: 30 fetched, 0 kept from before, 2 failed" in capsys.readouterr().out
    assert main([*words, "--ray", "127.0.0.1:1", "--retry-failed"]) == 1
    assert capsys.readouterr().err.startswith("error: --ray 127.0.0.1:1: ")
