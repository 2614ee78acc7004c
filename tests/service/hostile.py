"""Hostile requests from a seed: valid ones of every operation, with parts that break parsers."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from tests.service.hostile_values import (
    CHUNKS,
    DISPOSITIONS,
    DOCUMENTS,
    FIELDS,
    HEADERS,
    JSON_BODIES,
    METHODS,
    NUMBERS,
    PICTURE,
    SEGMENTS,
    TARGETS,
    TEXTS,
    VERSIONS,
)


class Attack:
    """Requests of every operation, each with a few hostile parts; the same for the same seed."""

    def __init__(self, operations: Sequence[tuple[str, str]], key: str, seed: int) -> None:
        """``operations``: methods and paths; ``key``: what requests carry unless that is attacked."""
        self._random = random.Random(seed)
        self._operations = operations
        self._key = key

    def request(self) -> bytes:
        draw = self._random
        with_body = [each for each in self._operations if each[1] in JSON_BODIES and each[0] in ("POST", "PATCH")]
        method, path = draw.choice(with_body if draw.random() < 0.4 else self._operations)
        headers = {"Host": b"localhost", "Authorization": f"Bearer {self._key}".encode(), "Connection": b"close"}
        body = self._body(path, headers) if method in ("POST", "PATCH") or draw.random() < 0.05 else b""
        if body and draw.random() < 0.05:
            headers["Transfer-Encoding"] = b"chunked"
            body = draw.choice(CHUNKS) % (len(body), body)
        elif body:
            headers["Content-Length"] = b"%d" % len(body)
        target = self._path(path) + self._query() if draw.random() < 0.97 else draw.choice(TARGETS)
        for name in draw.sample([*HEADERS], draw.choice([0, 0, 1, 1, 2, 4])):
            headers[name] = draw.choice(HEADERS[name])
        version = "HTTP/1.1"
        if draw.random() < 0.03:
            method, version = draw.choice([(draw.choice(METHODS), version), (method, draw.choice(VERSIONS))])
        lines = [f"{method} {target} {version}".encode("latin-1")]
        lines += [name.encode() + b": " + value for name, value in headers.items()]
        if draw.random() < 0.02:
            lines.append(draw.choice(lines[1:]))
        if draw.random() < 0.01:
            lines.append(
                draw.choice([b"X y: z", b": a", b"X", b" folded", b"X\0: a", b"\xff: a", b"X: a\rb", b"X:a\nY:b"])
            )
        return b"\r\n".join([*lines, b"", b""]) + body

    def _path(self, path: str) -> str:
        draw = self._random
        known = {"name": "palette", "video_id": "1"}
        is_hostile = draw.random() < 0.15
        return re.sub(
            r"\{(\w+)\}",
            lambda found: draw.choice(SEGMENTS) if is_hostile or found[1] not in known else known[found[1]],
            path,
        )

    def _query(self) -> str:
        draw = self._random
        if draw.random() < 0.6:
            return ""
        names = ["limit", "cursor", "filter", "state", "t", "force", "x", "", "limit"]
        parts = [f"{name}={self._query_value(name)}" for name in draw.choices(names, k=draw.choice([1, 1, 2, 5]))]
        return "?" + draw.choice(["&", "&", ";", "&&="]).join(parts)

    def _query_value(self, name: str) -> str:
        draw = self._random
        if name == "filter" and draw.random() < 0.7:
            text = draw.choice([json.dumps({"a": self._value()}), draw.choice(DOCUMENTS)[:9000]])
            return quote(text)
        if name == "cursor" and draw.random() < 0.7:
            return base64.urlsafe_b64encode(
                draw.choice([*DOCUMENTS, b'{"after": 1e99}', b'{"after": "1"}'])[:99]
            ).decode()
        return draw.choice([*SEGMENTS, quote(draw.choice(TEXTS)[:3000].encode("utf-8", "surrogatepass")), "1", "true"])

    def _value(self) -> Any:
        draw = self._random
        kind = draw.random()
        if kind < 0.45:
            return draw.choice(TEXTS) if kind > 0.05 else draw.choice(["\ud800", "a\udfffb", "\udc80\ud800"])
        if kind < 0.7:
            return draw.choice(NUMBERS)
        value: Any = draw.choice([None, [], {}, "a", 1, [[]], {"a": []}])
        for _ in range(draw.choice([0, 1, 3, 20, 60, 64, 150, 200])):
            value = draw.choice([[value], {"and": [value]}, {"not": value}, {"a": value}, {"in": [value]}])
        return value

    def _body(self, path: str, headers: dict[str, bytes]) -> bytes:
        draw = self._random
        if path in FIELDS and draw.random() < 0.5:
            headers["Content-Type"] = b"multipart/form-data; boundary=x"
            return self._form(FIELDS[path])
        headers["Content-Type"] = b"application/json"
        kind = draw.random()
        if kind < 0.15 or path not in JSON_BODIES:
            return draw.choice(DOCUMENTS)
        text = json.dumps(self._mutated(draw.choice(JSON_BODIES[path])), ensure_ascii=draw.random() < 0.8)
        raw = text.encode("utf-8", "surrogatepass")
        if kind < 0.2:  # of the bytes, one is another one or is missing
            place = draw.randrange(len(raw))
            raw = raw[:place] + bytes(draw.choices(range(256), k=draw.choice([0, 1]))) + raw[place + 1 :]
        return raw

    def _mutated(self, body: Any) -> Any:
        """``body`` with one value, at any depth, replaced, added or removed."""
        draw, copied = self._random, json.loads(json.dumps(body))
        places = [(holder, key) for holder in _containers(copied) for key in _keys(holder)]
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.8:
            holder[key] = self._value()
        elif kind < 0.9:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(TEXTS)] = self._value()
        else:
            holder.extend([holder[key]] * draw.choice([1, 100, 3000]))
        return copied

    def _form(self, fields: dict[str, str]) -> bytes:
        draw = self._random
        parts = [(b'form-data; name="%b"' % name.encode(), value.encode()) for name, value in fields.items()]
        parts = draw.sample(parts, draw.randrange(len(parts) + 1))
        parts.append(
            (b'form-data; name="file"; filename="a.png"', draw.choice([PICTURE, b"", b"no film", PICTURE[:40]]))
        )
        for _ in range(draw.choice([0, 1, 1, 2])):
            disposition, value = draw.choice(parts)
            hostile = draw.choice(
                [draw.choice(TEXTS).encode("utf-8", "surrogatepass"), draw.choice(DOCUMENTS), b"\xff\xfe"]
            )
            if draw.random() < 0.4:
                parts.append((draw.choice(DISPOSITIONS), value))
            else:
                parts.append((disposition, hostile))
                parts.remove((disposition, value)) if draw.random() < 0.8 else None
        end = draw.choice([b"--x--\r\n"] * 8 + [b"", b"--x", b"--x--", b"--x\r\n", b"--y--\r\n", b"\r\n--x--\0"])
        heads = (b"--x\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + value for disposition, value in parts)
        whole = b"\r\n".join([*heads, end])
        return whole if draw.random() < 0.9 else whole[: draw.randrange(len(whole))]


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from _containers(each)


def _keys(holder: Any) -> list[Any]:
    return [*holder] if isinstance(holder, dict) else [*range(len(holder))]
