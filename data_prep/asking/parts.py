"""Parts a cell of a field into the values that a shop has written into it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec

from beyond_text.files import MALFORMED
from beyond_text.tables.text import normal_text, shown_text

# Between values, the first kind before the second; a comma or slash of a number parts nothing.
LISTED = re.compile(r"\s*[;|\uff1b\uff5c\u3001\uff0c]\s*")
COMMA = re.compile(r"\s*(?:(?<!\d),|,(?!\d))\s*")
LONE_SLASH = re.compile(r"\s+/\s+")
SLASH = re.compile(r"\s*(?:(?<!\d)/|/(?!\d))\s*")
# Between the steps of a path, such as `Home > Furniture > Beds`.
STEP = re.compile(r"\s*(?:>|\u00bb|\u203a|\u2192)+\s*")
# Items of lists as Python and PostgreSQL write them: ['a', 5] and {a,"b c"}.
ITEM = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|([^,'\"\s][^,]*)")
BRACKETS = {"[": "]", "{": "}", "(": ")"}
LIST = msgspec.json.Decoder(list[str | int | float | bool | None])
# Where HTML ends a line.
LINE = re.compile(r"<br\s*/?>|</(?:li|p|div|tr|h[1-6])>", re.IGNORECASE)
# A slash of a unit, such as 25 km/h and 80 g/m\u00b2, or of w/ and w/o.
OF_UNIT = re.compile(
    r"(?<=\d)(\s*[a-z\u00b5]{1,3})/(?=[a-z\u00b5]{1,3}[\u00b2\u00b3]?(?!\w))|\b(w)/(?=\s|o\b)",
    re.IGNORECASE,
)
# Stands for such a slash until all is parted.
KEPT_SLASH = "\u2215"
# Numbers with commas between them; 38,000,000 is one.
NUMBERS = re.compile(r"\d+(?:,\d+){2,}")
THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
# How much of a material: `60% cotton`, `cotton (60 %)`.
SHARE = re.compile(r"\(?\d+(?:[.,]\d+)?\s*%\)?")
# `42.0` is 42, and `5,000` five thousand.
WHOLE = re.compile(r"(\d+)[.,]0{1,2}")


def cell_text(cell: str) -> str:
    """Returns a cell as a shopper reads it; its lines and the items of a list are parted by `|`."""
    text = "|".join(_items(shown_text(LINE.sub("|", cell)).strip()))
    return "|".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _items(text: str) -> list[str]:
    """Lists the items of a list as JSON, Python or PostgreSQL write it; else the text alone."""
    if BRACKETS.get(text[:1]) != text[-1:]:
        return [text]
    with suppress(*MALFORMED):
        return [str(each) for each in LIST.decode(text) if each not in (None, "")]
    # A remark in brackets is no list, and no object either.
    if (text[0] == "(" and text[1:2] not in ("'", '"')) or (text[0] == "{" and ":" in text):
        return [text]
    return [next(filter(None, each), "").strip() for each in ITEM.findall(text[1:-1])]


def parts_of(
    value: str,
    missing: Collection[str] = (),
    parted_by: Sequence[str] = (),
    has_shares: bool = False,
    of_people: bool = False,
) -> list[str]:
    """Lists the values of a cell, each once; none where it says nothing.

    Of a path, such as `Home > Beds`, its last step is the value.

    Args:
        value: as `cell_text` returns it.
        missing: values that say nothing, in their normal form.
        parted_by: words and signs that part values beside `/ , ; |`.
        has_shares: `60% cotton` is cotton.
        of_people: a comma or a slash is a part of a name.
    """

    def says(text: str) -> bool:
        return re.search(r"\w", text) is not None and normal_text(text) not in missing

    value = OF_UNIT.sub(lambda unit: f"{unit[1] or unit[2]}{KEPT_SLASH}", value)
    found = [each for text in LISTED.split(value) for each in _last_steps(text)]
    found = [each for text in found for each in _numbers(text)]
    signs = () if of_people else (COMMA, LONE_SLASH, SLASH)
    for separator in (*signs, *map(_separator, parted_by)):
        # `n/a` is nothing before it is parted.
        found = [each for text in found if says(text) for each in separator.split(text)]
    if has_shares:
        found = [SHARE.sub("", each).strip(" :-") or each for each in found]
    whole = (WHOLE.fullmatch(each) for each in found)
    found = [match[1] if match else each for each, match in zip(found, whole, strict=True)]
    return list(dict.fromkeys(each.replace(KEPT_SLASH, "/") for each in found if says(each)))


def _numbers(text: str) -> list[str]:
    """Returns the numbers of a list of three or more without blanks: 38,39,40."""
    is_list = NUMBERS.fullmatch(text) and not THOUSANDS.fullmatch(text)
    return text.split(",") if is_list else [text]


def _last_steps(text: str) -> list[str]:
    """Returns the last step of a path, or of several paths with commas between them."""
    if not STEP.search(text):
        return [text]
    paths = text.split(",")
    paths = paths if all(map(STEP.search, paths)) else [text]
    return [next((step for step in reversed(STEP.split(path)) if step), "") for path in paths]


def _separator(word: str) -> re.Pattern[str]:
    """Returns a pattern of a word or sign between values."""
    blank = r"\s+" if word.isalnum() else r"\s*"
    return re.compile(f"{blank}{re.escape(word)}{blank}", re.IGNORECASE)
