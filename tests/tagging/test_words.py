"""Words are found whole, the longest first; a file of words that is not one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from beyond_text.tagging.words import Field, read_fields

COLOUR = Field(
    "colour",
    ("{word}", "a {word} {category}"),
    {"white": ("white", "ivory"), "grey": ("grey", "off white"), "rose": ("rosé",)},
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("White shirt", ["white"]),
        ("Off-white shirt", ["grey"]),
        ("OFF  WHITE, then white.", ["white", "grey"]),
        ("whiter, greyhound, ivory2", []),
        ("ivory\nand white", ["white"]),
        ("Rose or ROSÉ", ["rose"]),
        ("a shirt in grey", ["grey"]),
        ("", []),
    ],
)
def test_a_text_names_words_whole_and_longest_first(text: str, words: list[str]) -> None:
    assert [list(COLOUR.words)[number] for number in COLOUR.named_in(text)] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [("\u7ea2\u8272\u6c99\u53d1", ["\u7ea2"]), ("\u6df1\u84dd \u6c99\u53d1", ["\u6df1\u84dd"]),
     ("\u84dd\u548c\u7ea2", ["\u7ea2", "\u84dd"]), ("\u6c99\u53d1", []),
     ("rot, nicht Brot", ["rot"]), ("Brot", [])],
)  # fmt: skip
def test_words_of_a_script_without_blanks_are_found_anywhere(text: str, words: list[str]) -> None:
    forms = ("\u7ea2", "\u84dd", "\u6df1\u84dd", "rot")
    colour = Field("colour", ("{word}",), {each: (each,) for each in forms})
    assert [list(colour.words)[number] for number in colour.named_in(text)] == words


def test_prompts_are_of_every_form_and_of_the_type() -> None:
    assert COLOUR.prompts_of("white", "vase") == [
        "white", "a white vase", "ivory", "a ivory vase",
    ]  # fmt: skip
    assert COLOUR.uses_category
    assert not Field("a", ("{word}",), {}).uses_category


def test_the_package_has_colours_patterns_and_materials() -> None:
    fields = {field.name: field for field in read_fields()}
    assert list(fields) == ["colour", "pattern", "material"]
    assert {"black", "white", "blue"} <= set(fields["colour"].words)
    assert "navy" in fields["colour"].words["blue"]
    assert {"plain", "striped"} <= set(fields["pattern"].words)


def test_a_file_may_list_words_without_forms(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text('shape:\n  prompts: ["{word}"]\n  words: [round, square]\n')
    (shape,) = read_fields(file)
    assert shape.words == {"round": ("round",), "square": ("square",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a field such as `colour:`"),
        ("- red", "expected a field such as"),
        ("colour: [", "not readable as YAML"),
        ("colour: {}\nmaterial: {}\ncolour: {}", "'colour' stands twice"),
        ("product_id: {prompts: ['{word}'], words: [a, b]}", "a field called 'product_id'"),
        ("product_type: {prompts: ['{word}'], words: [a, b]}", "a field called 'product_type'"),
        ("'a b': {prompts: ['{word}'], words: [a, b]}", "a field called 'a b'"),
        ("3: {prompts: ['{word}'], words: [a, b]}", "a field called 3"),
        ("colour: [red, blue]", "colour: expected `prompts` and `words`"),
        ("colour: {prompt: ['{word}'], words: [a, b]}", "expected `prompts` and `words`"),
        ("colour: {prompts: [], words: [a, b]}", "colour: prompts: expected"),
        ("colour: {prompts: ['a {category}'], words: [a, b]}", "colour: prompts: expected"),
        ("colour: {prompts: ['{word} {kind}'], words: [a, b]}", "colour: prompts: expected"),
        ("colour: {prompts: ['{word}'], words: [a]}", "expected two words or more"),
        ("colour: {prompts: ['{word}'], words: 'a'}", "expected two words or more"),
        ("colour: {prompts: ['{word}'], words: {on: , b: }}", "words: True: expected words"),
        ("colour: {prompts: ['{word}'], words: {a: x, b: }}", "words: 'a': expected words"),
        ("colour: {prompts: ['{word}'], words: {a: [1], b: }}", "words: 'a': expected words"),
        ("colour: {prompts: ['{word}'], words: {a: ['-'], b: }}", "words: 'a': expected words"),
        ("colour: {prompts: ['{word}'], words: {a: [B], b: }}", "'b' stands for 'a' and 'b'"),
    ],
)
def test_a_file_that_is_not_as_expected_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"words\.yaml: ") as error:
        read_fields(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
