"""Generator of hostile requests from a seed: examples of the OpenAPI document with parts that break parsers."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from service.schemas.embeddings import DATA

JSON = dict[str, Any]
PICTURE = base64.b64decode(DATA.partition(",")[2])
TEXTS = [
    *("", " ", "\0", "a\0b", "\n", "\r\n", "\x7f", "\x1b[31m", "%s%n", "{}", "../../etc/passwd", "/dev/zero", "~", "*"),
    *(".", "..", "'; DROP TABLE videos; --", '"', "'", "\\", "NEAR(", '"a" AND', "*:*", "a" * 5000, "a " * 3000, "-"),
    *("\ufeff", "\u202e", "\u2028", "\U0001f600", "\ufffd", "\U0010ffff", "e\u0301" * 100, "\u0660", "\xb2", "\uff11"),
    *("http://[", "http://[::1", "https://a:99999999/", "http://\0/", "s3://", "file:///etc/passwd", "//", "data:,"),
    *("data:;base64,", "data:image/png;base64,AA", "data:image/png;base64,====", "data:a/b;base64,\u00e9", "null"),
    *("nan", "-inf", "1e308", "1e999", "0x10", "1_000", "9" * 30, "9" * 5000, "-1", "-0", "1.5"),
]
SURROGATES = ["\ud800", "a\udfffb", "\udc80\ud800"]
NUMBERS: list[Any] = [
    *(0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308),
    *(float("nan"), float("inf"), float("-inf"), True, False),
]
DOCUMENTS = [
    *(b"", b" ", b"{", b"}", b"[", b'"', b"{]", b"nul", b"NaN", b"-Infinity", b"1e999", b"-", b"+1", b"01", b"1."),
    *(b'{"a":1,"a":2}', b'{"text":"a","text":"b"}', b"{'a': 1}", b"{a: 1}", b"[1,]", b"/**/{}", b"{}{}", b"{} x"),
    *(b"[" * 100_000, b'{"a":' * 20_000, b"[" * 1000 + b"]" * 1000, b'{"filter":' * 150 + b"1" + b"}" * 150),
    *(b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"\xed\xa0\x80", b'"\xed\xa0\x80"', b'"\xff"', b'{"\\ud800": 1}'),
    *(b'"\\u12"', b'{"name": "\\udc00\\ud800"}', b'{"\\u0000": "\\u0000"}', b"\0", b"9" * 4999, b"-" + b"9" * 400),
    *(b'{"limit": 1e400}', b'{"x":' + b"1" * 310 + b"}", b'{"__proto__": {}}', b"[[[[]]]]"),
]
HEADERS: dict[str, Sequence[bytes]] = {
    "Host": [
        *(b"", b"[", b"]", b"[]", b"[::1", b"[::1]x", b"[:::1]", b"localhost:", b"localhost:x", b"localhost:99999"),
        *(b"a@localhost", b"localhost/", b"xn--", b"\xff", b"%6c", b"localhost, localhost", b"0x7f.1", b"a" * 9000),
    ],
    "Origin": [
        *(b"null", b"", b"http://[", b"http://]", b"http://[::1]x", b"http://a:b:c", b"http://a:99999", b"//", b"\xff"),
        *(b"http://\xef\xbc\x8f", b"javascript:", b"http://[fe80::%25x]", b"http://[v1.a]", b"h" * 9000, b"://"),
    ],
    "Range": [
        *(b"", b"bytes", b"bytes=", b"bytes=-", b"bytes=--1", b"bytes=-0", b"bytes=1-0", b"bytes=a-b", b"bytes=0-,"),
        *(b"bytes=" + b"9" * 5000 + b"-", b"bytes=0-" + b"9" * 5000, b"bytes=0-0," * 500, b"bytes=-" + b"9" * 30),
        *(b"bytes=\xb2-", b"items=0-1", b"bytes=0-0,2-1", b"bytes= 0 - 1 ", b"bytes=1_0-", b"bytes=+1-"),
    ],
    "Accept": [b"", b"*", b"*/*;q=nan", b"text/html;q=" + b"9" * 5000, b",,,", b";", b"\xff", b"a/b" * 2000],
    "Accept-Encoding": [b"", b"gzip;q=", b"gzip;q=nan", b"gzip;q=1e999", b"gzip;q=0", b"*", b",;,=", b"gzip;" * 2000],
    "Content-Type": [
        *(b"", b";", b"/", b"application/json;charset=utf-16", b"application/json; charset=nonsense", b"\xff/\xff"),
        *(b"multipart/form-data", b"multipart/form-data; boundary", b"multipart/form-data; boundary=", b"application/"),
        *(b'multipart/form-data; boundary="', b'multipart/form-data; boundary="a\\"', b"multipart/mixed; boundary=x"),
        *(b"Multipart/Form-Data; boundary=x", b"multipart/form-data; boundary*=utf-8''%ff", b"text/plain"),
        *(b"multipart/form-data; boundary*0=x; boundary*1=y", b"multipart/form-data; boundary=\xff"),
        *(b"multipart/form-data;" * 900, b"application/x-www-form-urlencoded", b"application/json;" * 2000),
        *(b"multipart/form-data; boundary=" + b"x" * n for n in (255, 256, 257, 5000)),
    ],
    "Content-Length": [b"", b"-1", b"+1", b"0x1", b"1.0", b"1e3", b"9" * 19, b"9" * 5000, b"\xb2", b"1,1", b"1 1"],
    "Transfer-Encoding": [b"", b"identity", b"chunked, chunked", b"xchunked", b"gzip", b"chunked;q=1", b"\xff"],
    "Content-Encoding": [b"", b"gzip", b"identity, gzip", b"\xff", b"x" * 5000],
    "Cookie": [
        *(b"", b"=", b";", b"vitascope_media", b"vitascope_media=", b"vitascope_media=..", b"vitascope_media=a.1.\xff"),
        *(b"vitascope_media=x." + b"9" * 5000 + b".y", b"vitascope_media=a.\xb2.b", b'vitascope_media="\\9', b"\0=\0"),
        *(b"a=b;" * 2000, b'vitascope_media="\\377.1.\\777"', b"vitascope_media=a.-1.b", b"vitascope_media=a.1e3.b"),
    ],
    "Authorization": [
        *(b"", b"Bearer", b"Bearer ", b"bearer x", b"Basic", b"Basic YTpi", b"Basic \xff", b"Digest a=b", b"\t"),
        *(b"Bearer \xff", b"Bearer vsk_000000000000_" + b"a" * 43, b"Bearer vsk_", b"Bearer " + b"x" * 9000),
    ],
    "X-API-Key": [b"", b"vsk_", b"\xff", b"vsk_zzzzzzzzzzzz_" + b"a" * 43, b"x" * 9000, b" "],
    "If-None-Match": [b"", b"*", b'"', b'W/"', b",", b"\xff", b'"a",' * 3000],
    "If-Modified-Since": [
        *(b"", b"0", b"Mon", b"Mon, 99 Foo 9999 99:99:99 GMT", b"Thu, 01 Jan 0000 00:00:00 GMT", b"\xff", b",,,,"),
        *(b"Thu, 01 Jan 99999 00:00:00 GMT", b"1 2 3 4 5 6 7", b"Mon, 01 Jan 2024 00:00:00 +" + b"9" * 4400, b":::::"),
        *(b"Thu, 01 Jan " + b"9" * 4400 + b" 00:00:00 GMT", b"Thu, \xb2 Jan 2024 00:00:00 GMT", b"Thu, 1 Jan 2024 :::"),
    ],
    "If-Range": [b"", b'W/"a"', b"\xff", b"Mon, 99 Foo", b'"' + b"a" * 5000],
    "Last-Event-ID": [
        b"",
        b"-1",
        b"9" * 19,
        b"9" * 5000,
        b"\xb2",
        b"1.5",
        b"nan",
        b" 1",
        b"\xff",
        b"9223372036854775808",
    ],
    "Prefer": [
        *(b"", b"respond-async", b"wait=1", b"respond-async, wait=", b"respond-async, wait=" + b"9" * 5000, b",,;;=="),
        *(b'respond-async, wait="\xb2"', b"respond-async, wait=-1", b'respond-async; "', b'"' * 3000, b"a=\\" * 2000),
    ],
    "Idempotency-Key": [b"", b'"', b'""', b'"a', b"a b", b"\xff", b"a" * 255, b"a" * 256, b"a" * 9000, b"\0", b"';--"],
    "X-Request-Timeout": [b"", b"0", b"-1", b"nan", b"inf", b"1e999", b"9" * 5000, b"\xb2", b"1_0", b"0x1"],
    "X-Request-ID": [b"", b"a b", b"\xff", b"a" * 9000, b"%0d%0a", b"\0", b"a\tb"],
    "X-Forwarded-For": [b"", b"evil", b"1.2.3.4, \xff", b"[::1", b"," * 3000],
    "X-Forwarded-Proto": [b"", b"\xff", b"javascript", b"https, http"],
    "traceparent": [b"", b"00-0-0-0", b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-01", b"ff-" + b"0" * 52, b"-" * 3000],
    "tracestate": [b"", b"=", b"a=\xff", b"a=b," * 3000, b"@=@"],
    "baggage": [b"", b"=", b"a=%ff", b"a=%", b"\xff=\xff", b"a=b;c," * 2000, b"a=" + b"%ed%a0%80"],
    "Connection": [b"", b"upgrade", b"close, keep-alive", b"\xff"],
    "Upgrade": [b"websocket", b"h2c", b"\xff"],
    "Expect": [b"100-continue", b"200-ok", b"\xff"],
    "Access-Control-Request-Method": [b"", b"POST", b"\xff", b"TRACE"],
}
HEADER_LINES = [b"X y: z", b": a", b"X", b" folded", b"X\0: a", b"\xff: a", b"X: a\rb", b"X:a\nY:b"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "FOO", "PROPFIND", ""]
TARGETS = [
    *("", "*", "//", "/..", "/../..", "/v1//collections", "/v1/collections/", "/?", "/#a", "?a", "http://[/v1/models"),
    *("http://localhost/livez", "http://evil.com/v1/models", "localhost:80", "/\xff", "/\x00", "/%", "/" + "a/" * 4000),
    *("/static/%00", "/static/..%2f..%2fapp.py", "/static//etc/passwd", "/static/" + "a" * 5000, "/static/%ff"),
    *("/static/.", "/static", "/static/a\\b"),
]
VERSIONS = ["HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1 ", "http/1.1", "", "HTTP", "RTSP/1.0"]
CHUNKS = [
    *(b"%x\r\n%b\r\n0\r\n\r\n", b"%x;" + b"e" * 5000 + b"\r\n%b\r\n0\r\n\r\n", b"0%x\r\n%b\r\n0\r\n\r\n"),
    *(b"%x\n%b\n0\n\n", b"-%x\r\n%b\r\n0\r\n\r\n", b"0x%x\r\n%b\r\n0\r\n\r\n", b"f" * 20 + b"%x\r\n%b"),
    *(b"%x\r\n%b\r\n0\r\nContent-Length: 1\r\nHost: evil\r\n\r\n", b"%x\r\n%b0\r\n\r\n"),
    b"%x\r\n%b\r\n0\r\nX: " + b"t" * 9000 + b"\r\n\r\n",
]
SEGMENTS = [
    *("palette", "1", "0", "-1", "99999999999999999999", "%00", "a%00b", "%ff", "%ED%A0%80", "%F0%9F%98%80", "%0a"),
    *("%2e%2e", "..%2f..%2fetc%2fpasswd", "%2f", "%5c", "a" * 3000, "%", "%zz", "1e3", "%D9%A3", "%C2%B2", "+1", "1.0"),
    *("~", "%22", "''", "palette%20", "PALETTE", "palette.sqlite3", "self", "keys", "%25", "%3f", "%23", ";", ":", "@"),
    *("*", "%c0%af", ".", ".."),
]
DISPOSITIONS = [
    *(b"form-data", b"", b";", b"form-data; name", b"form-data; name=", b'form-data; name="', b'form-data; name="a\\"'),
    *(b"attachment; name=a", b'form-data; name="file"', b'form-data; name="a"; filename="b"', b'form-data; name="";'),
    *(b'form-data; name="\xff"', b'form-data; name="file"; filename="\xff\xed\xa0\x80"', b"form-data;" * 300),
    *(b'form-data; name="file"; filename="../../a\\..\\b\0"', b"form-data; name=file; filename*=utf-8''%ff%00"),
    *(b"form-data; name*=utf-8''title; name*0=a", b'form-data; name="title"\r\nX: ' + b"y" * 5000),
    *(b'form-data; name="title"\r\nContent-Transfer-Encoding: base64', b'form-data; name="' + b"n" * 3000 + b'"'),
    b'form-data; name="file"; filename=""',
]
ENDS = [*[b"--x--\r\n"] * 8, b"", b"--x", b"--x--", b"--x\r\n", b"--y--\r\n", b"\r\n--x--\0"]


def example_bodies(document: JSON, media_type: str) -> dict[str, list[JSON]]:
    """Return the examples of request bodies of this type by path, about the collection `palette`."""
    bodies: dict[str, list[JSON]] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            if media_type in content:
                bodies[path] = [*_examples(document, content[media_type]["schema"])]
    return bodies


def _examples(document: JSON, schema: JSON) -> Iterator[JSON]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for example in schema.get("examples", ()):
        yield json.loads(json.dumps(example).replace("holidays", "palette").replace("hd-vila-tiny", "small-colours"))
    for variant in schema.get("oneOf", ()):
        yield from _examples(document, variant)


class Attack:
    """Requests of every operation, each with a few hostile parts; the same for the same seed."""

    def __init__(self, document: JSON, operations: Sequence[tuple[str, str]], key: str, seed: int) -> None:
        """``operations``: methods and paths; ``key``: the API key, unless that is attacked."""
        self._random = random.Random(seed)
        self._operations = operations
        self._key = key
        self._json_bodies = example_bodies(document, "application/json")
        self._forms = example_bodies(document, "multipart/form-data")

    def request(self) -> bytes:
        draw = self._random
        with_body = [operation for operation in self._operations if operation[0] in ("POST", "PATCH")]
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
        if draw.random() < 0.03:
            lines.append(draw.choice([*lines[1:], *HEADER_LINES]))
        return b"\r\n".join([*lines, b"", b""]) + body

    def _path(self, path: str) -> str:
        draw, valid = self._random, {"name": "palette", "video_id": "1"}
        is_hostile = draw.random() < 0.15
        return re.sub(
            r"\{(\w+)\}",
            lambda match: draw.choice(SEGMENTS) if is_hostile or match[1] not in valid else valid[match[1]],
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
            return quote(draw.choice([json.dumps({"a": self._value()}), draw.choice(DOCUMENTS)[:9000]]))
        if name == "cursor" and draw.random() < 0.7:
            cursor = draw.choice([*DOCUMENTS, b'{"after": 1e99}', b'{"after": "1"}'])[:99]
            return base64.urlsafe_b64encode(cursor).decode()
        return draw.choice([*SEGMENTS, quote(draw.choice(TEXTS)[:3000]), "1", "true"])

    def _value(self) -> Any:
        draw = self._random
        kind = draw.random()
        if kind < 0.45:
            return draw.choice(TEXTS if kind > 0.05 else SURROGATES)
        if kind < 0.7:
            return draw.choice(NUMBERS)
        value: Any = draw.choice([None, [], {}, "a", 1, [[]], {"a": []}])
        for _ in range(draw.choice([0, 1, 3, 20, 60, 64, 150, 200])):
            value = draw.choice([[value], {"and": [value]}, {"not": value}, {"a": value}, {"in": [value]}])
        return value

    def _body(self, path: str, headers: dict[str, bytes]) -> bytes:
        draw = self._random
        if path in self._forms and draw.random() < 0.5:
            headers["Content-Type"] = b"multipart/form-data; boundary=x"
            return self._form(draw.choice(self._forms[path]))
        headers["Content-Type"] = b"application/json"
        kind = draw.random()
        if kind < 0.15 or path not in self._json_bodies:
            return draw.choice(DOCUMENTS)
        text = json.dumps(self._mutated(draw.choice(self._json_bodies[path])), ensure_ascii=draw.random() < 0.8)
        raw = text.encode("utf-8", "surrogatepass")
        if kind < 0.2:  # replace or remove a byte
            place = draw.randrange(len(raw))
            raw = raw[:place] + bytes(draw.choices(range(256), k=draw.choice([0, 1]))) + raw[place + 1 :]
        return raw

    def _mutated(self, body: JSON) -> JSON:
        """Return a copy of ``body`` with one value, at any depth, replaced, added or removed."""
        draw, copied = self._random, json.loads(json.dumps(body))
        holder, key = draw.choice([(holder, key) for holder in _containers(copied) for key in _keys(holder)])
        kind = draw.random()
        if kind < 0.8:
            holder[key] = self._value()
        elif kind < 0.9:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(TEXTS)] = self._value()
        else:
            holder.extend([holder[key]] * draw.choice([1, 100, 3000]))
        return copied  # type: ignore[no-any-return]

    def _form(self, fields: JSON) -> bytes:
        draw = self._random
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
        parts = [(b'form-data; name="%b"' % name.encode(), value.encode()) for name, value in texts.items()]
        parts = draw.sample(parts, draw.randrange(len(parts) + 1))
        file = draw.choice([PICTURE, b"", b"no film", PICTURE[:40]])
        parts.append((b'form-data; name="file"; filename="a.png"', file))
        for _ in range(draw.choice([0, 1, 1, 2])):
            disposition, value = draw.choice(parts)
            if draw.random() < 0.4:
                parts.append((draw.choice(DISPOSITIONS), value))
                continue
            text = draw.choice([*TEXTS, *SURROGATES]).encode("utf-8", "surrogatepass")
            parts.append((disposition, draw.choice([text, draw.choice(DOCUMENTS), b"\xff\xfe"])))
            if draw.random() < 0.8:
                parts.remove((disposition, value))
        heads = [b"--x\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + value for disposition, value in parts]
        form = b"\r\n".join([*heads, draw.choice(ENDS)])
        return form if draw.random() < 0.9 else form[: draw.randrange(len(form))]


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def _keys(holder: Any) -> list[Any]:
    return [*holder] if isinstance(holder, dict) else [*range(len(holder))]
