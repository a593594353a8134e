"""Rules of a file lie over the default ones; those that say nothing sensible are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.asking.rules import DEFAULT_RULES, read_rules
from data_prep.asking.values import Field
from data_prep.queries import main
from tests.data_prep.asking.shops import (
    ATTRIBUTES,
    HEADER,
    error_of,
    shop_rows,
    write_csv,
    write_rules,
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1]", "expected a mapping"),
        ("fields: {colour: {naer: 1}}", "unknown field `naer`"),
        ("fields: {colour: {near: 2}}", "expected grades from 0 to below exact, 2, got 2"),
        ("fields: {colour: {near: -1}}", "got -1"),
        ("fields: {colour: {words: {red: []}}}", "expected words for 'red'"),
        ("asks: [{forms: ['{colour}', '{pattern}']}]", "expected {colour}, each once"),
        ("asks: [{forms: ['{colour} {colour}']}]", "each once, got '{colour} {colour}'"),
        ("asks: [{forms: ['{size} coat']}]", "got 'size'"),
        ("asks: [{forms: ['coat']}]", "each once, got 'coat'"),
        ("asks: [{forms: ['{colour}'], weight: 0}]", "a weight above 0"),
        ("written: {shouting: 0.1}", "expected shares"),
        ("written: {typo: 0.9, plural: 0.2}", "expected shares"),
        ("besides: {taste: {decided: {size: [big]}}}", "besides.taste: expected"),
        ("mapped: {needed: [audience]}", "mapped.needed: expected"),
        ("fields: {shade: {naer: 1}}", "fields.shade: Object contains unknown field `naer`"),
        ("fields: {colour: {words: {red: ['  ']}}}", "expected words for 'red'"),
        ("exact: .inf", "exact: expected a grade above 0, at most 100, got inf"),
        ("asks: [{forms: ['{colour {product_type}']}]", "expected places such as {colour}"),
        ("exact: 2\nexact: 3", "'exact' stands twice"),
        ("a: {b", "not readable as YAML"),
        ("!!python/object/apply:os.system [ls]", "not readable as YAML"),
    ],
)
def test_rules_that_say_nothing_sensible_are_refused(
    tmp_path: Path, content: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows(8))
    rules = tmp_path / "rules.yaml"
    rules.write_text(content)
    message = error_of(
        capsys, tmp_path, tmp_path / "out", "--attributes", ATTRIBUTES, "--rules", rules
    )
    assert str(rules) in message
    assert expected in message


def test_rules_of_a_file_lie_over_the_default_ones(tmp_path: Path) -> None:
    rules = read_rules(write_rules(tmp_path / "r.yaml", {"fields": {"pattern": {"other": 0.5}}}))
    default = read_rules()
    assert rules.fields["pattern"].other == 0.5
    assert rules.fields["pattern"].words == default.fields["pattern"].words
    assert rules.asks == default.asks
    assert rules.digest != default.digest == read_rules(DEFAULT_RULES).digest


def test_values_are_spelled_as_the_shop_does(tmp_path: Path) -> None:
    content = {"fields": {"colour": {"words": {"Dark Blue": ["marine"]}, "not_asked": ["Black"]}}}
    rules = read_rules(write_rules(tmp_path / "r.yaml", content))
    field = Field("colour", rules.fields["colour"], ["dark blue", "BLACK", "Red"])
    assert [field.words_of(code) for code in range(3)] == [[], ["marine"], ["red"]]


def test_a_field_that_forms_leave_out_is_asked_for_once(tmp_path: Path) -> None:
    forms = ["{product_type} for {audience}"]
    rules = read_rules(write_rules(tmp_path / "r.yaml", {"asks": [{"forms": forms}]}))
    with_colour = rules.with_fields(["colour", "product_type", "audience"])
    found = [form for ask in with_colour.asks_of(["colour", "product_type"]) for form in ask.forms]
    assert "{colour} {product_type}" in found
    assert all(form.count("{colour}") == form.count("{product_type}") == 1 for form in found)


def test_a_value_of_ones_own_rules_that_no_product_has_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_csv(tmp_path / "products.csv", HEADER, shop_rows(40))
    words = {"Drak Red": ["wine"], "Dark Red": ["ox blood"]}
    write_rules(tmp_path / "r.yaml", {"fields": {"colour": {"words": words}}})
    options = ["--attributes", ATTRIBUTES, "--rules", str(tmp_path / "r.yaml")]
    assert main([str(tmp_path), str(tmp_path / "out"), *options]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rules:")]
    expected = "fields.colour.words: no product has 'Drak Red'; the nearest is 'Dark Red'"
    assert said == [f"rules: {expected}"]
