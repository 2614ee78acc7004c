"""docs/api.md, made from the interface's own description: ``python -m tests.docs.api_page`` writes it anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from service.http.auth import match_route, permission_of
from service.http.openapi import ERRORS
from service.routes import ROUTES
from tests.docs.api_examples import IDS, Example, example_of
from tests.docs.pages import ROOT
from tests.service.test_openapi import document

PAGE = ROOT / "docs" / "api.md"
UPDATE = "python -m tests.docs.api_page"
SERVER, VERSION = "http://127.0.0.1:8000", "/v1"
WIDTH = 118
ORDER = ("get", "post", "patch", "delete")
FORM, AS_JSON = "multipart/form-data", "application/json"
Schema = dict[str, Any]

HEAD = """\
<!-- Made by `{update}` from the interface's description; edit that instead. -->
<!-- run on this page: tests/docs/test_api_page.py -->

# API reference

All operations of the service, generated from `/openapi.json`: what each does, the scope that a key needs, parameters
and responses. [Usage](usage.md) is the guide. A test runs all examples against a real service. They assume:

```console
$ export V={server}{version}         # with keys, each line below also has: -H "X-API-Key: vsk_…"
```

```python
from vitascope.client import Client

client = Client("{server}")  # the key comes from VITASCOPE_API_KEY
```

Bodies are JSON of at most 1 MiB (`VITASCOPE_MAX_BODY_BYTES`), or forms with a file of at most 512 MiB
(`VITASCOPE_MAX_UPLOAD_BYTES`). Unknown fields are rejected. Times are in seconds, sizes in bytes or pixels; ids and
cursors are opaque. Errors are [problem documents](usage.md#http) with a `code`. Besides the errors it lists, an
operation may answer 401 (no valid key), 403 (the key lacks a permission), 408 (the body did not arrive), 421 (unknown
host name), 429 and 503 (retry after `Retry-After`), 500 (a defect).

{errors}"""


def page() -> str:
    """The page as it should be."""
    made = document()
    errors = _table(("status", "what"), [(str(status), meaning) for status, (_, meaning) in ERRORS.items()])
    parts = [HEAD.format(update=UPDATE, server=SERVER, version=VERSION, errors=errors)]
    for tag in made["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        parts += [_operation(made, *each) for each in operations(made) if tag["name"] in each[2]["tags"]]
    parts.append("## Objects\n\nParts of bodies and responses.\n")
    parts += [_object(made, name) for name in sorted(_named(made))]
    return "\n".join(parts)


def operations(made: Schema) -> Iterator[tuple[str, str, Schema]]:
    """(method, path, description) of each, those of one path together."""
    for path in sorted(made["paths"], key=lambda path: (path.count("/"), path)):
        for method in ORDER:
            if method in made["paths"][path]:
                yield method.upper(), path, made["paths"][path][method]


def curls(made: Schema, method: str, path: str, ids: Mapping[str, str]) -> list[str]:
    """The examples of an operation, one for each form of body, with ``ids`` in the path."""
    operation, example = made["paths"][path][method.lower()], example_of(method, path)
    named = {**ids, "name": example.name or ids["name"]}
    if "files" in path:
        named["name"] = example.name
    start = "$V" if path.startswith(VERSION) else SERVER
    url = f"{start}{path.removeprefix(VERSION).format_map(named)}{example.query}"
    quoted = f'"{url}"' if "?" in url else url
    verb = "" if method == "GET" or "requestBody" in operation else f"-X {method} "
    start = f"curl {example.options or '-s'} {verb}{quoted}"
    if "requestBody" not in operation:
        return [start]
    if method == "PATCH":
        start = f"curl {example.options or '-s'} -X PATCH {quoted}"
    return [
        f"{start} {_sent(made, kind, each['schema'], example)}"
        for kind, each in operation["requestBody"]["content"].items()
    ]


def _sent(made: Schema, kind: str, schema: Schema, example: Example) -> str:
    body = _example(made, schema)
    if kind == AS_JSON:
        text = json.dumps(body)
        return f"--json '{text}'" if len(text) < WIDTH - 40 else f"\\\n    --json '{_folded(text)}'"
    fields = [f"-F file=@{example.file}"]
    for name, value in body.items():
        for each in value if isinstance(value, list) else [value]:
            text = json.dumps(each) if isinstance(each, dict) else str(each)
            fields.append(f"-F '{name}={text}'")
    return "\\\n    " + " \\\n    ".join(_lines(fields))


def _folded(text: str) -> str:
    """JSON broken after commas, so that lines are not longer than the page's."""
    return "\n    ".join(line.strip() for line in _lines(re.split(r"(?<=,) ", text)))


def _lines(words: list[str]) -> Iterator[str]:
    line = words[0]
    for word in words[1:]:
        if len(line) + len(word) > WIDTH - 16:
            yield line
            line = word
        else:
            line += f" {word}"
    yield line


def _operation(made: Schema, method: str, path: str, described: Schema) -> str:
    endpoint, _ = match_route(ROUTES, method, path)
    scope = permission_of(endpoint).scope
    words = described["description"].strip()
    title = described["summary"]
    parts = [f"### {title}\n", f"`{method} {path}` · " + (f"scope `{scope}`" if scope else "no key needed") + "\n"]
    if words.rstrip(".") != title:
        parts.append(words + "\n")
    asked = [p for p in described.get("parameters", []) if p["in"] != "path"]
    if asked:
        rows = [(f"`{p['name']}`", p["in"], _type(made, p["schema"]), p.get("description", "")) for p in asked]
        parts.append(_table(("parameter", "in", "type", "what"), rows))
    for kind, each in described.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body, {'a form' if kind == FORM else 'JSON'}:\n\n{_body(made, each['schema'])}")
    parts.append(_answers(described))
    shown = "".join(f"$ {curl}\n" for curl in curls(made, method, path, IDS))
    parts.append(f"```console\n{shown}```\n")
    if python := example_of(method, path).python:
        parts.append(f"```python\n{python}\n```\n")
    return "\n".join(parts)


def _answers(described: Schema) -> str:
    rows = []
    errors = []
    for status, answer in described["responses"].items():
        contents = answer.get("content", {})
        if "application/problem+json" in contents:
            errors += [status] if status != "default" else []
            continue
        objects = [_type({}, each["schema"]) for each in contents.values() if "$ref" in each.get("schema", {})]
        what = "" if answer["description"] == "Successful Response" else answer["description"]
        kinds = [f"`{kind}`" for kind in contents if kind != AS_JSON]
        rows.append((status, " ".join(filter(None, [*objects, what, ", ".join(kinds) if not objects else ""]))))
    lines = [f"- {status}: {what or 'nothing else'}\n" for status, what in rows]
    return "Answers:\n\n" + "".join(lines) + (f"- errors: {', '.join(errors)}\n" if errors else "")


def _body(made: Schema, schema: Schema) -> str:
    if "oneOf" in schema:
        return "One of " + ", ".join(_type(made, each) for each in schema["oneOf"]) + ", distinguished by `kind`.\n"
    if "$ref" in schema:
        return _fields(made, _referred(made, schema))
    return _fields(made, schema)


def _object(made: Schema, name: str) -> str:
    schema = made["components"]["schemas"][name]
    words = f"{schema['description'].strip()}\n\n" if schema.get("description") else ""
    return f"### {name} object\n\n{words}{_fields(made, schema)}"


def _fields(made: Schema, schema: Schema) -> str:
    needs = set(schema.get("required", []))
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in needs else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        rows.append((f"`{name}`", _type(made, field), default, _described(field)))
    return _table(("field", "type", "default", "what"), rows)


def _described(field: Schema) -> str:
    return str(field.get("description", "")) or next(
        (str(each["description"]) for each in field.get("anyOf", []) if "description" in each), ""
    )


def _type(made: Schema, schema: Schema) -> str:
    """In words, with its limits: "integer, 1 to 100", "list of text"."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()}-object)"
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [each for each in schema.get("anyOf", schema.get("oneOf", [])) if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(_type(made, each) for each in kinds))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    words = {"string": "file" if schema.get("format") == "binary" else "text", "array": "list", "object": "object"}
    word = words.get(kind, kind)
    if kind == "array" and schema.get("items"):
        word = f"list of {_type(made, schema['items'])}"
    return word + _limits(schema)


def _limits(schema: Schema) -> str:
    at_least = schema.get("minimum", schema.get("minLength", schema.get("minItems")))
    check_max = schema.get("maximum", schema.get("maxLength", schema.get("maxItems")))
    unit = " characters" if "maxLength" in schema or "minLength" in schema else ""
    if at_least is not None and check_max is not None:
        return f", {at_least} to {check_max}{unit}"
    if at_least is not None:
        return f", at least {at_least}{unit}"
    return "" if check_max is None else f", at most {check_max}{unit}"


def _example(made: Schema, schema: Schema) -> Any:
    if "oneOf" in schema:
        return _example(made, schema["oneOf"][0])
    if "$ref" in schema:
        return _example(made, _referred(made, schema))
    return schema["examples"][0]


def _referred(made: Schema, schema: Schema) -> Schema:
    found: Schema = made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def _named(made: Schema) -> set[str]:
    """The objects that answers name, those in bodies, which are told where they are sent, and those that these name."""
    found: set[str] = set()
    new = _names([_shown(made, *each) for each in operations(made)])
    while new:
        found |= new
        new = _names([made["components"]["schemas"][name] for name in new]) - found
    return found


def _shown(made: Schema, method: str, path: str, described: Schema) -> list[Schema]:
    bodies = [each["schema"] for each in described.get("requestBody", {}).get("content", {}).values()]
    inner = [_referred(made, each) if "$ref" in each else each for each in bodies]
    answers = [each for status, each in described["responses"].items() if status.startswith("2")]
    return [*inner, *answers]


def _names(parts: object) -> set[str]:
    return set(re.findall(r"#/components/schemas/(\w+)", json.dumps(parts)))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns that are empty throughout are left out."""
    if not rows:
        return ""
    kept = [at for at in range(len(head)) if any(row[at] for row in rows)]
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(_cell(line[at]) for at in kept) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"written: {PAGE}")
