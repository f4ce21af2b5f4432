"""The reference in the docs is what the service says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.openapi.reference import BEGIN, END, main, openapi_document, reference, replaced
from tests.service.conftest import Service

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_reference_is_current() -> None:
    assert main(["--check", str(PAGE)]) == 0, "docs/api.md is not what the service does; run: make api"


def test_the_document_is_that_of_a_running_service(service: Service) -> None:
    assert openapi_document() == service.get("/openapi.json").json()


def test_every_route_is_in_the_reference() -> None:
    document = openapi_document()
    written = reference(document)
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"#### `{method.upper()} {path}`\n" in written


def test_an_old_page_is_told_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "api.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--check", str(page)]) == 1
    assert main([str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith(f"{END}\nafter\n")
    assert "\nold\n" not in page.read_text()


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        replaced("nothing here", "text")
