"""The page in a real browser: what a shopper types, drops, presses and links to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile import GOOD_PICTURE
from tests.serving.browser import CHROMIUM, chromium
from tests.serving.conftest import MARKUP, ODD

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")
expect = playwright.expect
CARDS = "#results .card"
WHY = re.compile(r"^score -?\d\.\d\d: meaning -?\d\.\d\d, words \d\.\d\d$")
DONE = "#results[aria-busy=false]"
Open = Callable[..., Any]

# What another program does that drops or pastes a file.
DROP = """([event, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], "x.jpg", {type: "image/jpeg"}));
  const dropped = event === "drop";
  const kind = dropped ? DragEvent : ClipboardEvent;
  const key = dropped ? "dataTransfer" : "clipboardData";
  window.dispatchEvent(new kind(event, {[key]: carried, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def show(browser: Any, address: str) -> Iterator[Open]:
    """Opens states of the page; nothing may come from another host or break a policy."""
    contexts, wrong = [], []

    def show(state: str = "", width: int = 1280, **options: Any) -> Any:
        size = {"width": width, "height": 860}
        context = browser.new_context(viewport=size, base_url=address, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on(
            "request",
            lambda request: (
                request.url.startswith((address, "blob:", "data:")) or wrong.append(request.url)
            ),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda line: (
                wrong.append(line.text)
                if "Content Security Policy" in line.text or "Uncaught" in line.text
                else None
            ),
        )
        page.goto(state or "/")
        page.wait_for_selector(DONE)
        return page

    yield show
    for context in contexts:
        context.close()
    assert wrong == []


def found(page: Any) -> list[str]:
    page.wait_for_selector(DONE)
    return page.locator(CARDS).evaluate_all("all => all.map(one => one.dataset.product)")


def asked(page: Any, **body: Any) -> list[str]:
    """What the service itself finds."""
    answer = page.request.post("search", data={"top": 24, **body})
    return [hit["product_id"] for hit in answer.json()["hits"]]


def test_words_are_searched_for_and_stand_in_the_address(show: Open) -> None:
    page = show()
    expect(page.locator("h1")).to_be_visible()
    page.get_by_role("searchbox").fill("red rug")
    page.get_by_role("searchbox").press("Enter")
    expect(page).to_have_url(re.compile(r"/\?q=red\+rug$"))
    page.wait_for_selector(CARDS)
    assert found(page) == asked(page, text="red rug")
    expect(page.locator("#summary")).to_contain_text("24 products of 54")
    first = page.locator(CARDS).first
    expect(first.locator(".why")).to_have_attribute("aria-label", WHY)
    page.go_back()
    expect(page.locator("h1")).to_be_visible()
    page.go_forward()
    expect(page.locator(CARDS)).to_have_count(24)


def test_results_follow_while_words_are_typed(show: Open) -> None:
    page = show("/?q=rug")
    before = page.evaluate("history.length")
    page.get_by_role("searchbox").fill("blue vase")
    page.wait_for_url("**/?q=blue+vase")
    expect(page).to_have_title("blue vase · Beyond Text")
    assert page.evaluate("history.length") == before


@pytest.mark.parametrize("way", ["file", "drop", "paste"])
def test_a_picture_is_searched_by_however_it_comes_and_has_a_link(show: Open, way: str) -> None:
    page = show()
    if way == "file":
        picture = {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": GOOD_PICTURE}
        page.locator("#file").set_input_files(picture)
    else:
        page.evaluate(DROP, [way, list(GOOD_PICTURE)])
    page.wait_for_selector(CARDS)
    expect(page.locator("#chip")).to_be_visible()
    expect(page.locator("#weight")).to_be_disabled()
    first = found(page)
    assert len(first) == 24
    again = show(page.url)
    assert found(again) == first
    expect(again.locator("#chip img")).to_have_js_property("complete", True)
    again.get_by_role("button", name="Remove the picture").click()
    expect(again.locator("h1")).to_be_visible()


def test_what_is_no_picture_is_said(show: Open) -> None:
    page = show()
    page.locator("#file").set_input_files(
        {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    )
    expect(page.get_by_role("alert")).to_contain_text("no picture")


def test_the_like_of_a_product_is_found_by_its_picture(show: Open) -> None:
    page = show("/?q=red+rug")
    without = page.locator(f"{CARDS}:not(:has(img))")
    assert without.count() > 0
    assert without.locator(".similar").count() == 0
    card = page.locator(f"{CARDS}:has(img)").first
    product = card.get_attribute("data-product")
    card.hover()
    card.locator(".similar").click()
    page.wait_for_url(re.compile(r"\?like="))
    assert page.evaluate("new URLSearchParams(location.search).get('like')") == product
    page.wait_for_selector(CARDS)
    expect(page.locator("#chip")).to_be_visible()
    assert len(found(page)) == 24


def test_filters_leave_what_passes_and_stand_in_the_address(show: Open) -> None:
    page = show("/?q=rug")
    page.get_by_label('Ode|"Co"').check()
    page.wait_for_url("**is.brand=*")
    expect(page.locator(CARDS)).to_have_count(18)
    page.get_by_label("Price to").fill("30")
    page.get_by_label("Price to").press("Enter")
    page.wait_for_url("**to.price=30*")
    wanted = asked(page, text="rug", filters=['"brand"="Ode|""Co"""', '"price"<="30"'])
    expect(page.locator(CARDS)).to_have_count(len(wanted))
    assert found(page) == wanted
    assert found(show(page.url)) == wanted
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(CARDS)).to_have_count(24)


def test_the_weight_changes_what_is_found_and_says_why(show: Open) -> None:
    page = show("/?q=odd+rug")
    page.locator("#weight").fill("0")
    page.wait_for_url("**weight=0*")
    expect(page.locator("#weighed")).to_have_text("0 %")
    wanted = asked(page, text="odd rug", weight=0)
    expect(page.locator(CARDS).first).to_have_attribute("data-product", wanted[0])
    assert found(page) == wanted
    page.locator("#weight").fill("1")
    page.wait_for_url("**weight=1*")
    expect(page.locator(f"{CARDS} .bar.words")).to_have_count(0)


def test_two_indexes_stand_side_by_side(show: Open) -> None:
    page = show("/?q=blue+vase")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".columns .card")
    columns = page.locator(".column")
    expect(columns).to_have_count(2)
    expect(columns.nth(0).get_by_role("heading", name="Untouched")).to_be_visible()
    expect(columns.nth(1).get_by_role("heading", name="Trained")).to_be_visible()
    assert page.url.endswith("versus=untouched")
    expect(page.locator("#summary")).to_have_text("24 of 24 on both sides")
    # Both names are those of one index.
    assert set(columns.nth(1).locator(".badge").all_inner_texts()) == {"="}
    page.get_by_role("button", name="Filters").click()
    expect(page.locator("#facets")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#facets")).to_be_hidden()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".column")).to_have_count(0)


def test_a_product_has_a_view_with_a_link_of_its_own(show: Open) -> None:
    page = show("/?q=red+rug")
    page.locator(f"{CARDS} a").nth(2).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    title = dialog.get_by_role("heading").inner_text()
    again = show(page.url)
    expect(again.get_by_role("dialog").get_by_role("heading")).to_have_text(title)
    expect(again.get_by_role("dialog")).to_contain_text("Brand")
    again.get_by_role("button", name="Close").click()
    expect(again.get_by_role("dialog")).to_be_hidden()
    expect(again).not_to_have_url(re.compile("product="))


@pytest.mark.parametrize("product_id", ODD)
def test_products_of_any_id_and_text_are_shown_as_they_are(show: Open, product_id: str) -> None:
    page = show(f"/?q=odd+rug&top=60&weight=0&product={quote(product_id, safe='')}")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(product_id)
    assert product_id in found(page)
    if product_id == ODD[0]:
        assert "run" not in page.title()
        assert page.locator("b:text-is('rug'), img[src=x]").count() == 0
        expect(dialog.get_by_role("heading")).to_contain_text(MARKUP[-10:-4].strip("</b>"))


def test_nothing_found_says_so_and_offers_a_way_out(show: Open) -> None:
    page = show("/?q=rug&from.price=1000")
    expect(page.locator(".message")).to_contain_text("Nothing found for “rug”")
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(CARDS)).to_have_count(24)


def test_an_error_is_said_and_the_way_out_works(show: Open) -> None:
    page = show("/?q=rug&is.colour=red")
    expect(page.get_by_role("alert")).to_contain_text("no column 'colour'")
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("h1")).to_be_visible()
    page.route("**/search", lambda route: route.abort())
    page.get_by_role("searchbox").fill("vase")
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(CARDS)).to_have_count(24)


def test_all_of_it_is_used_by_the_keyboard(show: Open) -> None:
    page = show("/?q=red+rug")
    focused = "document.activeElement.dataset.product ?? document.activeElement.id"
    order = found(page)
    page.keyboard.press("/")
    assert page.evaluate(focused) == "words"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == order[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == order[1]
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
    )
    assert page.evaluate(focused) == order[1 + columns]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate(focused) == order[1 + columns]
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "words"


@pytest.mark.parametrize(
    "state",
    [
        "/",
        "/?q=rug",
        "/?q=rug&versus=untouched",
        "/?q=rug&product=dev.0",
        "/?q=rug&from.price=1000",
        "/?q=rug&is.colour=red",
    ],
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_fits_a_phone_and_is_read_in_the_dark(
    show: Open, state: str, scheme: str
) -> None:
    page = show(state, width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    shade = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(shade) < 60) == (scheme == "dark")


def test_a_phone_has_its_filters_in_a_sheet(show: Open) -> None:
    page = show("/?q=rug", width=390)
    expect(page.locator("#facets")).to_be_hidden()
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Norrby").check()
    page.get_by_role("button", name="Show results").click()
    expect(page.locator("#facets")).to_be_hidden()
    expect(page.locator(CARDS)).to_have_count(18)
    expect(page.get_by_role("button", name="Filters")).to_contain_text("1")
