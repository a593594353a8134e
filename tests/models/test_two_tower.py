"""Tests the views of queries and products, which towers they run, and the parameter groups."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.config.settings import Config, ConfigError, ImageEncoder, TextEncoder
from beyond_text.config.views import PAIRS, PRODUCT, QUERY, View
from beyond_text.models.fusion import UniecsFusion
from beyond_text.models.settings import ModelSettings, settings_of
from beyond_text.models.temperature import Temperature
from beyond_text.models.towers import TextTower
from beyond_text.models.two_tower import TwoTower, build_model
from beyond_text.shards.batch import Batch, Qrels, QueryKeys, Tokens
from tests.tiny import PICTURE, SIZE, TEXT, some_pictures, some_tokens

ALL_VIEWS: tuple[View, ...] = (*QUERY, *PRODUCT)

SETTINGS = ModelSettings(
    dim=16,
    fusion="bilinear",
    fusion_rank=8,
    share_text_encoder=True,
    pooling="auto",
    max_length=16,
    image_size=SIZE,
    picture_size=SIZE,
    mean=[0.5, 0.5, 0.5],
    std=[0.5, 0.5, 0.5],
    text_fields=["title"],
    loss="info_nce",
    temperature=0.05,
    temperature_min=0.01,
)


def tiny_model(folder: Path, text: str, image: str, **changes: object) -> TwoTower:
    """Builds a model on saved tiny encoders, with fusion and projections moved off their start."""
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    torch.manual_seed(3)
    model = build_model(settings, str(folder / text), str(folder / image), pretrained=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projection" in name or name.startswith("fusion"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def some_batch() -> Batch:
    """Returns four products: with both, without picture, without text, with the first one's text.

    The third has no query. The batch holds texts 0, 1 and pictures 0 to 2 once each.
    """
    ids, mask = some_tokens(4)
    key = torch.arange(4)
    return Batch(
        product_ids=["a", "b", "c", "d"],
        product_key=key,
        text=Tokens(ids[:2], mask[:2]),
        text_row=torch.tensor([0, 1, -1, 0]),
        text_key=key,
        query=Tokens(ids[2:], mask[2:]),
        query_row=torch.tensor([1, 0, -1, 1]),
        query_keys=QueryKeys(key, key, key),
        image=some_pictures(3),
        image_row=torch.tensor([0, -1, 1, 2]),
        query_image_row=torch.full((4,), -1),
        qrels=Qrels(QueryKeys(*(key[:0],) * 3), key[:0], torch.zeros(0)),
        losses=(),
        skipped=[],
    )


def batch_with_query_pictures() -> Batch:
    """Returns the same products; queries are a text, a text with picture, a picture, and none."""
    return some_batch()._replace(
        query_row=torch.tensor([1, 0, -1, -1]),
        image=some_pictures(5),
        query_image_row=torch.tensor([-1, 3, 4, -1]),
    )


def narrow_clip() -> nn.Module:
    """Returns a CLIP whose vectors have another width than its tokens."""
    return hf.CLIPModel(
        hf.CLIPConfig(
            text_config={**TEXT, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
            vision_config=PICTURE,
            projection_dim=12,
        )
    )


def _inputs(model: TwoTower, batch: Batch, views: Collection[View]) -> dict[str, list[int]]:
    """Returns the number of inputs of each encoder in each of its runs for the views."""
    inputs: dict[str, list[int]] = {"text_tower": [], "image_tower": []}
    handles = []
    for name, sizes in inputs.items():

        def note(_: object, __: object, given: dict, sizes: list[int] = sizes) -> None:
            # Packed texts stand in one row: each has one token at position 0.
            if "position_ids" in given:
                sizes.append(int((given["position_ids"] == 0).sum()))
            else:
                sizes.append(len(next(iter(given.values()))))

        encoder = getattr(model, name).encoder
        handles.append(encoder.register_forward_pre_hook(note, with_kwargs=True))
    model.embed(batch, views)
    for handle in handles:
        handle.remove()
    return inputs


def _calls(model: TwoTower, batch: Batch, views: Collection[View]) -> dict[str, int]:
    """Returns how often each tower ran for the views."""
    return {name: len(sizes) for name, sizes in _inputs(model, batch, views).items()}


@pytest.mark.parametrize("name", ["clip", "siglip"])
@torch.no_grad()
def test_an_untouched_two_headed_model_scores_as_it_does_itself(folder: Path, name: str) -> None:
    model = build_model(SETTINGS, str(folder / name), str(folder / name), pretrained=True).eval()
    reference = hf.AutoModel.from_pretrained(folder / name).eval()
    (ids, mask), pictures = some_tokens(4), some_pictures(3)
    seen = {"attention_mask": mask} if name == "clip" else {}
    logits = reference(ids, (pictures / 255 - 0.5) / 0.5, **seen).logits_per_text
    bias = reference.logit_bias if name == "siglip" else 0.0
    expected = (logits - bias) / reference.logit_scale.exp()
    cosine = model.encode_query(Tokens(ids, mask)) @ model.encode_image(pictures).T
    torch.testing.assert_close(cosine, expected, rtol=1e-4, atol=1e-5)
    assert cosine.std() > 1e-3


@torch.no_grad()
def test_an_untouched_product_vector_is_the_sum_of_text_and_image(folder: Path) -> None:
    for fusion in ("bilinear", "concat", "sum"):
        settings = replace(SETTINGS, fusion=fusion)
        model = build_model(settings, str(folder / "bert"), str(folder / "vit"), pretrained=True)
        vectors = model.eval().embed(some_batch(), ("text", "image", "product")).vectors
        expected = F.normalize(vectors["text"] + vectors["image"], dim=1)
        torch.testing.assert_close(vectors["product"], expected)


def test_a_projection_of_another_width_keeps_angles(folder: Path) -> None:
    settings = replace(SETTINGS, dim=24)
    model = build_model(settings, str(folder / "bert"), str(folder / "vit"), pretrained=True)
    weight = model.text_projection.weight
    assert weight.shape == (24, 16)
    torch.testing.assert_close(weight.T @ weight, torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "clip"])
@torch.no_grad()
def test_each_row_gets_the_vectors_of_its_own_text_query_and_picture(
    folder: Path, name: str
) -> None:
    model = tiny_model(folder, name, "vit")
    batch = some_batch()
    embeddings = model.embed(batch, ("query", "text", "image", "product"))
    texts, queries = model.encode_text(batch.text), model.encode_query(batch.query)
    pictures = model.encode_image(batch.image)
    zero = torch.zeros(16)
    expected: dict[View, list[Tensor]] = {
        "text": [texts[0], texts[1], zero, texts[0]],
        "query": [queries[1], queries[0], zero, queries[1]],
        "image": [pictures[0], zero, pictures[1], pictures[2]],
    }
    for view, rows in expected.items():
        torch.testing.assert_close(embeddings.vectors[view], torch.stack(rows))
    assert {view: flags.tolist() for view, flags in embeddings.present.items()} == {
        "query": [True, True, False, True],
        "text": [True, True, False, True],
        "image": [True, False, True, True],
        "product": [True] * 4,
    }
    torch.testing.assert_close(embeddings.vectors["product"].norm(dim=1), torch.ones(4))
    fused = model.fusion(
        embeddings.vectors["text"],
        embeddings.vectors["image"],
        embeddings.present["text"],
        embeddings.present["image"],
    )
    torch.testing.assert_close(embeddings.vectors["product"], fused)


def test_only_the_views_asked_for_come_back(folder: Path) -> None:
    embeddings = tiny_model(folder, "bert", "vit").embed(some_batch(), ["product"])
    assert set(embeddings.vectors) == set(embeddings.present) == {"product"}


@torch.no_grad()
def test_towers_that_no_view_needs_are_not_run(folder: Path) -> None:
    model, batch = tiny_model(folder, "bert", "vit"), some_batch()
    assert _calls(model, batch, ["image"]) == {"text_tower": 0, "image_tower": 1}
    assert _calls(model, batch, ["text"]) == {"text_tower": 1, "image_tower": 0}
    assert _calls(model, batch, ["query"]) == {"text_tower": 1, "image_tower": 0}
    assert _calls(model, batch, ["query", "text"]) == {"text_tower": 2, "image_tower": 0}
    assert _calls(model, batch, ["product"]) == {"text_tower": 1, "image_tower": 1}


@torch.no_grad()
def test_a_control_runs_the_other_tower_only_where_its_own_modality_is_missing(
    folder: Path,
) -> None:
    batch = some_batch()
    whole = batch._replace(
        text_row=torch.tensor([0, 1, 1, 0]), image_row=torch.tensor([0, 1, 2, 2])
    )
    text = tiny_model(folder, "bert", "vit", fusion="text")
    image = tiny_model(folder, "bert", "vit", fusion="image")
    assert _calls(text, whole, ["product"]) == {"text_tower": 1, "image_tower": 0}
    assert _calls(image, whole, ["product"]) == {"text_tower": 0, "image_tower": 1}
    assert _calls(text, batch, ["product"]) == {"text_tower": 1, "image_tower": 1}
    vectors = text.embed(batch, ["text", "image", "product"]).vectors
    torch.testing.assert_close(vectors["product"][[0, 1, 3]], vectors["text"][[0, 1, 3]])
    torch.testing.assert_close(vectors["product"][2], vectors["image"][2])


@pytest.mark.parametrize("fusion", ["bilinear", "sum", "text", "image"])
@torch.no_grad()
def test_a_query_with_a_picture_is_fused_and_one_without_is_its_texts_vector(
    folder: Path, fusion: str
) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion=fusion), batch_with_query_pictures()
    embeddings = model.embed(batch, ALL_VIEWS)
    texts, pictures = model.encode_query(batch.query), model.encode_image(batch.image)
    zero, has = torch.zeros(1, 16), torch.tensor([True])
    text, picture = texts[:1], pictures[3:4]
    expected: dict[View, list[Tensor]] = {
        "trigger_text": [texts[1:2], text, zero, zero],
        "trigger_image": [zero, picture, pictures[4:5], zero],
        "query": [
            texts[1:2],
            model.fusion(text, picture, has, has),
            model.fusion(zero, pictures[4:5], ~has, has),
            zero,
        ],
        "image": [pictures[:1], zero, pictures[1:2], pictures[2:3]],
    }
    for view, rows in expected.items():
        torch.testing.assert_close(embeddings.vectors[view], torch.cat(rows))
    assert {view: embeddings.present[view].tolist() for view in QUERY} == {
        "trigger_text": [True, True, False, False],
        "trigger_image": [False, True, True, False],
        "query": [True, True, True, False],
    }
    # Query pictures change no product.
    before = model.embed(some_batch(), PRODUCT)
    for view in PRODUCT:
        torch.testing.assert_close(embeddings.vectors[view], before.vectors[view])
    if fusion == "bilinear":
        assert (embeddings.vectors["query"][1] - text).abs().max() > 1e-2


@pytest.mark.parametrize("fusion", ["bilinear", "uniecs"])
@torch.no_grad()
def test_pictures_are_encoded_once_and_only_those_that_a_view_shows(
    folder: Path, fusion: str
) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion=fusion), batch_with_query_pictures()
    expected: list[tuple[list[View], list[int], list[int]]] = [
        (list(ALL_VIEWS), [2, 2], [5]),
        (["query", "product"], [2, 2], [5]),
        (["query", "text"], [2, 2], [2]),
        (["trigger_image"], [], [2]),
        (["trigger_text", "text"], [2, 2], []),
        (["product"], [2], [3]),
        (["image"], [], [3]),
    ]
    for views, texts, pictures in expected:
        found = _inputs(model, batch, views)
        assert found == {"text_tower": texts, "image_tower": pictures}, views


@pytest.mark.parametrize("fusion", ["bilinear", "uniecs"])
@torch.no_grad()
def test_a_query_whose_picture_was_taken_away_is_one_that_never_had_it(
    folder: Path, fusion: str
) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion=fusion), batch_with_query_pictures()
    lost = batch._replace(query_image_row=torch.tensor([-1, -1, 4, -1]))
    never = batch._replace(image=batch.image[:3], query_image_row=torch.full((4,), -1))
    found, expected = model.embed(lost, ALL_VIEWS), model.embed(never, ALL_VIEWS)
    for view in ALL_VIEWS:
        rows = [0, 1, 3] if view in QUERY else [0, 1, 2, 3]
        torch.testing.assert_close(found.vectors[view][rows], expected.vectors[view][rows])
        assert found.present[view][rows].equal(expected.present[view][rows])


@torch.no_grad()
def test_a_text_control_looks_at_query_pictures_only_where_there_is_no_text(folder: Path) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion="text"), batch_with_query_pictures()
    assert _calls(model, batch, ["query"]) == {"text_tower": 1, "image_tower": 1}
    texts = batch._replace(query_row=torch.tensor([1, 0, 0, -1]))
    assert _calls(model, texts, ["query"]) == {"text_tower": 1, "image_tower": 0}
    assert model.embed(texts, ["query"]).vectors["query"][1:3].ne(0).any(dim=1).all()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("text", "image"),
    [("bert", "timm_resnet"), ("clip", "clip"), ("siglip", "siglip"), ("bert", "vit")],
)
@torch.no_grad()
def test_a_fusion_of_tokens_encodes_each_row_from_its_own_tokens(
    folder: Path, text: str, image: str, share: bool
) -> None:
    model = tiny_model(folder, text, image, fusion="uniecs", share_text_encoder=share)
    for parameter in model.query_tower.parameters():
        parameter.mul_(0.9)
    assert isinstance(model.fusion, UniecsFusion)
    batch = batch_with_query_pictures()
    found = model.embed(batch, ALL_VIEWS)

    def sequence(tower: TextTower, tokens: Tokens, row: int) -> tuple[Tensor, Tensor]:
        if row < 0:
            return torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.bool)
        hidden, mask = tower.tokens(*(part[[row]] for part in tokens))
        states = model.text_projection(hidden / hidden.norm(dim=2, keepdim=True))
        # Padding is cut off here, not masked.
        return states[:, mask[0]], mask[:, mask[0]]

    def picture(row: int) -> tuple[Tensor, Tensor]:
        if row < 0:
            return torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.bool)
        hidden, mask = model.image_tower.tokens(batch.image[[row]])
        return model.image_projection(hidden / hidden.norm(dim=2, keepdim=True)), mask

    sides = (
        (QUERY, model.query_tower, batch.query, batch.query_row, batch.query_image_row),
        (PRODUCT, model.text_tower, batch.text, batch.text_row, batch.image_row),
    )
    for side, tower, tokens, text_row, image_row in sides:
        for row in range(4):
            expected = model.fusion.encoder(
                *sequence(tower, tokens, int(text_row[row])), *picture(int(image_row[row]))
            )
            for view, vector in zip(side, expected, strict=True):
                torch.testing.assert_close(found.vectors[view][[row]], vector, rtol=1e-4, atol=1e-5)
                assert bool(found.present[view][row]) == bool(vector.any())


@torch.no_grad()
def test_rows_of_one_text_and_picture_are_read_once_by_a_fusion_of_tokens(folder: Path) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion="uniecs"), batch_with_query_pictures()
    assert isinstance(model.fusion, UniecsFusion)
    read: list[int] = []
    model.fusion.encoder.register_forward_hook(lambda _, inputs, __: read.append(len(inputs[0])))
    expected = model.embed(batch, ALL_VIEWS).vectors
    again = torch.tensor([0, 3, 1, 1, 2, 0])
    rows = ("text_row", "query_row", "image_row", "query_image_row")
    repeated = model.embed(
        batch._replace(**{name: getattr(batch, name)[again] for name in rows}), ALL_VIEWS
    ).vectors
    assert read == [4, 4] * 2
    for view in ALL_VIEWS:
        torch.testing.assert_close(repeated[view], expected[view][again])


@pytest.mark.parametrize(
    ("text", "image", "first"),
    [
        ("bert", "timm_resnet", 0),
        ("clip", "clip", 1),
        ("bert", "dinov2", 1),
        ("siglip", "siglip", 0),
    ],
)
@torch.no_grad()
def test_an_attended_fusion_sees_the_patches_of_each_rows_own_picture(
    folder: Path, text: str, image: str, first: int
) -> None:
    model, batch = tiny_model(folder, text, image, fusion="attended"), batch_with_query_pictures()
    found = model.embed(batch, ALL_VIEWS)
    plain = {name: model.embed(batch, [name]).vectors[name] for name in ALL_VIEWS}
    hidden, _ = model.image_tower.tokens(batch.image)
    # A class token is no patch.
    patches = F.normalize(hidden[:, first:], dim=2)
    sides = (
        (QUERY, batch.query_row, batch.query_image_row),
        (PRODUCT, batch.text_row, batch.image_row),
    )
    for side, text_row, image_row in sides:
        for row in range(4):
            has_text, has_image = text_row[[row]] >= 0, image_row[[row]] >= 0
            seen = patches[image_row[[row]].clamp(min=0)]
            expected = model.fusion(
                found.vectors[side.text][[row]],
                found.vectors[side.image][[row]] * model.image_log_weight.exp(),
                has_text,
                has_image,
                seen,
                has_image.unsqueeze(1).expand(seen.shape[:2]),
            )
            if side is QUERY and not has_image:
                expected = found.vectors[side.text][[row]]
            torch.testing.assert_close(
                found.vectors[side.fused][[row]], expected, rtol=1e-4, atol=1e-5
            )
        for view in side:
            torch.testing.assert_close(plain[view], found.vectors[view])
    # The vectors of one modality are those of a fusion of vectors.
    pooled = tiny_model(folder, text, image)
    pooled.load_state_dict({name: model.state_dict()[name] for name in pooled.state_dict()})
    expected = pooled.embed(batch, [QUERY.text, QUERY.image, PRODUCT.text, PRODUCT.image])
    for view, vectors in expected.vectors.items():
        torch.testing.assert_close(found.vectors[view], vectors)


@torch.no_grad()
def test_an_attended_fusion_reads_each_pair_of_text_and_picture_once(folder: Path) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion="attended"), batch_with_query_pictures()
    read: list[int] = []
    model.fusion.register_forward_hook(lambda _, inputs, __: read.append(len(inputs[0])))
    expected = model.embed(batch, ALL_VIEWS).vectors
    again = torch.tensor([0, 3, 1, 1, 2, 0])
    rows = ("text_row", "query_row", "image_row", "query_image_row")
    repeated = model.embed(
        batch._replace(**{name: getattr(batch, name)[again] for name in rows}), ALL_VIEWS
    ).vectors
    assert read == [4, 4] * 2
    for view in ALL_VIEWS:
        torch.testing.assert_close(repeated[view], expected[view][again])
    # One run of the encoder gives the vector and the patches.
    assert _calls(model, some_batch(), ["image", "product"]) == {"text_tower": 1, "image_tower": 1}


@torch.no_grad()
def test_an_untouched_attended_model_is_the_sum(folder: Path) -> None:
    settings = replace(SETTINGS, fusion="attended")
    model = build_model(settings, str(folder / "bert"), str(folder / "vit"), pretrained=True).eval()
    vectors = model.embed(some_batch(), PRODUCT).vectors
    torch.testing.assert_close(
        vectors["product"], F.normalize(vectors["text"] + vectors["image"], dim=1)
    )


@torch.no_grad()
def test_a_view_of_tokens_is_the_same_whatever_else_is_asked_for(folder: Path) -> None:
    model, batch = tiny_model(folder, "bert", "vit", fusion="uniecs"), batch_with_query_pictures()
    together = model.embed(batch, ALL_VIEWS)
    for view in ALL_VIEWS:
        alone = model.embed(batch, [view])
        assert set(alone.vectors) == set(alone.present) == {view}
        torch.testing.assert_close(alone.vectors[view], together.vectors[view])


@torch.no_grad()
def test_an_untouched_fusion_of_tokens_is_the_sum_of_mean_tokens(folder: Path) -> None:
    settings = replace(SETTINGS, fusion="uniecs")
    model = build_model(settings, str(folder / "bert"), str(folder / "vit"), pretrained=True).eval()
    vectors = model.embed(some_batch(), PRODUCT).vectors
    hidden, mask = model.text_tower.tokens(*some_batch().text)
    means = [
        F.normalize(row[there], dim=1).mean(dim=0) for row, there in zip(hidden, mask, strict=True)
    ]
    expected = F.normalize(torch.stack(means), dim=1)
    torch.testing.assert_close(vectors["text"][:2], expected)
    summed = F.normalize(vectors["text"] + vectors["image"], dim=1)
    torch.testing.assert_close(vectors["product"], summed)


def test_a_fusion_of_tokens_has_one_projection_of_texts_as_wide_as_their_tokens() -> None:
    model = TwoTower(replace(SETTINGS, fusion="uniecs"), narrow_clip(), narrow_clip())
    assert model.query_projection is model.text_projection
    assert model.text_projection.weight.shape == model.image_projection.weight.shape == (16, 16)
    assert [name for name, _ in model.groups()["projections"]] == [
        "query_projection.weight",
        "image_projection.weight",
    ]
    vectors = model.eval().embed(batch_with_query_pictures(), ALL_VIEWS).vectors
    assert all(vector.shape == (4, 16) for vector in vectors.values())
    pooled = TwoTower(SETTINGS, narrow_clip(), narrow_clip())
    assert pooled.text_projection.weight.shape == (16, 12)


@torch.no_grad()
def test_a_batch_without_any_picture_or_query_has_zero_rows_and_says_so(folder: Path) -> None:
    nothing = torch.full((4,), -1)
    empty = torch.zeros(0, 1, dtype=torch.long)
    batch = some_batch()._replace(
        image=some_pictures(0), image_row=nothing, query=Tokens(empty, empty), query_row=nothing
    )
    embeddings = tiny_model(folder, "bert", "vit").embed(batch, ["query", "image", "product"])
    assert not embeddings.vectors["image"].any()
    assert not embeddings.vectors["query"].any()
    assert embeddings.present["product"].tolist() == [True, True, False, True]
    assert not embeddings.present["query"].any()


@torch.no_grad()
def test_the_query_side_shares_the_text_encoder_or_has_its_own(folder: Path) -> None:
    tokens = Tokens(*some_tokens(3))
    shared = tiny_model(folder, "bert", "vit")
    apart = tiny_model(folder, "bert", "vit", share_text_encoder=False)
    assert shared.query_tower is shared.text_tower
    assert not shared.groups()["query_encoder"]
    torch.testing.assert_close(apart.encode_query(tokens), shared.encode_query(tokens))
    for parameter in apart.query_tower.parameters():
        parameter.mul_(0.5)
    torch.testing.assert_close(apart.encode_text(tokens), shared.encode_text(tokens))
    assert (apart.encode_query(tokens) - shared.encode_query(tokens)).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["bilinear", "attended", "uniecs"])
@pytest.mark.parametrize("share", [True, False])
def test_the_groups_hold_every_parameter_once(folder: Path, share: bool, fusion: str) -> None:
    model = tiny_model(folder, "clip", "timm_resnet", share_text_encoder=share, fusion=fusion)
    groups = model.groups()
    grouped = [id(parameter) for members in groups.values() for _, parameter in members]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}
    owners: dict[str, nn.Module] = {"text_encoder": model.text_tower, "fusion": model.fusion}
    for name, module in owners.items():
        assert {id(p) for _, p in groups[name]} == {id(p) for p in module.parameters()}
    projections = {id(layer.weight) for layer in (model.query_projection, model.text_projection)}
    projections.add(id(model.image_projection.weight))
    assert {id(parameter) for _, parameter in groups["projections"]} == projections


@pytest.mark.parametrize("fusion", ["bilinear", "attended", "uniecs"])
def test_gradients_reach_every_part_that_a_query_to_product_loss_uses(
    folder: Path, fusion: str
) -> None:
    model = tiny_model(folder, "bert", "vit", fusion=fusion)
    vectors = model.embed(some_batch(), ["query", "product"]).vectors
    (vectors["query"] * vectors["product"]).sum().backward()
    for name in ("text_tower", "image_tower", "fusion", "query_projection", "image_projection"):
        assert any(p.grad is not None and p.grad.any() for p in getattr(model, name).parameters())


def test_a_temperature_is_clamped_between_its_smallest_value_and_one() -> None:
    temperature = Temperature(0.05, 0.01)
    assert temperature.value.item() == pytest.approx(0.05)
    for given, kept in ((1e-4, 0.01), (0.2, 0.2), (7.0, 1.0)):
        with torch.no_grad():
            temperature.log_temperature.fill_(torch.tensor(given).log())
        temperature.clamp()
        assert temperature.value.item() == pytest.approx(kept)


def test_each_pair_of_views_has_its_own_temperature(folder: Path) -> None:
    model = tiny_model(folder, "bert", "vit", temperature=0.07)
    assert set(model.temperatures) == set(PAIRS)
    values = [model.temperatures[name].value.item() for name in PAIRS]
    assert values == pytest.approx([0.07] * len(PAIRS))


def test_inputs_that_an_encoder_cannot_take_name_setting_and_encoder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"text_encoder.max_length=17: not for .*bert"):
        tiny_model(folder, "bert", "vit", max_length=17)
    with pytest.raises(ConfigError, match=r"image_encoder.image_size=40: not for .*vit"):
        tiny_model(folder, "bert", "vit", image_size=40)


def test_settings_take_from_the_encoders_what_the_recipe_leaves_open(folder: Path) -> None:
    config = Config(
        dim=16,
        text_encoder=TextEncoder(path=str(folder / "bert"), max_length=12),
        image_encoder=ImageEncoder(path=str(folder / "timm_resnet")),
    )
    settings = settings_of(config, picture_size=48)
    assert (settings.image_size, settings.picture_size, settings.max_length) == (SIZE, 48, 12)
    assert (settings.mean, settings.std) == ([0.4] * 3, [0.2] * 3)
    config.image_encoder.image_size = 24
    assert settings_of(config, picture_size=48).image_size == 24
