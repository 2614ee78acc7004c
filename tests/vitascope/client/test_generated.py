"""Generated code of the client: types of responses from the OpenAPI document, and the blocking client.

``python -m tests.vitascope.client.test_generated`` writes both. The blocking client in `_sync` is a copy of `_async` in
which words are replaced: hardly more than `async` and `await` are removed.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import fill
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

import httpx
import pytest

from vitascope import job_states
from vitascope.client import AsyncClient, Client, api

ROOT = Path(__file__).parents[3]
CLIENT = ROOT / "vitascope" / "client"
TYPES, SOURCE, TARGET = CLIENT / "response_types.py", CLIENT / "_async", CLIENT / "_sync"
UPDATE = "python -m tests.vitascope.client.test_generated"
TYPES_HEADER = f'''"""Types of responses, generated from tests/service/openapi.json.

Update: {UPDATE}
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict
'''
SYNC_HEADER = f"# Generated from vitascope/client/_async: change that, then run {UPDATE}\n"
PYTHON_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
REPLACEMENTS = (
    (r"\b(async|await) ", ""),
    (r"\bAwaitable\[([^\[\]]*)\]", r"\1"),
    (r"\bAsync(ByteStream)\b", r"Sync\1"),
    (r"\bAsync(BaseTransport|Client|Iterator)\b", r"\1"),
    (r"\bAsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\b__a(enter|exit|iter)__\b", r"__\1__"),
    (r"\ba(close|closing|read|iter_lines|iter_bytes)\b", r"\1"),
    (r"\banext\b", "next"),
    (r"\b(\w+)_async\b", r"\1"),
    (r"\b_async\b", "_sync"),
)


def write_sync_client(folder: Path) -> None:
    """Write the modules of the blocking client, without unused imports and needless line breaks."""
    for module in SOURCE.glob("*.py"):
        text = module.read_text("utf-8")
        for pattern, replacement in REPLACEMENTS:
            text = re.sub(pattern, replacement, text)
        (folder / module.name).write_text(text and SYNC_HEADER + text, "utf-8")
    settings = ("--quiet", "--config", str(ROOT / "pyproject.toml"), str(folder))
    for command in (("check", "--fix", "--select=F401,I,UP028", "--unsafe-fixes"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, *settings], check=True)


def test_the_blocking_client_is_generated_from_the_asynchronous_one(tmp_path: Path) -> None:
    write_sync_client(tmp_path)
    generated = {module.name: module.read_text("utf-8") for module in tmp_path.glob("*.py")}
    assert generated == {module.name: module.read_text("utf-8") for module in TARGET.glob("*.py")}, f"run {UPDATE}"


@cache
def openapi() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "tests" / "service" / "openapi.json").read_text("utf-8"))
    return document


def response_schemas(operation: dict[str, Any]) -> set[str]:
    """Return the names of the schemas of an operation's successful responses."""
    contents = [value.get("content", {}) for status, value in operation["responses"].items() if status.startswith("2")]
    schemas = [content["application/json"]["schema"] for content in contents if "application/json" in content]
    return {schema["$ref"].rsplit("/", 1)[1] for schema in schemas}


def all_response_schemas() -> dict[str, Any]:
    """Return all schemas that responses refer to, by name."""
    schemas = openapi()["components"]["schemas"]
    reached: dict[str, Any] = {}
    operations = [operation for path in openapi()["paths"].values() for operation in path.values()]
    missing = {name for operation in operations for name in response_schemas(operation)}
    while missing:
        name = missing.pop()
        reached[name] = schemas[name]
        missing |= set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schemas[name]))) - set(reached)
    return dict(sorted(reached.items()))


def python_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return f"Literal[{', '.join(json.dumps(value) for value in values)}]"
    if parts := schema.get("anyOf", schema.get("oneOf")):
        return " | ".join(dict.fromkeys(python_type(part) for part in parts))
    if schema["type"] == "array":
        return f"list[{python_type(schema['items'])}]"
    if schema["type"] == "object":
        return f"dict[str, {python_type(schema['additionalProperties'])}]"
    return PYTHON_TYPES[schema["type"]]


def response_types_source() -> str:
    classes = []
    for name, schema in all_response_schemas().items():
        summary = schema["description"].split("\n\n")[0].replace("\n", " ")
        docstring = fill(f'"""{summary}"""', 116, initial_indent="    ", subsequent_indent="    ")
        lines = [f"class {name}(TypedDict):", docstring]
        for field, value in schema["properties"].items():
            kind = python_type(value)
            lines += [f"    {field}: {kind if field in schema.get('required', []) else f'NotRequired[{kind}]'}"]
            if "description" in value:
                lines += [fill(f'"""{value["description"]}"""', 116, initial_indent="    ", subsequent_indent="    ")]
        classes.append("\n".join(lines))
    source = TYPES_HEADER + "\n\n" + "\n\n\n".join(classes) + "\n"
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TYPES), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout


def test_response_types_equal_the_openapi_document() -> None:
    assert TYPES.read_text("utf-8") == response_types_source(), f"run {UPDATE}"


COMPOSED = re.compile("iter_|wait_|is_ready|close|backup|export|get_thumbnail|download_video")
"""Methods whose results are not those of one operation."""
WITHOUT_METHOD = {
    "GET /livez",
    "GET /metrics",
    "GET /readyz",
    "POST /v1/media-cookie",  # for pages
    "GET /v1/collections/{name}/jobs/{job_id}/events",  # iter_job_events
    "GET /v1/collections/{name}/videos/{video_id}/media",  # download_video
    "GET /v1/collections/{name}/videos/{video_id}/preview",  # for pages
    "GET /v1/collections/{name}/videos/{video_id}/thumbnail",  # get_thumbnail
    "GET /v1/operations/{operation_id}/files/{name}",  # backup, export
}


def operation_of(request: httpx.Request) -> str:
    """Return the operation of a request as ``METHOD path``."""
    for path, methods in openapi()["paths"].items():
        if request.method.lower() in methods and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path):
            return f"{request.method} {path}"
    raise AssertionError(f"{request.method} {request.url.path} is no operation of the service")


def call_with_placeholders(method: Callable[..., object], file: Path) -> None:
    """Call a method with a value for each required parameter."""
    values: dict[str, object] = {
        "scopes": ["read"],
        "texts": ["x"],
        "captions": ["x"],
        "documents": ["x"],
        "hypotheses": ["x"],
        "phrases": ["x"],
        "file": file,
    }
    parameters = inspect.signature(method).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    required += ["folder"] if method.__name__ == "create_job" else []
    method(**{name: values.get(name, "x") for name in required})


def test_every_operation_has_a_method_with_its_response_type(tmp_path: Path) -> None:
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={})

    file = tmp_path / "file"
    file.touch()
    covered = set()
    with Client("http://service", transport=httpx.MockTransport(respond)) as client:
        for name, method in inspect.getmembers(client, inspect.ismethod):
            if name.startswith("_") or COMPOSED.match(name):
                continue
            call_with_placeholders(method, file)
            operation = operation_of(requests[-1])
            covered.add(operation)
            verb, path = operation.split()
            schemas = response_schemas(openapi()["paths"][path][verb.lower()])
            returned = get_type_hints(method)["return"]
            kinds = get_args(returned) if isinstance(returned, UnionType) else (returned,)
            assert returned is NoneType if not schemas else {kind.__name__ for kind in kinds} <= schemas, name
            assert returned == get_type_hints(getattr(AsyncClient, name))["return"], name
    everything = {f"{verb.upper()} {path}" for path, verbs in openapi()["paths"].items() for verb in verbs}
    assert everything - covered == everything & WITHOUT_METHOD


@pytest.mark.parametrize(
    ("kind", "schema", "field"),
    [
        (api.IndexKind, "NewCollection", "index_kind"),
        (api.TokenEncoding, "NewCollection", "token_encoding"),
        (api.Stemming, "NewCollection", "stemming"),
        (api.InputType, "EmbeddingRequest", "input_type"),
        (api.Group, "SearchRequest", "group"),
        (job_states.JobState, "Job", "state"),
        (job_states.ItemState, "JobItem", "state"),
        (api.OperationKind, "Operation", "kind"),
        (api.DeliveryState, "Delivery", "state"),
        (api.WebhookEvent, "Delivery", "type"),
    ],
)
def test_literal_types_equal_the_enums_of_the_api(kind: object, schema: str, field: str) -> None:
    assert list(get_args(kind)) == openapi()["components"]["schemas"][schema]["properties"][field]["enum"]


def test_search_options_equal_the_parameters_of_search() -> None:
    options = set(inspect.signature(Client.search).parameters) - {"self", "collection", "text", "file", "cursor"}
    assert set(api.SearchOptions.__annotations__) == options
    fields = set(openapi()["components"]["schemas"]["SearchRequest"]["properties"]) - {"text", "cursor", "filter"}
    assert fields == options - {"where"}


if __name__ == "__main__":
    TYPES.write_text(response_types_source(), "utf-8")
    for old_module in TARGET.glob("*.py"):
        old_module.unlink()
    write_sync_client(TARGET)
    print(f"written: {TYPES}, {TARGET}")
