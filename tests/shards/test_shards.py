"""What a sample of a shard becomes, whatever process reads it, and what damaged folders are."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from torch.utils.data import DataLoader

from beyond_text.shards import columns
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import EMPTY_SAMPLE, SELF_MATCH, Judgment, Sample, SampleIndex
from beyond_text.shards.columns import write_columns
from beyond_text.shards.dataset import Products, draw_queries
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.records import category_key, text_bits
from beyond_text.shards.sampler import BatchSampler
from beyond_text.shards.split import Split
from data_prep.shards import build_shards
from tests import hostile
from tests.hostile import sign
from tests.tiny import as_bytes

FIELDS = ["title", "category", "description"]


@pytest.mark.parametrize(
    ("category", "level"),
    [("decor", "decor"), ("Women > Dress", "Dress"), ("A>B > c d ", "c d"), (" > ", ""), ("", "")],
)
def test_a_category_is_known_by_its_last_level(category: str, level: str) -> None:
    assert category_key(category) == category_key(level)
    assert (category_key(category) == 0) == (level == "")
    assert category_key("Dress") != category_key("Skirt")


def first(batch: list[Sample | str]) -> list[Sample | str]:
    return batch


def loaded(shards: Path, workers: int, picture: int | None = 32) -> list[list[Sample]]:
    products = Products([Split(shards, "train", FIELDS)], seed=0, picture=picture)
    batches = BatchSampler([products.sources[0].sizes], [1.0], 6, 6, seed=0)
    loader = DataLoader(
        products, batch_sampler=batches, collate_fn=first, num_workers=workers,
    )  # fmt: skip
    return list(loader)


def test_any_number_of_workers_reads_the_same_samples(tiny_shards: Path) -> None:
    def seen(workers: int) -> list[tuple[object, ...]]:
        return [
            (s.product_id, s.text, s.query, s.epoch, as_bytes(s.image))
            for batch in loaded(tiny_shards, workers)
            for s in batch
        ]

    alone = seen(0)
    assert len({product_id for product_id, *_ in alone}) == 24
    assert seen(1) == alone
    assert seen(2) == alone


def test_a_sample_holds_what_the_tables_say(tiny_shards: Path) -> None:
    samples = {s.product_id: s for batch in loaded(tiny_shards, 0) for s in batch}
    cushion, silent, unseen = (samples[f"train.{number}"] for number in (0, 3, 5))
    assert cushion.text == "cushion. decor. a cushion home decor"
    assert silent.text == "lamp. decor"
    assert cushion.image is not None
    red = cushion.image.float().mean(dim=(1, 2)).numpy()
    assert red == pytest.approx((200, 30, 30), abs=8)
    assert unseen.image is None
    grades = {judgment.query: judgment.gain for judgment in cushion.judgments}
    assert grades == {"red cushion": 1.0, "blue cushion": 1 / 3, "green cushion": 1 / 3}
    assert cushion.query in cushion.judgments


def test_pictures_stay_unread_where_no_view_needs_them(tiny_shards: Path) -> None:
    samples = [s for batch in loaded(tiny_shards, 0, picture=None) for s in batch]
    assert all(sample.image is None for sample in samples)


def test_a_split_that_has_read_can_be_sent_to_another_process(tiny_shards: Path) -> None:
    split = Split(tiny_shards, "train", FIELDS)
    fields, _ = split.read(9, None)
    assert pickle.loads(pickle.dumps(split)).read(9, None) == (fields, None)


def test_the_query_of_a_product_changes_with_epoch_and_seed(tiny_shards: Path) -> None:
    split = Split(tiny_shards, "train", FIELDS)

    def queries(seed: int, epoch: int) -> list[Judgment]:
        products = Products([split], seed, picture=None)
        samples = [products[SampleIndex(0, number, epoch)] for number in range(24)]
        return [s.query for s in samples if isinstance(s, Sample) and s.query]

    assert queries(0, 0) == queries(0, 0)
    assert len(queries(0, 0)) == 24
    assert queries(0, 0) != queries(0, 1)
    assert queries(0, 0) != queries(1, 0)


def judgment(query_id: str, kind: str, gain: float) -> Judgment:
    return Judgment(query_id, query_id, kind, gain)


def test_kinds_are_drawn_alike_and_queries_within_a_kind_by_grade() -> None:
    judgments = [
        judgment("full", "attribute", 1.0),
        *(judgment(f"half{number}", "attribute", 0.5) for number in range(6)),
        judgment("human", "human", 0.5),
    ]
    drawn = Counter(
        found.query_id for number in range(4000) for found in draw_queries(judgments, (number,))
    )
    assert drawn["human"] / 4000 == pytest.approx(1 / 2, abs=0.03)
    assert drawn["full"] / 4000 == pytest.approx(1 / 8, abs=0.02)
    assert drawn["half3"] / 4000 == pytest.approx(1 / 16, abs=0.02)


def test_several_queries_of_a_product_are_different_ones_and_begin_with_the_single_one() -> None:
    judgments = [judgment(str(number), "ab"[number % 3 == 0], 1.0) for number in range(7)]
    for seed in range(20):
        drawn = draw_queries(judgments, (seed,), 5)
        assert len({found.query_id for found in drawn}) == 5
        assert draw_queries(judgments, (seed,)) == drawn[:1]
    assert sorted(draw_queries(judgments, (0,), 9)) == judgments


def test_the_query_slots_of_a_product_share_what_is_read_and_differ_in_the_query(
    tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(tiny_shards, "train", FIELDS)
    products = Products([split], 0, picture=32, queries_per_product=[4])
    plan = BatchSampler([split.sizes], [1.0], 6, 2, seed=0, queries_per_product=[4])
    alone = BatchSampler([split.sizes], [1.0], 6, 2, seed=0)
    reads = []
    read = Split.read
    monkeypatch.setattr(Split, "read", lambda *given: reads.append(1) or read(*given))
    for draws, firsts in zip(plan, alone, strict=True):
        reads.clear()
        samples = [products[draw] for draw in draws]
        assert len(reads) == 6
        assert [draw for draw in draws if draw.slot == 0] == firsts
        for start in range(0, 24, 4):
            group = samples[start : start + 4]
            assert all(sample.image is group[0].image for sample in group)
            # Queries ask for the kind of a tiny product in three colours.
            assert len({sample.query.query_id for sample in group[:3]}) == 3
            assert group[3].query is None
            # The judgments of a product stand in a batch once.
            assert group[0].judgments
            assert not any(sample.judgments for sample in group[1:])
            assert group[0].query == Products([split], 0, 32)[draws[start]].query


def test_a_product_without_judgments_draws_no_query() -> None:
    assert draw_queries([], (0,)) == []


def test_the_query_that_is_the_product_itself_is_never_drawn() -> None:
    own = judgment("self", "human", SELF_MATCH)
    other = judgment("other", "human", 0.5)
    assert draw_queries([own], (0,), 3) == []
    for seed in range(50):
        assert draw_queries([own, other], (seed,)) == draw_queries([other], (seed,)) == [other]


@pytest.fixture(scope="session")
def asked_shards(tiny_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of pairs, whose queries are products with their pictures."""
    out = tmp_path_factory.mktemp("shards") / "pairs"
    build_shards(tiny_pairs, out, picture_size=40, samples_per_shard=7, workers=1)
    return out


def test_a_drawn_query_comes_with_its_picture(asked_shards: Path) -> None:
    split = Split(asked_shards, "train", FIELDS)
    products = Products([split], seed=0, picture=32)
    found = [products[SampleIndex(0, number, 0)] for number in range(len(split))]
    pictures = {s.product_id: s.image for s in found if isinstance(s, Sample)}
    assert len(pictures) == 24
    for sample in found:
        assert isinstance(sample, Sample)
        assert sample.query is not None
        trigger = sample.query.query_id.removeprefix("trigger/")
        assert trigger != sample.product_id
        expected, got = pictures[trigger], sample.query_image
        assert as_bytes(got) == as_bytes(expected)
        own = [j for j in sample.judgments if j.gain == SELF_MATCH]
        assert [j.query_id for j in own] == [f"trigger/{sample.product_id}"]
        assert len(sample.judgments) == 3
    assert sum(sample.query_image is None for sample in found) < 8


def test_query_pictures_stay_unread_where_no_view_needs_them(asked_shards: Path) -> None:
    split = Split(asked_shards, "train", FIELDS)
    sample = Products([split], seed=0, picture=None)[SampleIndex(0, 0, 0)]
    assert isinstance(sample, Sample)
    assert sample.query is not None
    assert sample.query_image is None


def test_damaged_query_pictures_are_errors_that_name_their_shard(
    asked_shards: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(asked_shards, tmp_path / "shards"))
    count = len(Split(folder, "train", FIELDS).query_pictures)
    assert count == 22
    with pytest.raises(ShardError, match="expected a sample below 22, got 22"):
        Split(folder, "train", FIELDS).read_query_picture(count, 32)
    path = folder / "queries-train-00001.tar"
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        picture = next(member for member in tar if member.name.endswith(".jpg"))
    with path.open("r+b") as file:
        file.seek(picture.offset_data)
        file.write(b"not a picture" * 8)
    with pytest.raises(SampleError, match="query picture 7: picture unreadable"):
        Split(folder, "train", FIELDS).read_query_picture(7, 32)
    split = Split(folder, "train", FIELDS)
    products = Products([split], seed=0, picture=32)
    lines = [products[SampleIndex(0, n, epoch)] for n in range(len(split)) for epoch in range(4)]
    found = [line for line in lines if isinstance(line, str)]
    assert found
    said = re.compile(rf"{folder} sample \d+: {folder} query picture 7: picture unreadable: ")
    assert all(said.match(line) for line in found)
    # Whichever query it is, all rows of the product are skipped, and one line says so.
    products = Products([split], seed=0, picture=32, queries_per_product=[2])
    pairs = [[products[SampleIndex(0, n, 0, slot)] for slot in (0, 1)] for n in range(len(split))]
    lost = [(line, further) for line, further in pairs if isinstance(line, str)]
    assert lost
    assert all(said.match(line) and further == EMPTY_SAMPLE for line, further in lost)
    assert sum(isinstance(entry, str) for pair in pairs for entry in pair) == len(lost)
    # A source of one query per product beside it fails on the queries that it draws, no others.
    one, beside = (
        Products([split], 0, 32),
        Products([split, split], 0, 32, queries_per_product=[1, 4]),
    )
    said_of = [isinstance(one[SampleIndex(0, n, 0)], str) for n in range(len(split))]
    assert [isinstance(beside[SampleIndex(0, n, 0)], str) for n in range(len(split))] == said_of
    path.write_bytes(data[: last_member(path).offset])
    with pytest.raises(ShardError, match=r"queries-train-00001\.tar: "):
        Split(folder, "train", FIELDS).read_query_picture(7, 32)


@pytest.fixture
def copied(tiny_shards: Path, tmp_path: Path) -> Path:
    """A folder of shards that a test may damage."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


def test_the_gain_of_a_judgment_is_that_of_its_grade_relative_to_the_columns_highest(
    copied: Path,
) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())

    def gains(highest: float, *relevance: float) -> list[float]:
        manifest["grades"] = {"relevance": {"max": highest}, "desire": {"max": 8.0}}
        (copied / "manifest.json").write_text(json.dumps(manifest))
        grades = np.array([relevance, [2.0] * len(relevance)])
        return Split(copied, "train", FIELDS).gains(grades).tolist()

    assert gains(4.0, 4.0, 1.0, 0.0) == [1.0, 1 / 15, 0.0]
    # A column may be all zeros.
    assert gains(0.0, 0.0) == [0.0]


def test_judgments_of_a_sample_are_found_wherever_the_parts_of_their_file_end(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied / "judged-train.arrow"
    whole = Split(copied, "train", FIELDS)
    expected = [whole.judgments(sample) for sample in range(24)]
    assert [len(found) for found in expected] == [3] * 24
    table = pa.ipc.open_file(path).read_all()
    for rows in (1, 2, 3, 7, 71):
        monkeypatch.setattr(columns, "ROWS", rows)
        write_columns(path, table.schema, table.to_batches())
        sign(copied)
        split = Split(copied, "train", FIELDS)
        assert [split.judgments(sample) for sample in range(24)] == expected
        assert len(split.judged) == 72


def test_webdatasets_own_reader_reads_the_shards(tiny_shards: Path) -> None:
    split = Split(tiny_shards, "train", FIELDS)
    paths = [str(tiny_shards / entry["file"]) for entry in split.counts["shards"]]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    assert len(samples) == len(split) == 24
    for number, found in enumerate(samples):
        fields, picture = split.read(number, 32)
        assert json.loads(found["json"])["product_id"] == fields["product_id"]
        assert ("jpg" in found) == (picture is not None)


def test_the_index_says_what_a_sample_has_without_opening_its_shard(
    tiny_shards: Path, copied: Path
) -> None:
    for path in copied.glob("train-*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    bare, whole = (Split(each, "train", FIELDS) for each in (copied, tiny_shards))
    found = [whole.read(number, 32) for number in range(24)]
    assert [bare.picture_numbers(number) for number in range(24)] == [
        [] if picture is None else [0] for _, picture in found
    ]
    assert set(bare.categories().tolist()) == {category_key("decor")}
    records = np.concatenate([bare.products.records(shard) for shard in range(4)])
    assert records.dtype.itemsize <= 20
    no_description = [fields["product_id"] == "train.3" for fields, _ in found]
    assert (records["texts"] & text_bits(["description"]) == 0).tolist() == no_description
    assert (records["texts"] & text_bits(["title"]) > 0).all()


def test_an_unknown_split_names_those_that_are_there(tiny_shards: Path) -> None:
    with pytest.raises(ShardError, match=r"no split 'test'; it has train, dev"):
        Split(tiny_shards, "test", FIELDS)


def test_a_folder_without_a_whole_manifest_is_no_folder_of_shards(copied: Path) -> None:
    manifest = copied / "manifest.json"
    manifest.write_text(manifest.read_text()[:50])
    with pytest.raises(ShardError, match=r"manifest\.json: not a manifest"):
        Split(copied, "train", FIELDS)
    manifest.unlink()
    with pytest.raises(ShardError, match=f"{copied}: no manifest.json"):
        Split(copied, "train", FIELDS)


def last_member(path: Path) -> tarfile.TarInfo:
    with tarfile.open(path) as tar:
        return tar.getmembers()[-1]


def read_all(folder: Path) -> None:
    split = Split(folder, "train", FIELDS)
    products = Products([split], seed=0, picture=32)
    for number in range(len(split)):
        products[SampleIndex(0, number, 0)]


@pytest.mark.parametrize(
    "where", ["in data", "in a header", "between members", "at its end", "to nothing"]
)
def test_a_truncated_shard_is_an_error_that_names_it(copied: Path, where: str) -> None:
    read_all(copied)
    path = copied / "train-00001.tar"
    member = last_member(path)
    ends = {
        "in data": member.offset_data + 10,
        "in a header": member.offset + 100,
        "between members": member.offset,
        "at its end": member.offset_data + -(-member.size // 512) * 512,
        "to nothing": 0,
    }
    path.write_bytes(path.read_bytes()[: ends[where]])
    with pytest.raises(ShardError, match=r"train-00001\.tar: "):
        read_all(copied)


def test_a_missing_shard_is_an_error_that_names_it(copied: Path) -> None:
    (copied / "train-00002.tar").unlink()
    with pytest.raises(ShardError, match=r"train-00002\.tar: no such file"):
        read_all(copied)


def test_a_shard_of_other_length_than_its_manifest_says_is_an_error(copied: Path) -> None:
    shutil.copy(copied / "train-00003.tar", copied / "train-00000.tar")
    with pytest.raises(ShardError, match=r"train-00000\.tar: \d+ bytes, the manifest says"):
        read_all(copied)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.json", "2.json", "1.jpg", "2.jpg"], "expected sample 1 alone, got one of 2 with it"),
        (["1.jpg", "1.json", "2.jpg"], "expected sample 1 alone, got one of 2 with it"),
        (["1.jpg"], "sample 1 has no json"),
        ([], "sample None has no json"),
        (["1.json", "1.jpg", "1.jpg"], "sample 1 has two members jpg"),
    ],
)
def test_what_is_no_sample_is_an_error_that_says_so(
    names: list[str], said: str, tmp_path: Path
) -> None:
    content = hostile.tar(*(hostile.member(name, b"{}") for name in names))
    folder = hostile.write_folder(tmp_path / "shards", content)
    with pytest.raises(ShardError, match=rf"train-00000\.tar: {said}"):
        Split(folder, "train", FIELDS).read(0, None)


def test_only_json_and_jpg_members_are_ever_used(tmp_path: Path) -> None:
    names = ["1.json", "1.jpg", "1.pyd", "1.pickle"]
    content = hostile.tar(*(hostile.member(name, b"{}") for name in names))
    folder = hostile.write_folder(tmp_path / "shards", content)
    products = Split(folder, "train", FIELDS).products
    found = products.read(0, ["json", "jpg", "pyd", "pickle"])
    assert found == {"json": b"{}", "jpg": b"{}"}
    assert products.place(0, "jpg") == ("train-00000.tar", (1536, 2))
    assert products.place(0, "pyd") is None


def test_a_sample_that_cannot_be_read_is_a_line_that_says_which_and_why(copied: Path) -> None:
    path = copied / "train-00000.tar"
    with tarfile.open(path) as tar:
        picture = next(member for member in tar if member.name.endswith(".jpg"))
    with path.open("r+b") as file:
        file.seek(picture.offset_data)
        file.write(b"not a picture" * 8)
    number = int(picture.name.partition(".")[0])
    line = Products([Split(copied, "train", FIELDS)], 0, picture=32)[SampleIndex(0, number, 0)]
    assert isinstance(line, str)
    assert line.startswith(f"{copied} sample {number}: picture unreadable")
