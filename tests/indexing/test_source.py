"""Products of tables are described for an index as a model reads them, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from beyond_text.retrieval.described_tables import describe_tables
from beyond_text.retrieval.read_split import read_products
from beyond_text.tables.layouts import TableError
from tests import ROOT
from tests.indexing.shop import copied_shop, rows_of, write_rows

FIELDS = ["title", "category", "description"]


@pytest.fixture
def shop(tiny_tables: Path, tmp_path: Path) -> Path:
    folder = copied_shop(tiny_tables, tmp_path / "shop")
    rows = rows_of(folder)
    rows[0]["image"] = f"{rows[1]['image']}|{rows[2]['image']}"
    rows[3] |= {"title": "<b>R&amp;D</b>  vase.", "brand": "", "price": ""}
    (folder / rows[4]["image"]).write_bytes(b"no picture")
    rows[5]["image"] = ""
    return write_rows(folder, rows)


@pytest.mark.parametrize("split", [None, "dev"])
def test_products_of_tables_are_described_as_they_are_encoded(
    shop: Path, split: str | None
) -> None:
    catalogue = read_products(shop, split, FIELDS, 32, 40)
    products: list = [catalogue.products.describe(n) for n in range(len(catalogue.product_ids))]  # type: ignore[attr-defined]
    found = describe_tables(shop, split, FIELDS)
    assert found == products
    assert split or max(len(each.pictures) for each in found) == 2
    with pytest.raises(TableError, match="no products in split 'none'"):
        describe_tables(shop, "none", FIELDS)


def test_a_picture_that_is_known_is_not_tried_again(shop: Path) -> None:
    asked = []
    describe_tables(shop, None, FIELDS, lambda path: bool(asked.append(path)) or True)
    damaged = rows_of(shop)[4]
    known = {each.product_id: each for each in describe_tables(shop, None, FIELDS, lambda _: True)}
    assert [place.file for place in known[damaged["product_id"]].pictures] == [damaged["image"]]
    assert len(asked) == sum(bool(row["image"]) for row in rows_of(shop))
    tried = {each.product_id: each for each in describe_tables(shop, None, FIELDS)}
    assert not tried[damaged["product_id"]].pictures


def test_tables_are_read_for_an_index_without_torch(shop: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import beyond_text.indexing.build\n"
        "from beyond_text.retrieval.described_tables import describe_tables\n"
        "assert len(describe_tables(Path(sys.argv[1]), None, ['title'])) == 48\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(shop)], check=True, cwd=ROOT)
