"""Static checks of the web page that need no browser: what its Content-Security-Policy and its readers rely on."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

import service

PAGE = Path(service.__file__).parent / "page"
FILES = ("index.html", "app.js", "style.css")
VOID = {"img", "input", "link", "meta"}  # the elements of the page that have no end tag
# A name that nothing fetches: an icon in a data: URL has to state it.
SVG_NAMESPACE = "http://www.w3.org/2000/svg"

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """What the checks need to know of the page: its elements, which of them labels enclose, and inline code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.labelled_by_enclosure: list[Attributes] = []
        self.inline_code: list[str] = []
        self.mismatched: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.mismatched += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if "label" in self._open:
            self.labelled_by_enclosure.append(attributes)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.mismatched.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style") and data.strip():
            self.inline_code.append(data)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]

    def of(self, *tags: str) -> list[Attributes]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def text_of(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(text_of("index.html"))


def test_the_markup_is_balanced_and_ids_are_unique(page: Page) -> None:
    assert page.mismatched == []
    assert [name for name, times in Counter(page.values("id")).items() if times > 1] == []


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_fetched_from_elsewhere(name: str) -> None:
    text = text_of(name).replace(SVG_NAMESPACE, "")
    assert re.findall(r"""(?:https?:|wss?:|["'(=]\s*)//[\w.-]+""", text) == []
    assert "@import" not in text


def test_html_loads_only_its_own_two_assets(page: Page) -> None:
    scripts = [attributes.get("src") for attributes in page.of("script")]
    styles = [attributes.get("href") for attributes in page.of("link") if attributes.get("rel") == "stylesheet"]
    assert (scripts, styles) == (["/page/app.js"], ["/page/style.css"])
    assert all(value.startswith(("/", "#", "data:image/svg+xml,")) for value in page.values("href"))
    assert page.of("iframe", "object", "embed", "base") == []


def test_css_loads_nothing() -> None:
    assert "url(" not in text_of("style.css")


def test_html_holds_no_inline_code(page: Page) -> None:
    assert page.inline_code == []
    assert page.of("style") == []
    names = {name for _, attributes in page.elements for name in attributes}
    assert {name for name in names if name == "style" or name.startswith("on")} == set()
    assert [value for value in page.values("href") + page.values("src") if value.startswith("javascript:")] == []


@pytest.mark.parametrize(
    "sink",
    [
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "setHTMLUnsafe", "DOMParser", "srcdoc",
        "createContextualFragment", r"\beval\b", r"\bFunction\(", r"\bimport\b", r"setAttribute\(\s*[\"']style",
        r"setAttribute\(\s*[\"']on", r"\.cssText", r"set(?:Timeout|Interval)\(\s*[\"'`]",
    ],
)  # fmt: skip
def test_script_has_no_way_from_text_to_markup_or_code(sink: str) -> None:
    assert re.findall(sink, text_of("app.js")) == []


def test_every_id_that_the_script_uses_exists(page: Page) -> None:
    script = text_of("app.js")
    used = set(re.findall(r"""\b(?:byId|on|submit)\("([^"]+)"[,)]""", script))
    assert used - set(page.values("id")) == set()
    # Every look-up goes through byId with a literal, `on` and `submit` apart; otherwise the check above is blind.
    assert script.count("getElementById") == 1
    assert re.findall(r"byId\((?![\"])[^)]*\)", script.replace("byId = (id)", "")) == ["byId(id)"]


def test_every_id_that_the_page_refers_to_exists(page: Page) -> None:
    named = [name for attribute in ("aria-labelledby", "for") for name in page.values(attribute)]
    linked = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert named and linked
    assert set(named + linked) - set(page.values("id")) == set()


def test_every_input_has_a_label(page: Page) -> None:
    labels = {attributes.get("for") for attributes in page.of("label")}
    fields = page.of("input", "select", "textarea")
    assert len(fields) >= 4
    unlabelled = [
        field for field in fields if field.get("id") not in labels and field not in page.labelled_by_enclosure
    ]
    assert unlabelled == []


def test_the_page_speaks_to_readers_who_do_not_see_it(page: Page) -> None:
    assert [attributes.get("lang") for attributes in page.of("html")] == ["en"]
    assert all("alt" in attributes for attributes in page.of("img"))
    status = [attributes for _, attributes in page.elements if attributes.get("id") == "status"]
    assert [attributes.get("aria-live") for attributes in status] == ["polite"]
    assert all(attributes.get("type") in ("button", "submit") for attributes in page.of("button"))


def test_every_class_that_the_page_and_its_script_name_is_styled(page: Page) -> None:
    script, style = text_of("app.js"), text_of("style.css")
    named = {word for value in page.values("class") for word in value.split()}
    named |= {word for value in re.findall(r'className: "([^"]+)"', script) for word in value.split()}
    named |= set(re.findall(r'classList\.(?:add|toggle)\("([^"]+)"', script))
    assert {name for name in named if not re.search(rf"\.{name}(?![\w-])", style)} == set()


def test_both_colour_schemes_define_the_same_colours() -> None:
    style = text_of("style.css")
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)

    def colours(block: str) -> set[str]:
        return set(re.findall(r"--([\w-]+): #", block))

    assert colours(light) == colours(dark) != set()


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2), in 0..1."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        ("ink", "ground"), ("ink", "plate"), ("quiet", "ground"), ("quiet", "plate"),
        ("on-ink", "ink"), ("on-ink", "sight"),
    ],
)  # fmt: skip
def test_text_reaches_the_contrast_of_wcag_aa(scheme: int, ink: str, ground: str) -> None:
    block = re.findall(r":root \{(.*?)\}", text_of("style.css"), flags=re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    darker, lighter = sorted((luminance(colours[ink]), luminance(colours[ground])))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
