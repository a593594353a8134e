"""Tests that a row is used or rejected with its number and a reason; splits never cross."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from beyond_text.tables.layouts import TableError
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import RejectError, Rejects
from beyond_text.tables.splits import content_id
from beyond_text.tables.tables import Tables

PRODUCTS = "product_id,title,split\np1,red vase,train\np2,blue vase,train\np3,lamp,dev\n"
QUERIES = "query_id,query,split,kind\nq1,vase,train,human\nq2,lamp,dev,\n"
QRELS = "query_id,product_id,relevance\nq1,p1,2\nq1,p2,1\nq2,p3,2\n"


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.csv").write_text(text, encoding="utf-8")
    return path


def reasons(tables: Tables) -> list[tuple[str, int, str, str]]:
    return [(each.file, each.row, each.id, each.reason) for each in tables.rejects]


def test_whole_tables_are_read_without_a_reject(tmp_path: Path) -> None:
    tables = read_tables(folder(tmp_path, products=PRODUCTS, queries=QUERIES, qrels=QRELS))
    assert tables.rejects == []
    assert tables.products["product_id"].tolist() == ["p1", "p2", "p3"]
    assert tables.products["group_id"].tolist() == ["p1", "p2", "p3"]
    assert tables.queries["kind"].tolist() == ["human", "query"]
    assert tables.qrels["relevance"].tolist() == [2.0, 1.0, 2.0]
    assert tables.qrels["split"].tolist() == ["train", "train", "dev"]
    assert tables.grades == ["relevance"]


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = folder(tmp_path / "a", products=PRODUCTS, queries=QUERIES, qrels=QRELS)
    for name in ("products", "queries", "qrels"):
        pd.read_csv(source / f"{name}.csv").to_parquet(tmp_path / "b" / f"{name}.parquet")
    one, two = read_tables(source), read_tables(tmp_path / "b")
    for name in ("products", "queries", "qrels"):
        first, second = (getattr(each, name).astype(str) for each in (one, two))
        columns = [column for column in first if column not in ("file", "images")]
        pd.testing.assert_frame_equal(first[columns], second[columns])


def test_numbers_in_parquet_become_ids_without_a_decimal_point(tmp_path: Path) -> None:
    frame = pd.DataFrame({"product_id": [7, 8], "title": ["a", "b"], "group_id": [1.0, None]})
    frame.to_parquet(tmp_path / "products.parquet")
    products = read_tables(tmp_path).products
    assert products["product_id"].tolist() == ["7", "8"]
    assert products["group_id"].tolist() == ["1", "8"]


def test_leading_zeros_and_words_for_nothing_stay_text(tmp_path: Path) -> None:
    text = "\ufeffproduct_id,title\n007,NA\n008, null \n"
    products = read_tables(folder(tmp_path, products=text)).products
    assert products["product_id"].tolist() == ["007", "008"]
    assert products["title"].tolist() == ["NA", "null"]


@pytest.mark.parametrize(
    ("header", "message"),
    [("product,title", "'product_id', got product, title; the nearest is 'product'"),
     ("product_id,name", "'title or image', got product_id, name")],
)  # fmt: skip
def test_a_missing_column_names_file_found_and_nearest(
    tmp_path: Path, header: str, message: str
) -> None:
    with pytest.raises(TableError) as caught:
        read_tables(folder(tmp_path, products=f"{header}\n1,a\n"))
    assert message in str(caught.value)
    assert "products.csv" in str(caught.value)


def test_bad_product_rows_are_rejected_with_their_spreadsheet_row(tmp_path: Path) -> None:
    text = (
        "product_id,title,image\n"
        'a,"two\nlines",\n'  # row 2, on two lines of the file
        "a,again,\n"
        ",no id,\n"
        "\n"
        "b,,\n"
        "c,too,many,fields\n"
        "d\n"
        'e,"quote"d,\n'
        "f,fine,\n"
    )
    tables = read_tables(folder(tmp_path, products=text))
    assert tables.products["product_id"].tolist() == ["a", "f"]
    assert tables.products["row"].tolist() == [2, 10]
    assert sorted(reasons(tables)) == [
        ("products.csv", 3, "a", "duplicate id"),
        ("products.csv", 4, "", "empty id"),
        ("products.csv", 6, "b", "no text and no picture"),
        ("products.csv", 7, "c", "malformed row"),
        ("products.csv", 8, "d", "malformed row"),
        ("products.csv", 9, "", "malformed row"),
    ]
    assert tables.files["products"].rows == 8


@settings(deadline=None)
@given(st.lists(st.sampled_from(["p,a", "q,b", "q,", ",x", "r,1,2", "", 's,"t"u']), min_size=1))
def test_used_and_rejected_rows_add_up_to_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("rows")
    assume(any(lines))
    tables = read_tables(folder(path, products="\n".join(["product_id,title", *lines])))
    used, lost = set(tables.products["row"]), {reject.row for reject in tables.rejects}
    assert used | lost == {row for row, line in enumerate(lines, 2) if line}
    assert not used & lost


@pytest.mark.parametrize(
    "image", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "C:\\x.jpg",
              "a\\..\\x.jpg", "file:x.jpg", "a\0.jpg"]
)  # fmt: skip
def test_a_picture_outside_the_folder_is_rejected_and_the_text_stays(
    tmp_path: Path, image: str
) -> None:
    text = f"product_id,title,image\na,vase,{image}\nb,,{image}\nc,lamp,images/c.jpg\n"
    tables = read_tables(folder(tmp_path, products=text))
    assert tables.products["image"].tolist() == ["", str(tmp_path.resolve() / "images/c.jpg")]
    assert [(reject.row, reject.reason) for reject in tables.rejects] == [
        (2, "picture outside folder"),
        (3, "picture outside folder"),
        (3, "no text and no picture"),
    ]


def test_bad_judgments_and_queries_are_rejected(tmp_path: Path) -> None:
    queries = QUERIES + "q2,again,dev,\nq3,,dev,\nq4,x,,\nq5,x,../up,\n"
    qrels = QRELS + (
        "q9,p1,1\nq1,p9,1\nq1,p1,1\nq1,p3,1\nq3,p3,1\n"
        + "".join(f"q2,p3,{grade}\n" for grade in ("", "nan", "inf", "-1", "high"))
    )
    tables = read_tables(folder(tmp_path, products=PRODUCTS, queries=queries, qrels=qrels))
    assert sorted(reasons(tables)) == [
        ("qrels.csv", 5, "q9 p1", "unknown query"),
        ("qrels.csv", 6, "q1 p9", "unknown product"),
        ("qrels.csv", 7, "q1 p1", "duplicate judgment"),
        ("qrels.csv", 8, "q1 p3", "crosses splits"),
        ("qrels.csv", 9, "q3 p3", "unknown query"),
        *(("qrels.csv", row, "q2 p3", "bad grade") for row in range(10, 15)),
        ("queries.csv", 4, "q2", "duplicate id"),
        ("queries.csv", 5, "q3", "empty query"),
        ("queries.csv", 6, "q4", "bad split"),
        ("queries.csv", 7, "q5", "bad split"),
    ]
    assert len(tables.qrels) == 3


def test_a_query_goes_by_its_text_or_its_picture_and_may_be_a_product(tmp_path: Path) -> None:
    queries = (
        "query_id,query,image,product_id\n"
        "q1,,images/q1.jpg,p1\nq2,lamp,,\nq3,,../up.jpg,p1\nq4,,,p1\nq5,x,,p9\n"
    )
    qrels = "query_id,product_id,relevance\nq1,p1,2\nq1,p2,1\nq2,p3,2\nq5,p1,1\n"
    tables = read_tables(folder(tmp_path, products=PRODUCTS, queries=queries, qrels=qrels))
    names = ["query_id", "query", "image", "product_id", "kind", "split"]
    assert tables.queries[names].to_numpy().tolist() == [
        ["q1", "", str(tmp_path.resolve() / "images/q1.jpg"), "p1", "query", "train"],
        ["q2", "lamp", "", "", "query", "dev"],
        ["q5", "x", "", "", "query", "train"],
    ]
    assert tables.qrels[["query_id", "product_id"]].to_numpy().tolist() == [
        ["q1", "p2"], ["q2", "p3"], ["q5", "p1"],
    ]  # fmt: skip
    assert sorted(reasons(tables)) == [
        ("qrels.csv", 2, "q1 p1", "judges itself"),
        ("queries.csv", 4, "q3", "empty query"),
        ("queries.csv", 4, "q3", "picture outside folder"),
        ("queries.csv", 5, "q4", "empty query"),
        ("queries.csv", 6, "q5", "unknown product"),
    ]


def test_queries_of_pictures_alone_need_no_text_column(tmp_path: Path) -> None:
    qrels = "query_id,product_id,relevance\nq1,p1,2\n"
    folder(tmp_path, products=PRODUCTS, queries="query_id,image\nq1,q.jpg\n", qrels=qrels)
    assert read_tables(tmp_path).queries["query"].tolist() == [""]
    folder(tmp_path, queries="query_id,kind\nq1,human\n")
    with pytest.raises(TableError, match="'query or image', got query_id, kind"):
        read_tables(tmp_path)


def test_pictures_may_lie_in_another_folder(tmp_path: Path) -> None:
    text = "product_id,title,image\na,vase,../x.jpg\nb,lamp,b.jpg\n"
    (tmp_path / "elsewhere").mkdir()
    beside = tmp_path / "elsewhere" / "products.csv"
    beside.touch()
    shop = folder(tmp_path, products=text)
    for pictures in (beside.parent, beside):
        tables = read_tables(shop, pictures=pictures)
        expected = ["", str(tmp_path.resolve() / "elsewhere/b.jpg")]
        assert tables.products["image"].tolist() == expected
        assert [reject.reason for reject in tables.rejects] == ["picture outside folder"]


def test_further_columns_of_the_judgments_are_grades(tmp_path: Path) -> None:
    qrels = "query_id,desirability,product_id,relevance\nq1,0.5,p1,2\nq2,3,p3,1\n"
    tables = read_tables(folder(tmp_path, products=PRODUCTS, queries=QUERIES, qrels=qrels))
    assert tables.grades == ["relevance", "desirability"]
    assert tables.qrels["desirability"].tolist() == [0.5, 3.0]


def test_without_product_splits_a_product_is_in_each_split_it_is_judged_in(tmp_path: Path) -> None:
    products = "product_id,title\np1,a\np2,b\np3,c\n"
    qrels = "query_id,product_id,relevance\nq1,p1,2\nq2,p1,1\nq2,p2,2\n"
    tables = read_tables(folder(tmp_path, products=products, queries=QUERIES, qrels=qrels))
    pairs = set(zip(tables.products["product_id"], tables.products["split"], strict=True))
    assert pairs == {("p1", "train"), ("p1", "dev"), ("p2", "dev"), ("p3", "train")}
    assert tables.qrels["split"].tolist() == ["train", "dev", "dev"]


def test_without_query_splits_a_query_is_in_each_split_it_is_judged_in(tmp_path: Path) -> None:
    queries = "query_id,query\nq1,vase\nq2,lamp\n"
    qrels = QRELS + "q1,p3,1\n"
    tables = read_tables(folder(tmp_path, products=PRODUCTS, queries=queries, qrels=qrels))
    pairs = list(zip(tables.queries["query_id"], tables.queries["split"], strict=True))
    assert pairs == [("q1", "train"), ("q1", "dev"), ("q2", "dev")]
    assert tables.rejects == []


def test_a_hash_splits_by_design_and_alike_in_any_row_order(tmp_path: Path) -> None:
    rows = [f"p{number},t{number},g{number // 3}" for number in range(3000)]
    text = "product_id,title,group_id\n"
    one = read_tables(folder(tmp_path, products=text + "\n".join(rows))).products
    two = read_tables(folder(tmp_path, products=text + "\n".join(reversed(rows)))).products
    assert (one.groupby("group_id")["split"].nunique() == 1).all()
    assert dict(zip(one["product_id"], one["split"], strict=True)) == dict(
        zip(two["product_id"], two["split"], strict=True)
    )
    # 1,000 draws at 0.1: three standard deviations are 0.028.
    assert abs((one["split"] == "dev").mean() - 0.1) < 0.028
    assert set(read_tables(tmp_path, dev_share=1.0).products["split"]) == {"dev"}


def test_compressed_tables_are_found_and_named_as_others_are(tmp_path: Path) -> None:
    shop, log = tmp_path / "shop", tmp_path / "query_title.csv.gz"
    shop.mkdir()
    folder(shop, products=PRODUCTS, queries=QUERIES)
    (shop / "qrels.csv.gz").write_bytes(gzip.compress(QRELS.encode()))
    assert list(read_tables(shop).files) == ["products", "queries", "qrels"]
    log.write_bytes(gzip.compress(b"query,title,relevance\nvase,red vase,3\nvase,lamp,1\n"))
    assert len(read_tables(tmp_path).qrels) == len(read_tables(log).qrels) == 2


def test_a_log_has_a_product_per_title_and_grades_from_zero(tmp_path: Path) -> None:
    log = "query,title,relevance,split\nvase,red vase,3,train\nvase,lamp,1,train\n" + (
        "light,lamp,2.67,dev\nlight,lamp,2,dev\nlight,bulb,2,train\n,x,2,dev\nlight,,2,dev\n"
    )
    tables = read_tables(folder(tmp_path, query_title=log))
    assert tables.rejects == read_tables(tmp_path / "query_title.csv").rejects
    judged = tables.qrels[["query_id", "product_id", "relevance", "split"]].to_numpy().tolist()
    assert judged == [
        [content_id("query", "vase"), content_id("title", "red vase"), 2.0, "train"],
        [content_id("query", "vase"), content_id("title", "lamp"), 0.0, "train"],
        [content_id("query", "light"), content_id("title", "lamp"), 1.67, "dev"],
    ]
    assert tables.queries[["query", "kind"]].to_numpy().tolist() == [
        ["vase", "log"],
        ["light", "log"],
    ]
    assert tables.products[["title", "split"]].to_numpy().tolist() == [
        ["red vase", "train"],
        ["lamp", "train"],
        ["lamp", "dev"],
    ]
    assert {(reject.row, reject.reason) for reject in tables.rejects} == {
        (5, "duplicate judgment"),
        (6, "crosses splits"),
        (7, "empty query"),
        (8, "no text and no picture"),
    }


def test_a_log_without_splits_is_split_over_queries(tmp_path: Path) -> None:
    rows = "".join(f"query {number // 2},title {number % 7},1\n" for number in range(400))
    path = folder(tmp_path, clicks="query,title,relevance\n" + rows) / "clicks.csv"
    tables = read_tables(path, dev_share=0.3)
    assert tables.qrels.groupby("query_id")["split"].nunique().eq(1).all()
    assert 0.2 < (tables.queries["split"] == "dev").mean() < 0.4
    assert tables.folder == tmp_path


def test_wrong_encoding_names_row_and_byte(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_bytes(b"product_id,title\n1,ok\n2,M\xc5LA\n")
    # 17 bytes of header, 5 of row 2, then "2,M".
    with pytest.raises(
        TableError, match=r"products\.csv: row 3, byte 25: expected UTF-8, got 0xc5"
    ):
        read_tables(tmp_path)


def test_a_quote_that_never_ends_is_an_error_and_swallows_nothing(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"row 3: a quote opened on line 3 does not end"):
        read_tables(folder(tmp_path, products='product_id,title\n1,a\n2,"b\n3,c\n'))


@pytest.mark.parametrize("text", ["", "product_id,title,title\n1,a,b\n"])
def test_a_header_must_have_distinct_names(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError, match="distinct column names"):
        read_tables(folder(tmp_path, products=text))


def test_missing_and_ambiguous_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such file or folder"):
        read_tables(tmp_path / "none")
    with pytest.raises(
        TableError, match=r"expected products\.csv, \.tsv or \.parquet or query_title"
    ):
        read_tables(tmp_path)
    folder(tmp_path, products=PRODUCTS, queries=QUERIES)
    with pytest.raises(TableError, match="queries and qrels together"):
        read_tables(tmp_path)
    (tmp_path / "products.parquet").write_bytes(b"not parquet")
    with pytest.raises(TableError, match="got both"):
        read_tables(tmp_path)
    (tmp_path / "products.csv").unlink()
    with pytest.raises(TableError, match="expected Parquet columns of text or numbers"):
        read_tables(tmp_path)


def test_judgments_in_two_files_are_not_added_up(tmp_path: Path) -> None:
    folder(tmp_path, products=PRODUCTS, queries=QUERIES, qrels=QRELS)
    (tmp_path / "qrels.tsv").write_text(QRELS.replace(",", "\t"))
    with pytest.raises(TableError, match=r"expected one of qrels\.csv, qrels\.tsv, got both"):
        read_tables(tmp_path)


def test_a_folder_of_pictures_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder(tmp_path, products=PRODUCTS)
    with pytest.raises(TableError, match="nowhere: expected the folder of the pictures, got none"):
        read_tables(tmp_path, pictures=tmp_path / "nowhere")


def test_known_splits_are_found_in_any_case(tmp_path: Path) -> None:
    text = "product_id,title,split\na,vase,Train\nb,lamp,TEST\nc,rug,Holdout\n"
    tables = read_tables(folder(tmp_path, products=text))
    assert tables.products["split"].tolist() == ["train", "test", "Holdout"]


def test_rows_that_are_merged_are_one_in_the_share_of_rejects(tmp_path: Path) -> None:
    products = "product_id,title\n" + "".join(f"p{at},vase\n" for at in range(10))
    rows = [f"p{at},{at}-{number}.jpg\n" for at in range(1, 11) for number in range(9)]
    folder(tmp_path, products=products, images="product_id,image\n" + "".join(rows))
    tables = read_tables(tmp_path)
    with pytest.raises(RejectError, match=r"images\.csv: 1 of 10 rows rejected"):
        Rejects(tables.rejects, tables.files.values(), 0.05).check()


@pytest.mark.parametrize("name", ["desirability", "split", "own"])
def test_a_grade_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    folder(tmp_path, products=PRODUCTS, queries=QUERIES, qrels=QRELS)
    grades = ["relevance", "desirability", name]
    with pytest.raises(TableError, match=f"grades: expected names other than .*, got '{name}'"):
        read_tables(tmp_path, grades=grades)


def test_a_parquet_column_that_is_no_text_is_named(tmp_path: Path) -> None:
    table = pa.table({"product_id": ["a"], "title": ["vase"], "image": [{"path": "a.jpg"}]})
    pq.write_table(table, tmp_path / "products.parquet")
    with pytest.raises(TableError, match=r"column 'image' of struct<path: string>"):
        read_tables(tmp_path)


def test_a_file_of_products_alone_is_a_shop_with_every_split(tmp_path: Path) -> None:
    rows = "".join(f"p{number},title {number}\n" for number in range(12))
    folder(tmp_path, products="product_id,title\n" + rows)
    for shares in ({}, {"test_share": 0.1}):
        splits = read_tables(tmp_path, **shares).products["split"]
        assert set(splits) == {"train", "dev", *(["test"] if shares else [])}
    assert read_tables(tmp_path / "products.csv").products["product_id"].tolist() == [
        f"p{number}" for number in range(12)
    ]
    with pytest.raises(TableError, match=r"no more than 1 together, got 0\.6 and 0\.5"):
        read_tables(tmp_path, dev_share=0.6, test_share=0.5)


def test_products_that_look_or_read_alike_are_of_one_split(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.png").write_bytes(b"%d" % (number % 30))
    rows = [f"p{n},  Title {n % 40},{n}.png,g{n % 45}" for n in range(60)]
    text = "product_id,title,image,group_id\n"
    products = read_tables(
        folder(tmp_path, products=text + "\n".join(rows)), dev_share=0.4
    ).products
    split = dict(zip(products["product_id"], products["split"], strict=True))
    assert set(split.values()) == {"train", "dev"}
    for same in (30, 40, 45):
        for number in range(60 - same):
            assert split[f"p{number}"] == split[f"p{number + same}"]


def test_queries_of_one_wording_need_or_design_are_of_one_split(tmp_path: Path) -> None:
    count = 40
    products = "".join(f"p{n},title {n},g{n // 2}\n" for n in range(4 * count))
    queries, qrels = [], []
    for n in range(count):
        queries += [f"a{n},Query  {n},", f"b{n},query {n},", f"c{n},other {n},"]
        # The second shares its words, the third the designs that are wanted.
        qrels += [f"a{n},p{4 * n},2", f"b{n},p{4 * n + 2},1", f"c{n},p{4 * n + 1},1"]
    folder(
        tmp_path,
        products="product_id,title,group_id\n" + products,
        queries="query_id,query,kind\n" + "\n".join(queries),
        qrels="query_id,product_id,relevance\n" + "\n".join(qrels),
    )
    tables = read_tables(tmp_path, dev_share=0.3, test_share=0.2)
    split = dict(zip(tables.queries["query_id"], tables.queries["split"], strict=True))
    assert set(split.values()) == {"train", "dev", "test"}
    assert all(split[f"a{n}"] == split[f"b{n}"] == split[f"c{n}"] for n in range(count))
    assert set(tables.queries["seen"]) == {""}


def test_queries_of_train_words_are_marked_where_the_tables_name_splits(tmp_path: Path) -> None:
    queries = QUERIES + "q3,VASE ,dev,\nq4,vases,dev,\n"
    tables = read_tables(folder(tmp_path, products=PRODUCTS, queries=queries, qrels=QRELS))
    seen = dict(zip(tables.queries["query_id"], tables.queries["seen"], strict=True))
    assert seen == {"q1": "", "q2": "", "q3": "1", "q4": ""}


def test_further_columns_are_ignored_aloud_unless_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels = ",query_id,product_id,relevance,confidence,annotator\n0,q1,p1,2,0.5,Ann\n1,q2,p3,1,,B\n"
    folder(tmp_path, products=PRODUCTS, queries=QUERIES, qrels=qrels)
    tables = read_tables(tmp_path)
    assert (tables.grades, tables.rejects) == (["relevance"], [])
    assert capsys.readouterr().err == "qrels.csv: columns ignored: confidence, annotator\n"
    tables = read_tables(tmp_path, grades=["confidence", "relevance"])
    assert tables.grades == ["relevance", "confidence"]
    assert reasons(tables) == [("qrels.csv", 3, "q2 p3", "bad grade")]
    for grades, message in (
        (["relevance", "on/off"], "got 'on/off'; give the column another name"),
        (["confidence"], "expected relevance among confidence"),
        (["relevance", "score"], "expected a column 'score'"),
    ):
        with pytest.raises(TableError, match=message):
            read_tables(tmp_path, grades=grades)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_separators_and_names_of_columns_are_recognised(tmp_path: Path, separator: str) -> None:
    header = separator.join(["\ufeffProduct ID", "\u200bTITLE\u00a0", '"Image"', "", ""])
    (tmp_path / "Products.CSV").write_text(
        f"{header}\n1{separator}a, b{separator}x.jpg{separator}{separator}\n"
    )
    products = read_tables(tmp_path).products
    assert products[["product_id", "title"]].to_numpy().tolist() == [["1", "a, b"]]
    assert products["image"].tolist() == [str(tmp_path.resolve() / "x.jpg")]


def test_excels_own_text_and_separator_line_are_read(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_bytes(
        "product_id\ttitle\n1\tStuhl f\u00fcr 2\n".encode("utf-16")
    )
    assert read_tables(tmp_path).products["title"].tolist() == ["Stuhl f\u00fcr 2"]
    (tmp_path / "products.csv").write_text("sep=;\nproduct_id;title\n1;a,b\n2;c;d\n")
    tables = read_tables(tmp_path)
    assert tables.products["title"].tolist() == ["a,b"]
    assert reasons(tables) == [("products.csv", 4, "2", "malformed row")]


def test_files_that_are_near_are_named(tmp_path: Path) -> None:
    (tmp_path / "products.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        TableError, match=r"products\.xlsx is of another format: save it as CSV UTF-8"
    ):
        read_tables(tmp_path)
    folder(tmp_path, products=PRODUCTS, queries=QUERIES, qrels=QRELS)
    with pytest.raises(TableError, match=r"queries\.csv: expected the folder of this table: give"):
        read_tables(tmp_path / "queries.csv")
    folder(tmp_path, products="product_id,title\n")
    with pytest.raises(TableError, match=r"products\.csv: expected a row of a product at least"):
        read_tables(tmp_path)


def test_unknown_ids_are_told_what_is_near_or_why_it_is_gone(tmp_path: Path) -> None:
    products = "product_id,title\np4,a\n007,b\nAbc,c\np5,\n"
    qrels = "query_id,product_id,relevance\nq1,p4.0,1\nq1,7,1\nq1,abc,1\nq1,p5,1\nq1,zzz,1\n"
    folder(tmp_path, products=products, queries="query_id,query\nq1,vase\n", qrels=qrels)
    details = [each.detail for each in read_tables(tmp_path).rejects if each.file == "qrels.csv"]
    unknown = "expected a product in use"
    assert details == [
        f"product_id 'p4.0', {unknown}; there is 'p4'",
        f"product_id '7', {unknown}; there is '007'",
        f"product_id 'abc', {unknown}; there is 'Abc'",
        f"product_id 'p5', {unknown}; products.csv row 5 was rejected: no text and no picture",
        f"product_id 'zzz', {unknown}",
    ]


def test_values_are_as_a_shopper_reads_them_in_every_text(tmp_path: Path) -> None:
    products = (
        "product_id,title,description,category\n"
        'a&amp;b,AC/DC <3 &amp; more,"<p>Soft</p><p>Warm</p>",Home &gt; Mugs\n'
    )
    queries = "query_id,query\nq1,mug&nbsp;<b>red</b>\n"
    qrels = "query_id,product_id,relevance\nq1,a&amp;b,1\n"
    tables = read_tables(folder(tmp_path, products=products, queries=queries, qrels=qrels))
    columns = ["product_id", "title", "description", "category"]
    assert tables.products[columns].to_numpy().tolist() == [
        ["a&amp;b", "AC/DC <3 & more", "Soft Warm", "Home > Mugs"]
    ]
    assert tables.queries["query"].tolist() == ["mug red"]
    assert tables.rejects == []


def test_missing_numbers_lists_and_whole_floats_of_parquet_are_text(tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "product_id": [123456789012.0, 2.0, 3.5],
            "title": ["a", "b", "c"],
            "category": [float("nan")] * 3,
            "image": [["x.jpg", "y.jpg"], None, []],
        }
    ).to_parquet(tmp_path / "products.parquet")
    products = read_tables(tmp_path).products
    assert products["product_id"].tolist() == ["123456789012", "2", "3.5"]
    assert products["category"].tolist() == ["", "", ""]
    assert [len(paths) for paths in products["images"]] == [2, 0, 0]


def test_a_product_keeps_all_its_pictures_in_order(tmp_path: Path) -> None:
    listed = '"[""c.jpg"", ""../d.jpg"", ""c.jpg""]"'
    text = f"product_id,title,image\na,x,a.jpg|b.jpg\nb,x,{listed}\nc,x,\n"
    images = "product_id,image,position\nc,f.jpg,10\nc,e.jpg,9\na,g.jpg,\nz,h.jpg,1\n"
    tables = read_tables(folder(tmp_path, products=text, images=images))
    names = [[Path(path).name for path in paths] for paths in tables.products["images"]]
    assert names == [["a.jpg", "b.jpg", "g.jpg"], ["c.jpg"], ["e.jpg", "f.jpg"]]
    assert [Path(path).name for path in tables.products["image"]] == ["a.jpg", "c.jpg", "e.jpg"]
    assert sorted(reasons(tables)) == [
        ("images.csv", 5, "z", "unknown product"),
        ("products.csv", 3, "b", "picture outside folder"),
    ]
