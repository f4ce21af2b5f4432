"""The reference in docs/api.md, written from the OpenAPI document: ``make api``.

``python -m service.openapi.reference docs/api.md`` replaces what stands between two marks; with ``--check`` it only
compares, and ends with 1 when the page is not current. No collection and no encoder are needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from service.engine import Engine
from service.settings import load_settings

BEGIN = "<!-- reference: written by `make api` -->"
END = "<!-- end of the reference -->"
_METHODS = ("get", "post", "put", "delete")
_LONGEST_EXAMPLE = 700
Described = Mapping[str, Any]


def openapi_document() -> dict[str, Any]:
    """The document of a service with the default settings. Routes are only declared, so no engine runs behind them."""
    from service.app import create_app

    engine = cast(Engine, SimpleNamespace(metrics=None, identity=None))
    return create_app(engine, load_settings()).openapi()


def reference(document: Described) -> str:
    """The routes by tag, each with its parameters, bodies, answers and errors, in Markdown."""
    lines: list[str] = []
    for tag in document["tags"]:
        lines += [f"### {tag['name']}", "", tag["description"], ""]
        for path, operations in document["paths"].items():
            for method in _METHODS:
                if tag["name"] in operations.get(method, {}).get("tags", ()):
                    lines += [*_operation(document, method, path, operations[method]), ""]
    return "\n".join(lines).strip() + "\n"


def replaced(page: str, text: str) -> str:
    """The page with another reference between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page lacks its marks; write {BEGIN} and {END} where the reference belongs.")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def _operation(document: Described, method: str, path: str, operation: Described) -> Iterator[str]:
    yield f"#### `{method.upper()} {path}`"
    yield ""
    yield f"{operation['summary'].rstrip('.')}. {' '.join(operation['description'].split())}"
    yield ""
    in_path = [one for one in operation.get("parameters", ()) if one["in"] == "path"]
    body = operation.get("requestBody", {}).get("content", {})
    if in_path:
        yield from (f"- `{one['name']}` in the path: {_type(document, one['schema'])}" for one in in_path)
    if body:
        yield f"- body: {', '.join(f'`{kind}`' for kind in body)}"
    model = body.get("application/json", {}).get("schema")
    fields = list(_fields(document, model)) if model else []
    if fields:
        yield from ("", "| field | type | |", "|---|---|---|", *fields)
    examples = body.get("application/json", {}).get("examples", {})
    shown = next((one["value"] for one in examples.values() if len(json.dumps(one["value"])) <= _LONGEST_EXAMPLE), None)
    if shown is not None:
        yield from ("", "```json", json.dumps(shown, ensure_ascii=False), "```")
    answers = ", ".join(f"`{kind}`" for kind in operation["responses"]["200"].get("content", {})) or "nothing"
    errors = [
        f"{status} {response['description']}"
        for status, response in sorted(operation["responses"].items())
        if int(status) >= 400 and response.get("description")
    ]
    yield from ("", f"Answers with {answers}. Errors: {', '.join(errors)}.")


def _fields(document: Described, schema: Described) -> Iterator[str]:
    model = _resolved(document, schema)
    required = set(model.get("required", ()))
    for name, one in model.get("properties", {}).items():
        says = " ".join(str(one.get("description", "")).split()).replace("|", "\\|")
        if name in required:
            says = f"needed. {says}".strip()
        elif one.get("default") not in (None, [], {}):
            says = f"{says} Default: {json.dumps(one['default'], ensure_ascii=False)}.".strip()
        yield f"| `{name}` | {_type(document, one)} | {says} |"


def _type(document: Described, schema: Described) -> str:
    """A type in a few words: ``text``, ``number (0 to 1)``, ``list of text``, ``SearchFilter``."""
    if "$ref" in schema:
        model = _resolved(document, schema)
        return str(model.get("title", "object")) if "properties" in model else _type(document, model)
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [
            _type(document, one) for one in schema.get("anyOf", schema.get("oneOf", ())) if one.get("type") != "null"
        ]
        return " or ".join(dict.fromkeys(kinds)) or "null"
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = {"string": "text", "boolean": "true or false", "object": "object"}.get(schema.get("type", ""), "")
    if schema.get("type") == "array":
        kind = f"list of {_type(document, schema.get('items', {}))}"
    low = schema.get("minimum", schema.get("exclusiveMinimum", schema.get("minLength", schema.get("minItems"))))
    high = schema.get("maximum", schema.get("exclusiveMaximum", schema.get("maxLength", schema.get("maxItems"))))
    bounds = f"{low} to {high}" if low is not None and high is not None else ""
    bounds = bounds or (f"from {low}" if low is not None else f"up to {high}" if high is not None else "")
    return (kind or str(schema.get("type", "anything"))) + (f" ({bounds})" if bounds else "")


def _resolved(document: Described, schema: Described) -> Described:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def main(arguments: list[str]) -> int:
    """Write or check a page; the exit code."""
    check = "--check" in arguments
    (name,) = [argument for argument in arguments if argument != "--check"]
    page = Path(name)
    before = page.read_text(encoding="utf-8")
    after = replaced(before, reference(openapi_document()))
    if check:
        return int(before != after)
    page.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
