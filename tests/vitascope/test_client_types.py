"""The types of answers are those of the interface, and each method returns that of its operation.

After a change of the interface: ``python -m tests.vitascope.test_client_types`` writes the types anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

ROOT = Path(__file__).parents[2]
TYPES = ROOT / "vitascope" / "client" / "types.py"
UPDATE = "python -m tests.vitascope.test_client_types"
HEADER = '''"""What the service answers: generated from tests/service/openapi.json, which says more about each.

After a change of the interface: python -m tests.vitascope.test_client_types
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
    """The schemas of what an operation answers when all goes well."""
    contents = [found.get("content", {}) for status, found in method["responses"].items() if status.startswith("2")]
    schemas = [content["application/json"]["schema"] for content in contents if "application/json" in content]
    return {schema["$ref"].rsplit("/", 1)[1] for schema in schemas}


def answered() -> dict[str, Any]:
    """All schemas that answers are made of, by name."""
    schemas = interface()["components"]["schemas"]
    found: dict[str, Any] = {}
    missing = {name for path in interface()["paths"].values() for method in path.values() for name in answers(method)}
    while missing:
        name = missing.pop()
        found[name] = schemas[name]
        missing |= set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schemas[name]))) - set(found)
    return dict(sorted(found.items()))


def python_type(schema: dict[str, Any]) -> str:
    """The type of a value that a schema describes."""
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
    """The module of types."""
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


def test_the_types_are_those_of_the_interface() -> None:
    assert TYPES.read_text("utf-8") == written(), f"after a change of the interface: {UPDATE}"


if __name__ == "__main__":
    TYPES.write_text(written(), "utf-8")
    print(f"written: {TYPES}")
