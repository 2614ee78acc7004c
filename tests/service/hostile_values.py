"""Values that break parsers, and valid requests to put them into."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from service.schemas.embeddings import DATA

PICTURE = base64.b64decode(DATA.partition(",")[2])
TEXTS = [
    *("", " ", "\0", "a\0b", "\n", "\r\n", "\x7f", "\x1b[31m", "%s%n", "{}", "../../etc/passwd", "/dev/zero", "~", "*"),
    *(".", "..", "con", "'; DROP TABLE videos; --", '"', "'", "\\", "NEAR(", '"a" AND', "*:*", "a" * 5000, "a " * 3000),
    *("-", "\ufeff", "\u202e", "\u2028", "\U0001f600", "\ufffd", "\U0010ffff", "e\u0301" * 100, "\u0660", "\xb2"),
    *("\uff11", "http://[", "http://[::1", "https://a:99999999/", "http://\0/", "s3://", "file:///etc/passwd", "//"),
    *("data:,", "data:;base64,", "data:image/png;base64,AA", "data:image/png;base64,====", "data:a/b;base64,\u00e9"),
    *("null", "nan", "inf", "-inf", "1e308", "1e999", "0x10", "1_000", "9" * 30, "9" * 5000, "-1", "-0", "1.5"),
    *("\ud800", "a\udfffb", "\udc80\ud800"),
]
NUMBERS: list[Any] = [
    *(0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308),
    *(float("nan"), float("inf"), float("-inf"), True, False),
]
DOCUMENTS = [
    *(b"", b" ", b"{", b"}", b"[", b'"', b"{]", b"nul", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-", b"+1"),
    *(b"01", b"1.", b'{"a":1,"a":2}', b'{"text":"a","text":"b"}', b"{'a': 1}", b"{a: 1}", b"[1,]", b"/**/{}", b"{}{}"),
    *(b"{} x", b"[" * 100_000, b'{"a":' * 20_000, b"[" * 1000 + b"]" * 1000, b'{"filter":' * 150 + b"1" + b"}" * 150),
    *(b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"\xed\xa0\x80", b'"\xed\xa0\x80"', b'"\xff"', b'{"\\ud800": 1}'),
    *(b'"\\u12"', b'{"name": "\\udc00\\ud800"}', b'"\\u0000"', b'{"\\u0000": "\\u0000"}', b"\0", b"9" * 4999),
    *(b"-" + b"9" * 400, b"1" + b"0" * 4300, b'{"limit": 1e400}', b'{"x":' + b"1" * 310 + b"}", b'{"__proto__": {}}'),
    b"[[[[]]]]",
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
        *(b'multipart/form-data; boundary="', b'multipart/form-data; boundary="a\\"'),
        *(b"Multipart/Form-Data; boundary=x", b"multipart/form-data; boundary*=utf-8''%ff"),
        *(b"multipart/form-data; boundary*0=x; boundary*1=y", b"multipart/form-data; boundary=\xff"),
        *(b"multipart/mixed; boundary=x", b"multipart/form-data;" * 900, b"application/x-www-form-urlencoded"),
        *(b"application/x+json", b"text/plain", b"application/json;" * 2000),
        *(b"multipart/form-data; boundary=" + b"x" * n for n in (255, 256, 257, 5000)),
    ],
    "Content-Length": [
        *(b"", b"-1", b"+1", b"0x1", b"1.0", b"1e3", b"9" * 19, b"9" * 5000, b"\xb2", b"1,1", b"1 1", b"nan", b"99999"),
    ],
    "Transfer-Encoding": [b"", b"identity", b"chunked, chunked", b"xchunked", b"gzip", b"chunked;q=1", b"\xff"],
    "Content-Encoding": [b"", b"gzip", b"identity, gzip", b"\xff", b"x" * 5000],
    "Cookie": [
        *(b"", b"=", b";", b"vitascope_media", b"vitascope_media=", b"vitascope_media=..", b"vitascope_media=a.1.\xff"),
        *(b"vitascope_media=x." + b"9" * 5000 + b".y", b"vitascope_media=a.\xb2.b", b'vitascope_media="\\9'),
        *(b"a=b;" * 2000, b'vitascope_media="\\377.1.\\777"', b"vitascope_media=a.-1.b", b"vitascope_media=a.1e3.b"),
        b"\0=\0",
    ],
    "Authorization": [
        *(b"", b"Bearer", b"Bearer ", b"bearer x", b"Basic", b"Basic YTpi", b"Basic \xff", b"Digest a=b"),
        *(b"Bearer \xff", b"Bearer vsk_000000000000_" + b"a" * 43, b"Bearer vsk_", b"Bearer " + b"x" * 9000, b"\t"),
        b"Bearer \0",
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
        *(b"", b"-1", b"9" * 19, b"9" * 5000, b"\xb2", b"1.5", b"nan", b"0x1", b" 1", b"\xff", b"9223372036854775808"),
    ],
    "Prefer": [
        *(b"", b"respond-async", b"wait=1", b"respond-async, wait=", b"respond-async, wait=" + b"9" * 5000, b",,;;=="),
        *(b'respond-async, wait="\xb2"', b"respond-async, wait=-1", b'respond-async; "', b"respond-async, wait=1e999"),
        *(b'"' * 3000, b"a=\\" * 2000, b"respond-async, wait=nan"),
    ],
    "Idempotency-Key": [b"", b'"', b'""', b'"a', b"a b", b"\xff", b"a" * 255, b"a" * 256, b"a" * 9000, b"\0", b"';--"],
    "X-Request-Timeout": [b"", b"0", b"-1", b"nan", b"inf", b"1e999", b"9" * 5000, b"\xb2", b"1_0", b"0x1"],
    "X-Request-ID": [b"", b"a b", b"\xff", b"a" * 9000, b"%0d%0a", b"\0", b"a\tb"],
    "X-Forwarded-For": [b"", b"evil", b"1.2.3.4, \xff", b"[::1", b"," * 3000],
    "X-Forwarded-Proto": [b"", b"\xff", b"javascript", b"https, http"],
    "traceparent": [
        *(b"", b"00-0-0-0", b"00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-01", b"ff-" + b"0" * 52, b"\xff", b"-" * 3000),
    ],
    "tracestate": [b"", b"=", b"a=\xff", b"a=b," * 3000, b"@=@"],
    "baggage": [b"", b"=", b"a=%ff", b"a=%", b"\xff=\xff", b"a=b;c," * 2000, b"a=" + b"%ed%a0%80"],
    "Connection": [b"", b"upgrade", b"close, keep-alive", b"\xff"],
    "Upgrade": [b"websocket", b"h2c", b"\xff"],
    "Expect": [b"100-continue", b"200-ok", b"\xff"],
    "Access-Control-Request-Method": [b"", b"POST", b"\xff", b"TRACE"],
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "FOO", "PROPFIND", ""]
TARGETS = [
    *(
        "",
        "*",
        "//",
        "/..",
        "/../..",
        "/v1//collections",
        "/v1/collections/",
        "/?",
        "/#a",
        "?a",
        "http://localhost/livez",
    ),
    *(
        "http://[/v1/models",
        "http://evil.com/v1/models",
        "localhost:80",
        "/\xff",
        "/\x00",
        "/%",
        "/" + "a/" * 4000,
        "/static/%00",
    ),
    *(
        "/static/..%2f..%2fapp.py",
        "/static//etc/passwd",
        "/static/" + "a" * 5000,
        "/static/%ff",
        "/static/.",
        "/static",
        "/static/a\\b",
    ),
]
VERSIONS = ["HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1 ", "http/1.1", "", "HTTP", "RTSP/1.0"]
CHUNKS = [
    *(
        b"%x\r\n%b\r\n0\r\n\r\n",
        b"%x;" + b"e" * 5000 + b"\r\n%b\r\n0\r\n\r\n",
        b"0%x\r\n%b\r\n0\r\n\r\n",
        b"%x\n%b\n0\n\n",
    ),
    *(
        b"-%x\r\n%b\r\n0\r\n\r\n",
        b"0x%x\r\n%b\r\n0\r\n\r\n",
        b"%x\r\n%b\r\n0\r\nContent-Length: 1\r\nHost: evil\r\n\r\n",
    ),
    *(b"f" * 20 + b"%x\r\n%b", b"%x\r\n%b0\r\n\r\n", b"%x\r\n%b\r\n0\r\nX: " + b"t" * 9000 + b"\r\n\r\n"),
]
SEGMENTS = [
    *("palette", "1", "0", "-1", "99999999999999999999", "%00", "a%00b", "%ff", "%ED%A0%80", "%F0%9F%98%80", "%0a"),
    *("%2e%2e", "..%2f..%2fetc%2fpasswd", "%2f", "%5c", "a" * 3000, "%", "%zz", "1e3", "%D9%A3", "%C2%B2", "+1", "1.0"),
    *("~", "%22", "''", "palette%20", "PALETTE", "palette.sqlite3", "self", "keys", "%25", "%3f", "%23", ";", ":", "@"),
    *("*", "%c0%af", ".", ".."),
]
JSON_BODIES: dict[str, list[Any]] = {
    "/v1/collections": [{"name": "new", "index_kind": "flat", "token_encoding": "int8", "model": None}],
    "/v1/collections/{name}": [{"index_kind": "hnsw"}],
    "/v1/collections/{name}/search": [
        {
            "text": "a red thing",
            "limit": 3,
            "cursor": None,
            "rerank": 2,
            "hybrid": True,
            "filter": {
                "color": "red",
                "number": {"in": [1, 2]},
                "clip": {"text": {"ne": "a"}},
                "or": [{"not": {"a": 1}}],
            },
            "min_similarity": 0.1,
            "group": "event",
            "clips": 2,
            "candidates": 10,
        },
        {"query": [{"kind": "text", "value": "red", "weight": 0.5}, {"kind": "clip", "value": "1", "weight": -1}]},
    ],
    "/v1/collections/{name}/videos": [
        {
            "url": "https://media.example/a.mp4",
            "title": "a",
            "metadata": {"a": 1},
            "segmentation": {"rule": "windows", "length": 8, "overlap": 2, "language": "en"},
        }
    ],
    "/v1/collections/{name}/jobs": [
        {"folder": "none", "recursive": True, "metadata": {"a": "b"}, "segmentation": {"rule": "shots", "longest": 5}},
        {"source": {"kind": "files", "files": ["a.mp4", "b.mp4"]}},
        {"source": {"kind": "list", "file": "a.csv", "path_column": "p", "title_column": "t"}},
        {"source": {"kind": "shards", "shards": ["a.tar"]}},
        {"source": {"kind": "url", "url": "https://media.example/a.mp4", "title": "a"}},
    ],
    "/v1/caption-scores": [
        {
            "collection": "palette",
            "video_id": "1",
            "captions": ["red"],
            "references": ["a"],
            "frames": 2,
            "start": 0,
            "end": 1,
        }
    ],
    "/v1/answers": [
        {
            "collection": "palette",
            "video_id": "1",
            "question": "which?",
            "candidates": ["red"],
            "top": 2,
            "abstain_below": 0.1,
        }
    ],
    "/v1/embeddings": [
        {
            "input": ["red", {"type": "text", "text": "a"}, {"type": "image", "data": DATA, "start": 0, "end": 1}],
            "model": None,
            "encoding_format": "float",
            "dimensions": 16,
            "user": "u",
        }
    ],
    "/v1/rerank": [
        {
            "query": "red",
            "collection": "palette",
            "documents": [{"clip_id": "1"}, {"video_id": "2"}],
            "top_n": 1,
        },
        {"query": {"clip_id": "1"}, "collection": "palette", "documents": ["red", "blue"], "return_documents": True},
    ],
    "/v1/keys": [
        {"name": "k", "scopes": ["read"], "collections": ["palette"], "rate": 5, "concurrency": 2, "expires_in": 60}
    ],
    "/v1/models": [{"folder": "nowhere"}],
    "/v1/operations": [
        {"kind": "export", "collection": "palette", "tokens": True},
        {"kind": "reembed", "collection": "palette", "model": None, "skip_missing": True},
    ],
    "/v1/webhooks": [{"url": "https://receiver.invalid/hook", "events": ["job.failed"]}],
}
FIELDS: dict[str, dict[str, str]] = {
    "/v1/collections/{name}/search": {"text": "red", "limit": "2", "filter": '{"a": 1}', "query": '[{"kind": "file"}]'},
    "/v1/collections/{name}/videos": {"title": "t", "metadata": '{"a": 1}', "segmentation": '{"rule": "shots"}'},
    "/v1/caption-scores": {"captions": "red", "references": "a", "frames": "1", "start": "0", "end": "1"},
    "/v1/answers": {"question": "which?", "candidates": "red", "top": "1", "abstain_below": "0.1"},
    "/v1/embeddings": {"encoding_format": "base64", "dimensions": "16", "start": "0"},
}
DISPOSITIONS = [
    *(b"form-data", b"", b";", b"form-data; name", b"form-data; name=", b'form-data; name="', b'form-data; name="a\\"'),
    *(b"attachment; name=a", b'form-data; name="file"', b'form-data; name="a"; filename="b"'),
    *(b'form-data; name="\xff"', b'form-data; name="file"; filename="\xff\xed\xa0\x80"'),
    *(b'form-data; name="file"; filename="../../a\\..\\b\0"', b"form-data; name=file; filename*=utf-8''%ff%00"),
    *(b"form-data; name*=utf-8''title; name*0=a", b"form-data;" * 300, b'form-data; name="title"\r\nX: ' + b"y" * 5000),
    *(b'form-data; name="title"\r\nContent-Transfer-Encoding: base64', b'form-data; name="' + b"n" * 3000 + b'"'),
    *(b'form-data; name="file"; filename=""', b'form-data; name="";'),
]
