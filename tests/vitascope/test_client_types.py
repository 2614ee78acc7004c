"""Response types equal the OpenAPI document, and every operation has a method.

``python -m tests.vitascope.test_client_types`` generates the types.
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

from tests.chaos import only_by_chaos
from vitascope import job_states
from vitascope.client import AsyncClient, Client, request_types

ROOT = Path(__file__).parents[2]
TYPES = ROOT / "vitascope" / "client" / "response_types.py"
UPDATE = "python -m tests.vitascope.test_client_types"
HEADER = '''"""Types of responses, generated from tests/service/openapi.json.

Update: python -m tests.vitascope.test_client_types
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict
'''
PLAIN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


@cache
def interface() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "tests" / "service" / "openapi.json").read_text("utf-8"))
    return document


def answers(method: dict[str, Any]) -> set[str]:
    """Return the schemas of an operation's successful responses."""
    contents = [found.get("content", {}) for status, found in method["responses"].items() if status.startswith("2")]
    schemas = [content["application/json"]["schema"] for content in contents if "application/json" in content]
    return {schema["$ref"].rsplit("/", 1)[1] for schema in schemas}


def answered() -> dict[str, Any]:
    """Return all schemas that responses refer to, by name."""
    schemas = interface()["components"]["schemas"]
    found: dict[str, Any] = {}
    missing = {name for path in interface()["paths"].values() for method in path.values() for name in answers(method)}
    while missing:
        name = missing.pop()
        found[name] = schemas[name]
        missing |= set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schemas[name]))) - set(found)
    return dict(sorted(found.items()))


def python_type(schema: dict[str, Any]) -> str:
    """Return the Python type of a schema."""
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
    return PLAIN[schema["type"]]


def written() -> str:
    """Return the source of the module."""
    classes = []
    for name, schema in answered().items():
        words = schema["description"].split("\n\n")[0].replace("\n", " ")
        lines = [
            f"class {name}(TypedDict):",
            fill(f'"""{words}"""', 116, initial_indent="    ", subsequent_indent="    "),
        ]
        for field, value in schema["properties"].items():
            kind = python_type(value)
            lines += [f"    {field}: {kind if field in schema.get('required', []) else f'NotRequired[{kind}]'}"]
            if "description" in value:
                lines += [fill(f'"""{value["description"]}"""', 116, initial_indent="    ", subsequent_indent="    ")]
        classes.append("\n".join(lines))
    source = HEADER + "\n\n" + "\n\n\n".join(classes) + "\n"
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TYPES), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout


def test_response_types_equal_the_openapi_document() -> None:
    assert TYPES.read_text("utf-8") == written(), f"run {UPDATE}"


MADE_OF_OTHERS = re.compile("iter_|wait_|is_ready|close|backup|export|get_thumbnail|download_video")
"""Methods whose results are not those of one operation."""
NOT_FOR_THE_CLIENT = {
    "GET /livez",
    "GET /metrics",
    "GET /readyz",
    "POST /v1/media-cookie",  # for pages
    "GET /v1/collections/{name}/jobs/{job_id}/events",  # iter_job_events
    "GET /v1/collections/{name}/videos/{video_id}/media",  # download_video
    "GET /v1/collections/{name}/videos/{video_id}/thumbnail",  # get_thumbnail
    "GET /v1/operations/{operation_id}/files/{name}",  # backup, export
}


def operation(request: httpx.Request) -> str:
    """Return the operation of a request as ``METHOD path``."""
    for path, methods in interface()["paths"].items():
        if request.method.lower() in methods and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path):
            return f"{request.method} {path}"
    raise AssertionError(f"{request.method} {request.url.path} is no operation of the service")


def call(method: Callable[..., object], file: Path) -> None:
    """Call a method with a value for each required parameter."""
    given: dict[str, object] = {"scopes": ["read"], "texts": ["x"], "captions": ["x"], "documents": ["x"], "file": file}
    given |= {"folder": "x"} if method.__name__ == "create_job" else {}
    named = inspect.signature(method).parameters.values()
    needed = [one.name for one in named if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    method(**dict.fromkeys(needed, "x") | {name: value for name, value in given.items() if name in {*needed, "folder"}})


def test_every_operation_has_a_method_with_its_response_type(tmp_path: Path) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={})

    file = tmp_path / "file"
    file.touch()
    covered = set()
    with Client("http://service", transport=httpx.MockTransport(answer)) as client:
        for name, method in inspect.getmembers(client, inspect.ismethod):
            if name.startswith("_") or MADE_OF_OTHERS.match(name):
                continue
            call(method, file)
            asked = operation(requests[-1])
            covered.add(asked)
            verb, path = asked.split()
            stated = answers(interface()["paths"][path][verb.lower()])
            returned = get_type_hints(method)["return"]
            kinds = get_args(returned) if isinstance(returned, UnionType) else (returned,)
            assert returned is NoneType if not stated else {kind.__name__ for kind in kinds} <= set(stated), name
            assert returned == get_type_hints(getattr(AsyncClient, name))["return"], name
    everything = {f"{verb.upper()} {path}" for path, verbs in interface()["paths"].items() for verb in verbs}
    assert everything - covered == everything & NOT_FOR_THE_CLIENT


@pytest.mark.parametrize(
    ("kind", "schema", "field"),
    [
        (request_types.IndexKind, "NewCollection", "index_kind"),
        (request_types.IndexKind, "CollectionChanges", "index_kind"),
        (request_types.TokenEncoding, "NewCollection", "token_encoding"),
        (request_types.Group, "SearchRequest", "group"),
        (job_states.JobState, "Job", "state"),
        (job_states.ItemState, "JobItem", "state"),
        (request_types.OperationKind, "Operation", "kind"),
        (request_types.DeliveryState, "Delivery", "state"),
        (request_types.WebhookEvent, "Delivery", "type"),
    ],
)
def test_literal_types_equal_the_enums_of_the_api(kind: object, schema: str, field: str) -> None:
    assert list(get_args(kind)) == interface()["components"]["schemas"][schema]["properties"][field]["enum"]


def test_search_options_equal_the_parameters_of_search() -> None:
    single = set(inspect.signature(Client.search).parameters) - {"self", "collection", "text", "file", "cursor"}
    assert set(request_types.SearchOptions.__annotations__) == single
    asked = set(interface()["components"]["schemas"]["SearchRequest"]["properties"]) - {"text", "cursor", "filter"}
    assert asked == single - {"where"}


SAMPLE = """
from vitascope import AsyncClient, Client

def first(client: Client) -> str | None:
    for result in client.iter_search_results("films", "a dog", group="video", limit=5):
        seconds: float = result["end"] - result["start"]
        return f'{result["video"]["title"]}: {seconds}'
    return None

async def failures(client: AsyncClient, job: str) -> list[str | None]:
    done = await client.wait_for_job("films", job, progress=True)
    assert done["state"] != "running"
    async for event in client.iter_job_events("films", job, after=0):
        if event["event"] == "item":
            print(event["data"]["path"])
    return [item["reason"] async for item in client.iter_job_items("films", job, state="failed")]
"""
WRONG = {
    'group="video"': 'group="films"',
    'result["end"]': 'result["finish"]',
    'state="failed"': 'state="broken"',
    'event["data"]["path"]': 'event["data"]["counts"]',
    "str | None:": "int:",
}


@only_by_chaos
def test_type_checker_accepts_correct_and_rejects_wrong_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]

    def check(text: str) -> str:
        (tmp_path / "sample.py").write_text(text)
        run = [*command, str(tmp_path / "sample.py")]
        return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    assert "Success" in check(SAMPLE)
    for right, wrong in WRONG.items():
        assert "sample.py" in check(SAMPLE.replace(right, wrong)), wrong


if __name__ == "__main__":
    TYPES.write_text(written(), "utf-8")
    print(f"written: {TYPES}")
