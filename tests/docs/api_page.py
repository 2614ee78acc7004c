"""Generate docs/api.md from the OpenAPI document: ``python -m tests.docs.api_page``.

Bodies are the examples of the OpenAPI document. Ids on the page are placeholders, which the test that runs the examples
replaces by the variables that ``before`` sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.http.auth import match_route, permission_of
from service.http.openapi import ERRORS
from service.routes import ROUTES
from tests.docs.pages import ROOT
from tests.service.test_openapi import document

IDS = {
    "name": "holidays",
    "video_id": "3",
    "job_id": "1",
    "operation_id": "9f86d081884c7d65",
    "key_id": "3f9c01d2a4b7",
    "fingerprint": "9f0c…ab34",
    "webhook_id": "9f86d081884c7d65",
}
"""Placeholders in paths. For the file of an operation, ``name`` is ``holidays.sqlite3``."""

ENDED = 'job_id = client.create_job("holidays", "/videos/2024")["id"]; client.wait_for_job("holidays", job_id)'
SLOW = 'job_id = client.add_url("holidays", SLOW_URL)["id"]'
STOP = 'client.cancel_job("holidays", job_id)'
BACKUP = 'operation_id = client.create_operation("backup", "holidays")["id"]; client.wait_for_operation(operation_id)'
WEBHOOK = 'webhook_id = client.create_webhook("https://portal.example/hook")["id"]'
UNHOOK = "client.delete_webhook(webhook_id)"
MODEL = 'fingerprint = client.add_model("talks-2")["fingerprint"]; client.wait_for_model(fingerprint)'
OLD = 'client.create_collection("old")'
KEY = 'key_id = client.create_key("made", ["read"])["id"]'


@dataclass(frozen=True)
class Example:
    """An example of an operation.

    Attributes:
        python: Call of the client; empty if it has no such method.
        before, after: Python that the test runs around the example.
        query: Query string of the URL.
        name: Replaces "holidays" in the path.
        file: File of a form.
        options: Options of curl.
    """

    python: str = ""
    before: str = ""
    after: str = ""
    query: str = ""
    name: str = ""
    file: str = "clip.mp4"
    options: str = ""


EXAMPLES = {
    "GET /livez": Example(),
    "GET /readyz": Example("client.is_ready()"),
    "GET /v1/collections": Example("client.list_collections()"),
    "POST /v1/collections": Example(
        'client.create_collection("holidays")',
        before='client.delete_collection("holidays")',
        after="holidays()",
    ),
    "GET /v1/collections/{name}": Example('client.get_collection("holidays")'),
    "GET /v1/collections/{name}/facets": Example('client.get_facets("holidays")'),
    "PATCH /v1/collections/{name}": Example('client.update_collection("holidays", index_kind="hnsw")'),
    "DELETE /v1/collections/{name}": Example('client.delete_collection("old")', before=OLD, name="old"),
    "GET /v1/collections/{name}/videos": Example(
        'client.list_videos("holidays", where={"year": 2024})', query="?limit=10", options="-s"
    ),
    "POST /v1/collections/{name}/videos": Example(
        'client.add_video("holidays", "clip.mp4", metadata={"camera": "north", "year": 2024})'
    ),
    "GET /v1/collections/{name}/videos/{video_id}": Example('client.get_video("holidays", "3")'),
    "PATCH /v1/collections/{name}/videos/{video_id}": Example(
        'client.update_video("holidays", "3", title="At the beach", metadata={"year": 2025, "camera": None})'
    ),
    "DELETE /v1/collections/{name}/videos/{video_id}": Example(
        'client.delete_video("holidays", "3")', after="holidays()"
    ),
    "GET /v1/collections/{name}/videos/{video_id}/media": Example(
        'client.download_video("holidays", "3", "beach-again.mp4")', options="-s -o beach-again.mp4 -r 0-9999"
    ),
    "GET /v1/collections/{name}/videos/{video_id}/thumbnail": Example(
        'client.get_thumbnail("/v1/collections/holidays/videos/3/thumbnail?t=1.5")',
        options="-s -o at-1.5.jpg",
        query="?t=1.5",
    ),
    "GET /v1/collections/{name}/jobs": Example('client.list_jobs("holidays", state="running")', query="?state=running"),
    "POST /v1/collections/{name}/jobs": Example(
        'client.create_job("holidays", source={"kind": "folder", "folder": "/videos/holidays"})'
    ),
    "GET /v1/collections/{name}/jobs/{job_id}": Example('client.get_job("holidays", "1")', before=ENDED),
    "DELETE /v1/collections/{name}/jobs/{job_id}": Example('client.cancel_job("holidays", "1")', before=SLOW),
    "GET /v1/collections/{name}/jobs/{job_id}/items": Example(
        'client.list_job_items("holidays", "1", state="failed")', before=ENDED, query="?state=failed"
    ),
    "GET /v1/collections/{name}/jobs/{job_id}/events": Example(
        'for event in client.iter_job_events("holidays", "1"):\n    print(event)', before=ENDED, options="-sN"
    ),
    "POST /v1/collections/{name}/jobs/{job_id}/pause": Example(
        'client.pause_job("holidays", "1")', before=SLOW, after=STOP
    ),
    "POST /v1/collections/{name}/jobs/{job_id}/resume": Example(
        'client.resume_job("holidays", "1")', before=f'{SLOW}; client.pause_job("holidays", job_id)', after=STOP
    ),
    "POST /v1/collections/{name}/jobs/{job_id}/retry": Example(
        'client.retry_job("holidays", "1")', before=f"{SLOW}; {STOP}; wait_until_cancelled(job_id)", after=STOP
    ),
    "GET /v1/operations": Example("client.list_operations()"),
    "POST /v1/operations": Example('client.create_operation("backup", "holidays")'),
    "GET /v1/operations/{operation_id}": Example('client.get_operation("9f86d081884c7d65")', before=BACKUP),
    "DELETE /v1/operations/{operation_id}": Example('client.delete_operation("9f86d081884c7d65")', before=BACKUP),
    "GET /v1/operations/{operation_id}/files/{name}": Example(
        'client.backup("holidays", "holidays.sqlite3")', before=BACKUP, name="holidays.sqlite3", options="-s -O"
    ),
    "POST /v1/collections/{name}/search": Example(
        'client.search("holidays", "a dog runs on the beach", rerank=20, where={"year": {"gte": 2020}})', file="dog.jpg"
    ),
    "POST /v1/rerank": Example(
        'client.rerank("a dog runs", [{"clip_id": "41"}, {"video_id": "3"}], collection="holidays")'
    ),
    "POST /v1/caption-scores": Example(
        'client.score(["a dog runs", "a cat sleeps"], collection="holidays", video_id="3", frames=8)'
    ),
    "POST /v1/answers": Example('client.ask("what animal is it?", collection="holidays", video_id="3", top=3)'),
    "POST /v1/entailment": Example(
        'client.classify_entailment(["a dog runs", "the dog is asleep"], collection="holidays", video_id="3")'
    ),
    "POST /v1/moments": Example(
        'client.find_moments(["a dog runs", "a wave breaks"], collection="holidays", video_id="3", top=3)'
    ),
    "POST /v1/captions": Example(
        'client.generate_captions(collection="holidays", video_id="3", end=60, segmentation="stored")'
    ),
    "POST /v1/chapters": Example(
        'client.generate_chapters(collection="holidays", video_id="3", segmentation="stored", max_chapters=8)'
    ),
    "POST /v1/groundings": Example(
        'client.ground(["the brown dog", "a ball"], collection="holidays", video_id="3", start=1, end=3)'
    ),
    "POST /v1/embeddings": Example('client.embed_texts(["a dog runs on the beach"])'),
    "POST /v1/transcriptions": Example('client.transcribe("talk.mp4", language="en")', file="talk.mp4"),
    "GET /v1/models": Example("client.list_models()"),
    "POST /v1/models": Example('client.add_model("hd-vila-tiny-2")'),
    "GET /v1/models/{fingerprint}": Example('client.get_model("9f0c…ab34")', before=MODEL),
    "POST /v1/models/{fingerprint}/default": Example(
        'client.set_default_model("9f0c…ab34")', before=MODEL, after="client.set_default_model(default)"
    ),
    "DELETE /v1/models/{fingerprint}": Example('client.remove_model("9f0c…ab34")', before=MODEL),
    "GET /v1/keys": Example("client.list_keys()"),
    "POST /v1/keys": Example('client.create_key("the portal", ["read"], collections=["holidays"])'),
    "DELETE /v1/keys/{key_id}": Example('client.revoke_key("3f9c01d2a4b7")', before=KEY),
    "POST /v1/media-cookie": Example(options="-si"),
    "GET /v1/webhooks": Example("client.list_webhooks()"),
    "POST /v1/webhooks": Example('client.create_webhook("https://portal.example/hooks/vitascope")'),
    "GET /v1/webhooks/{webhook_id}": Example('client.get_webhook("9f86d081884c7d65")', before=WEBHOOK, after=UNHOOK),
    "DELETE /v1/webhooks/{webhook_id}": Example('client.delete_webhook("9f86d081884c7d65")', before=WEBHOOK),
    "GET /v1/webhooks/{webhook_id}/deliveries": Example(
        'client.list_webhook_deliveries("9f86d081884c7d65", state="pending")',
        before=WEBHOOK,
        after=UNHOOK,
        query="?state=pending",
    ),
    "POST /v1/webhooks/{webhook_id}/rotate": Example(
        'client.rotate_webhook_secret("9f86d081884c7d65")', before=WEBHOOK, after=UNHOOK
    ),
}


def example_of(method: str, path: str) -> Example:
    """Return the example of an operation; by default a plain call."""
    return EXAMPLES.get(f"{method} {path}", Example())


PAGE = ROOT / "docs" / "api.md"
UPDATE = "python -m tests.docs.api_page"
SERVER, VERSION = "http://127.0.0.1:8000", "/v1"
WIDTH = 118
ORDER = ("get", "post", "patch", "delete")
FORM, AS_JSON = "multipart/form-data", "application/json"
Schema = dict[str, Any]

HEAD = """\
<!-- Generated by `{update}` from the OpenAPI document; edit that instead. -->
<!-- run on this page: tests/docs/test_reference_pages.py -->

# API reference

All operations of the service, generated from `/openapi.json`: what each does, the scope that a key needs, parameters
and responses. [Usage](usage.md) is the guide. A test runs all examples against a real service. They assume:

```console
$ export V={server}{version}         # with keys, add to each command: -H "X-API-Key: vsk_…"
```

```python
from vitascope.client import Client

client = Client("{server}")  # the key comes from VITASCOPE_API_KEY
```

Bodies are JSON of at most 1 MiB (`VITASCOPE_MAX_BODY_BYTES`), or forms with a file of at most 4 GiB
(`VITASCOPE_MAX_VIDEO_BYTES`). Unknown fields are rejected. Times are in seconds, sizes in bytes or pixels; ids and
cursors are opaque. Errors are [problem documents](usage.md#errors) with a `code`. Besides the errors it lists, an
operation may return 400 (a malformed header), 401 (no valid key), 403 (the key lacks a permission), 408 (the body did
not arrive), 413 and 415 (the body is too large, or no JSON by its type), 421 (unknown host name), 429 and 503 (retry
after `Retry-After`), 431 (headers are too large), 500 (a defect), 504 (it took too long).

{errors}"""


def page() -> str:
    """Return docs/api.md."""
    openapi = document()
    errors = _table(("status", "meaning"), [(str(status), meaning) for status, (_, meaning) in ERRORS.items()])
    parts = [HEAD.format(update=UPDATE, server=SERVER, version=VERSION, errors=errors)]
    for tag in openapi["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag['description']}\n")
        parts += [_operation(openapi, *each) for each in operations(openapi) if tag["name"] in each[2]["tags"]]
    parts.append("## Objects\n\nParts of bodies and responses.\n")
    parts += [_object(openapi, name) for name in sorted(_object_names(openapi))]
    return "\n".join(parts)


def operations(openapi: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Yield (method, path, OpenAPI operation), ordered by path."""
    for path in sorted(openapi["paths"], key=lambda path: (path.count("/"), path)):
        for method in ORDER:
            if method in openapi["paths"][path]:
                yield method.upper(), path, openapi["paths"][path][method]


def curls(openapi: Schema, method: str, path: str, ids: Mapping[str, str]) -> list[str]:
    """Return the curl commands of an operation, one per content type of its body."""
    operation, example = openapi["paths"][path][method.lower()], example_of(method, path)
    values = {**ids, "name": example.name or ids["name"]}
    if "files" in path:
        values["name"] = example.name
    start = "$V" if path.startswith(VERSION) else SERVER
    url = f"{start}{path.removeprefix(VERSION).format_map(values)}{example.query}"
    quoted = f'"{url}"' if "?" in url else url
    verb = "" if method == "GET" or "requestBody" in operation else f"-X {method} "
    start = f"curl {example.options or '-s'} {verb}{quoted}"
    if "requestBody" not in operation:
        return [start]
    if method == "PATCH":
        start = f"curl {example.options or '-s'} -X PATCH {quoted}"
    return [
        f"{start} {_body_options(openapi, kind, each['schema'], example)}"
        for kind, each in operation["requestBody"]["content"].items()
    ]


def _body_options(openapi: Schema, kind: str, schema: Schema, example: Example) -> str:
    body = _example(openapi, schema)
    if kind == AS_JSON:
        text = json.dumps(body)
        return f"--json '{text}'" if len(text) < WIDTH - 40 else f"\\\n    --json '{_fold(text)}'"
    fields = [f"-F file=@{example.file}"]
    for name, value in body.items():
        for each in value if isinstance(value, list) else [value]:
            text = json.dumps(each) if isinstance(each, dict) else str(each)
            fields.append(f"-F '{name}={text}'")
    return "\\\n    " + " \\\n    ".join(_wrap(fields))


def _fold(text: str) -> str:
    """Break JSON after commas into lines."""
    return "\n    ".join(line.strip() for line in _wrap(re.split(r"(?<=,) ", text)))


def _wrap(words: list[str]) -> Iterator[str]:
    line = words[0]
    for word in words[1:]:
        if len(line) + len(word) > WIDTH - 16:
            yield line
            line = word
        else:
            line += f" {word}"
    yield line


def _operation(openapi: Schema, method: str, path: str, operation: Schema) -> str:
    route, _ = match_route(ROUTES, method, path)
    scope = permission_of(route).scope
    words = operation["description"].strip()
    title = operation["summary"]
    parts = [f"### {title}\n", f"`{method} {path}` · " + (f"scope `{scope}`" if scope else "no key needed") + "\n"]
    if words.rstrip(".") != title:
        parts.append(words + "\n")
    parameters = [p for p in operation.get("parameters", []) if p["in"] != "path"]
    if parameters:
        rows = [(f"`{p['name']}`", p["in"], _type(openapi, p["schema"]), p.get("description", "")) for p in parameters]
        parts.append(_table(("parameter", "in", "type", "meaning"), rows))
    for kind, each in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body, {'a form' if kind == FORM else 'JSON'}:\n\n{_body(openapi, each['schema'])}")
    parts.append(_responses(operation))
    commands = "".join(f"$ {curl}\n" for curl in curls(openapi, method, path, IDS))
    parts.append(f"```console\n{commands}```\n")
    if python := example_of(method, path).python:
        parts.append(f"```python\n{python}\n```\n")
    return "\n".join(parts)


def _responses(operation: Schema) -> str:
    rows = []
    errors = []
    for status, response in operation["responses"].items():
        contents = response.get("content", {})
        if "application/problem+json" in contents:
            errors += [status] if status != "default" else []
            continue
        objects = [_type({}, each["schema"]) for each in contents.values() if "$ref" in each.get("schema", {})]
        description = "" if response["description"] == "Successful Response" else response["description"]
        kinds = [f"`{kind}`" for kind in contents if kind != AS_JSON]
        rows.append((status, " ".join(filter(None, [*objects, description, ", ".join(kinds) if not objects else ""]))))
    lines = [f"- {status}: {content or 'no body'}\n" for status, content in rows]
    return "Responses:\n\n" + "".join(lines) + (f"- errors: {', '.join(errors)}\n" if errors else "")


def _body(openapi: Schema, schema: Schema) -> str:
    if "oneOf" in schema:
        return "One of " + ", ".join(_type(openapi, each) for each in schema["oneOf"]) + ", distinguished by `kind`.\n"
    if "$ref" in schema:
        return _fields(openapi, _resolve(openapi, schema))
    return _fields(openapi, schema)


def _object(openapi: Schema, name: str) -> str:
    schema = openapi["components"]["schemas"][name]
    words = f"{schema['description'].strip()}\n\n" if schema.get("description") else ""
    return f"### {name} object\n\n{words}{_fields(openapi, schema)}"


def _fields(openapi: Schema, schema: Schema) -> str:
    needs = set(schema.get("required", []))
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in needs else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        rows.append((f"`{name}`", _type(openapi, field), default, _description(field)))
    return _table(("field", "type", "default", "meaning"), rows)


def _description(field: Schema) -> str:
    return str(field.get("description", "")) or next(
        (str(each["description"]) for each in field.get("anyOf", []) if "description" in each), ""
    )


def _type(openapi: Schema, schema: Schema) -> str:
    """Describe a type with its limits: "integer, 1 to 100", "list of text"."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()}-object)"
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [each for each in schema.get("anyOf", schema.get("oneOf", [])) if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(_type(openapi, each) for each in kinds))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    words = {"string": "file" if schema.get("format") == "binary" else "text", "array": "list", "object": "object"}
    word = words.get(kind, kind)
    if kind == "array" and schema.get("items"):
        word = f"list of {_type(openapi, schema['items'])}"
    return word + _limits(schema)


def _limits(schema: Schema) -> str:
    minimum = schema.get("minimum", schema.get("minLength", schema.get("minItems")))
    maximum = schema.get("maximum", schema.get("maxLength", schema.get("maxItems")))
    unit = " characters" if "maxLength" in schema or "minLength" in schema else ""
    if minimum is not None and maximum is not None:
        return f", {minimum} to {maximum}{unit}"
    if minimum is not None:
        return f", at least {minimum}{unit}"
    return "" if maximum is None else f", at most {maximum}{unit}"


def _example(openapi: Schema, schema: Schema) -> Any:
    if "oneOf" in schema:
        return _example(openapi, schema["oneOf"][0])
    if "$ref" in schema:
        return _example(openapi, _resolve(openapi, schema))
    return schema["examples"][0]


def _resolve(openapi: Schema, schema: Schema) -> Schema:
    resolved: Schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return resolved


def _object_names(openapi: Schema) -> set[str]:
    """Return the names of the objects in responses and inside bodies, with all that they contain."""
    names: set[str] = set()
    new = _references([_documented(openapi, *each) for each in operations(openapi)])
    while new:
        names |= new
        new = _references([openapi["components"]["schemas"][name] for name in new]) - names
    return names


def _documented(openapi: Schema, method: str, path: str, operation: Schema) -> list[Schema]:
    bodies = [each["schema"] for each in operation.get("requestBody", {}).get("content", {}).values()]
    inner = [_resolve(openapi, each) if "$ref" in each else each for each in bodies]
    responses = [each for status, each in operation["responses"].items() if status.startswith("2")]
    return [*inner, *responses]


def _references(parts: object) -> set[str]:
    return set(re.findall(r"#/components/schemas/(\w+)", json.dumps(parts)))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Format a table without its empty columns."""
    if not rows:
        return ""
    columns = [at for at in range(len(head)) if any(row[at] for row in rows)]
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(_cell(line[at]) for at in columns) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"written: {PAGE}")
