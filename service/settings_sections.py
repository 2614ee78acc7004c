"""Sections of the settings: names, types, defaults and descriptions.

docs/settings.md is generated from these classes: a class docstring is a section title, a field docstring a description.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from index.records import MAX_TEXT_LENGTH
from service.http.api_keys import admin_key_digest
from vitascope.captions import MAX_BEAMS
from vitascope.cli.options import default_bundle, default_data
from vitascope.errors import InvalidInput
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.sandbox.recognition import MEMORY_BYTES, TIME_FACTOR


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator that requires a full match of ``pattern``, as other values would silently have no effect."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise PydanticCustomError("text", "{expected} was expected", {"expected": expected})
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
HostPattern = Annotated[str, Field(pattern=r"^(\*\.)?([a-z0-9_-]+\.)+[a-z0-9_-]+$")]
HostName = Annotated[
    str,
    _matching(
        r"[^\s:/?#@\[\]*]+|\[?[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}\]?",
        "a name or address without scheme, port and wildcard",
    ),
]
Origin = Annotated[
    str,
    _matching(
        r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[^\sA-Z/?#@*]+|null",
        "an origin as browsers send it, in lower case, without path, default port and wildcard",
    ),
]
CollectorURL = Annotated[str, _matching(r"(?i:https?)://[^\s/].*", "a URL with http or https")]
Ports = Annotated[set[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)]
Schemes = Annotated[set[Literal["https", "http"]], Field(min_length=1)]
MIB = 1024**2


def _hash_admin_key(key: object) -> str | None:
    """Replace the key by its digest, so that settings that are shown, logged or dumped do not reveal it."""
    try:
        return None if key is None or key == "" else admin_key_digest(str(key)).hex()
    except InvalidInput as error:
        raise ValueError(str(error)) from error


class _Section(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="VITASCOPE_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )


class BasicSettings(_Section):
    """Data, models and addresses"""

    data_dir: Path = Field(default_factory=default_data)
    """Data folder: collections, uploads, API keys and backups are stored in it."""
    bundle: Path = Field(default_factory=default_bundle)
    """Bundle of the default model. A default that was chosen through the API while the service ran takes precedence."""
    bundles: list[Path] = []
    """Bundles of additional models that are loaded at the start."""
    bundles_root: Path | None = None
    """Folder from whose subfolders bundles may be added while the service runs. Unset: only the bundles of `bundle` and
    `bundles`.
    """
    require_signature: bool = False
    """Require that each bundle is signed by one of `trusted_keys`."""
    trusted_keys: list[Path] = []
    """Public keys, or folders of them (`*.pub`), as written by `vitascope bundle keygen`."""
    max_models: Count = 8
    """Maximum number of models, including those that failed to load."""
    engine: str = "onnxruntime"
    """Inference engine: `onnxruntime` runs the graphs in this process; `kserve:` and a URL, such as
    `kserve:http://triton:8000`, sends them to an inference server.
    """
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """Device that runs the graphs."""
    threads: CountOrZero = 0
    """Number of threads that run one graph. 0: one per core."""
    vector_store: str = "faiss"
    """Vector index of new collections: `faiss`, in this process, or the URL of a Milvus server."""
    operations_dir: Path | None = None
    """Folder of backups and exports. Unset: `operations` in the data folder."""
    max_operations: Count = 20
    """Maximum number of stored operations (backups, exports and others), with their files. More are rejected until some
    are deleted.
    """
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8000
    """Port to listen on. 0: any free port."""
    health_port: Port = 0
    """Additional port for `/livez` and `/readyz`, served by a separate thread. 0: none."""


class AccessSettings(_Section):
    """Access"""

    allow_unauthenticated: bool = False
    """Accept requests without API keys. Allowed only if `host` is a loopback address."""
    admin_key: Annotated[str | None, BeforeValidator(_hash_admin_key), Field(repr=False)] = None
    """API key with all scopes, of at least 32 characters, in addition to the stored keys. Only its SHA-256 is kept in
    memory.
    """
    admin_key_file: Path | None = None
    """File that contains the admin key; an alternative to `admin_key`."""
    public_metrics: bool = False
    """Serve `/metrics` without an API key."""
    trusted_proxies: list[str] = []
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` headers are trusted; only `*`:
    all clients.
    """
    allowed_hosts: list[HostName] = []
    """Host names, without port, that are accepted in the `Host` header, besides localhost and `host`."""
    cors_origins: list[Origin] = []
    """Origins of other web sites whose pages may call the API (CORS), such as `https://portal.example`."""
    allowed_roots: list[Path] = []
    """Folders whose files may be indexed and played, besides `incoming` in the data folder. Empty with
    `allow_unauthenticated`: all folders that the service can read.
    """
    allowed_urls: list[str] = []
    """URL prefixes, such as `s3://bucket/videos/`, from which jobs may download without further checks."""


class UrlFetchSettings(_Section):
    """Videos from public URLs"""

    url_fetch: Literal["off", "on"] = "off"
    """Allow API keys with the scope `write` to index videos from URLs of public hosts."""
    url_fetch_schemes: Schemes = {"https"}
    """Allowed schemes."""
    url_fetch_ports: Ports = {443}
    """Allowed ports."""
    url_fetch_hosts: list[HostPattern] = []
    """Allowed host names, such as `media.example` or `*.media.example` (subdomains only). Empty: any public host."""
    url_fetch_blocked_networks: list[IPvAnyNetwork] = []
    """Networks that are blocked in addition to all non-public ones, such as `2001:db8::/48`."""
    url_fetch_max_redirects: Annotated[int, Field(ge=0, le=10)] = 0
    """Maximum number of redirects that are followed. Each target is checked like the first URL."""
    url_fetch_timeout: Seconds = 900.0
    """Timeout in seconds for downloading one file, including redirects."""


class WebhookSettings(_Section):
    """Webhooks"""

    webhooks: Literal["off", "on"] = "off"
    """Allow API keys with the scope `admin` to create webhooks."""
    webhook_schemes: Schemes = {"https"}
    """Allowed schemes."""
    webhook_ports: Ports = {443}
    """Allowed ports."""
    webhook_hosts: list[HostPattern] = []
    """Allowed host names, such as `portal.example` or `*.portal.example` (subdomains only). Empty: any public host."""
    webhook_networks: list[IPvAnyNetwork] = []
    """Non-public networks that webhooks may reach, such as `10.20.0.0/16`."""
    webhook_retry_seconds: Seconds = 3 * 24 * 3600.0
    """Seconds for which delivery of a message is retried before it is given up."""


class RequestSettings(_Section):
    """Limits of one request"""

    max_body_bytes: Count = MIB
    """Maximum bytes of a request body that is not a form."""
    max_form_bytes: Count = MIB
    """Maximum bytes of all fields of a form together, without its file."""
    max_field_bytes: Count = 256 * 1024
    """Maximum bytes of one form field."""
    max_form_fields: Count = 1024
    """Maximum number of fields of a form, including its file."""
    max_json_values: Count = 20_000
    """Maximum number of values (strings, numbers, lists and objects) in a JSON body or form field."""
    max_text_characters: Count = 4000
    """Maximum characters of a query, question or caption."""
    max_results: Count = 100
    """Maximum number of results on a page of a search, or of moments found for one text."""
    max_rerank: Count = 100
    """Maximum number of results that one search reranks."""
    max_query_parts: Count = 16
    """Maximum number of texts, clips and files in one search query."""
    max_candidates: Annotated[Count, Field(le=10_000)] = 10_000
    """Maximum number of clips that a search retrieves and groups into events or videos."""
    max_captions: Count = 64
    """Maximum number per request of captions or references to score, phrases to ground, sentences to classify
    (entailment), or texts to find moments for.
    """
    max_answers: Count = 50
    """Maximum number of answers that are returned for one question."""
    max_candidate_answers: Count = 1000
    """Maximum number of candidate answers for one question."""
    max_frames: Count = 32
    """Maximum number of frames of a clip that are scored separately (EMScore)."""
    max_moment_windows: Count = 40_000
    """Maximum work of one request that reads whole videos. For moments: windows of the video times texts; for a refined
    search: windows of all its results; for chapters: clips of the video.
    """
    max_caption_clips: Count = 64
    """Maximum number of clips that one request captions, and of chapters in one request."""
    max_beams: Annotated[Count, Field(le=MAX_BEAMS)] = 16
    """Maximum number of beams in beam search, and of captions per clip."""
    max_inputs: Count = 2048
    """Maximum number of texts and files in one request for embeddings."""
    page_size: Count = 50
    """Default number of entries on a page of a list."""
    max_page_size: Annotated[int, Field(ge=100, le=999)] = 200
    """Maximum number of entries on a page of a list; the command asks for 100."""
    thumbnail_size: Annotated[int, Field(ge=16, le=2048)] = 320
    """Length of the longer side of a thumbnail in pixels."""
    preview_size: Annotated[int, Field(ge=64, le=1920)] = 640
    """Length of the longer side of a preview in pixels."""
    max_preview_seconds: Annotated[float, Field(gt=0, le=600)] = 120.0
    """Maximum duration of a preview in seconds."""
    request_timeout: Seconds = 120.0
    """Seconds after which a request fails with 504. A client can set a shorter timeout with `X-Request-Timeout`."""


class MediaSettings(_Section):
    """Limits of media files and file lists"""

    max_video_bytes: Count = DEFAULT_LIMITS.max_bytes
    """Maximum bytes of a media file, whether it is uploaded, downloaded or indexed in place."""
    min_free_bytes: CountOrZero = 256 * MIB
    """Free bytes to keep on the disk of the data folder. An upload that would leave less is rejected with 507."""
    max_pixels: Count = DEFAULT_LIMITS.max_pixels
    """Maximum number of pixels of a frame."""
    max_video_seconds: Seconds = DEFAULT_LIMITS.max_seconds
    """Maximum duration of a video in seconds."""
    max_video_frames: Count = DEFAULT_LIMITS.max_frames
    """Maximum number of frames of a video."""
    max_list_rows: Count = 1_000_000
    """Maximum number of rows of a file list, or of items of a shard."""
    max_list_columns: Count = 1000
    """Maximum number of columns of a file list, or of keys of a JSON object in it."""
    max_list_cell_characters: Annotated[Count, Field(le=MAX_TEXT_LENGTH)] = MAX_TEXT_LENGTH
    """Maximum characters of a cell of a file list."""
    max_list_bytes: Count = 256 * MIB
    """Maximum bytes that a file list or shard may store in the catalogue."""
    max_list_expansion: Count = 100
    """Maximum bytes that a file list or shard may store in the catalogue, as a multiple of its own size; 16 MiB are
    always allowed.
    """


class ConcurrencySettings(_Section):
    """Concurrency and rates"""

    max_requests: Count = 256
    """Maximum number of concurrent requests; more are rejected with 503."""
    max_writes: Count = 112
    """Maximum number of concurrent requests that add, index or delete; never more than 7/8 of `max_requests`."""
    max_uploads: Count = 96
    """Maximum number of concurrent uploads whose client waits until the file is indexed."""
    max_requests_bytes: Count = 2048 * MIB
    """Maximum memory in bytes for the bodies of all concurrent requests, raw and parsed. Uploaded files are written to
    disk as they arrive and do not count.
    """
    client_rate: Annotated[float, Field(ge=0)] = 0.0
    """Maximum requests per second of one client, with bursts of ten times as many; more are rejected with 429. 0: no
    limit.
    """
    client_concurrency: Count = 128
    """Maximum number of concurrent requests of one client; more are rejected with 429."""
    max_streams: Count = 100
    """Maximum number of concurrent event streams. They also count as requests."""
    client_streams: Count = 20
    """Maximum number of concurrent event streams of one client."""
    max_idempotency_keys: Count = 100_000
    """Maximum number of responses stored per client for requests with an `Idempotency-Key`."""
    queue_timeout: Seconds = 1.0
    """Maximum seconds that a request for a search, score, answer, caption or embedding waits in the queue. A request
    that is expected to wait longer is rejected at once with 503.
    """
    max_queue: Count = 256
    """Maximum number of requests that wait for a thread or for the model."""
    max_queue_bytes: Count = 1024 * MIB
    """Maximum bytes of all inputs that wait for the model."""
    request_threads: Count = 64
    """Number of threads for searches, scores, answers, captions and embeddings, which decode media or wait for the
    model. Requests that embed whole videos (moments, chapters, captions of each clip) get half as many; more are
    rejected with 503.
    """
    io_threads: Count = 16
    """Number of threads for requests that read the catalogue or files."""
    write_threads: Count = 8
    """Number of threads for requests that write to the catalogue or receive an upload."""
    upload_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Maximum number of uploads that are indexed concurrently. 0: the number of cores minus one, which is left to
    searches.
    """


class ConnectionSettings(_Section):
    """Connections and shutdown"""

    max_connections: CountOrZero = 0
    """Maximum number of open connections. 0: half of the process's limit on open files, minus 256, at most 4096."""
    keep_alive_timeout: Count = 75
    """Seconds after which an idle connection is closed. The default is longer than the 60 s of common load balancers,
    so that they close idle connections first.
    """
    header_timeout: Seconds = 10.0
    """Timeout in seconds for receiving the request line and headers."""
    max_header_bytes: Count = 64 * 1024
    """Maximum bytes of the request line and headers."""
    read_timeout: Seconds = 30.0
    """Maximum seconds that the service waits for a request body; data that arrives extends them by `min_body_rate`."""
    min_body_rate: Annotated[float, Field(gt=0)] = 4096.0
    """Minimum rate of a request body: this many received bytes extend `read_timeout` by one second, up to its value."""
    write_timeout: Seconds = 60.0
    """Seconds after which the connection of a client that reads nothing of its response is closed."""
    shutdown_delay: Annotated[float, Field(ge=0)] = 1.0
    """At shutdown, seconds from when `/readyz` returns 503 until the service stops listening, so that load balancers
    can react.
    """
    shutdown_timeout: Annotated[float, Field(ge=0)] = 20.0
    """At shutdown, maximum seconds to wait for requests in progress and the running job."""


class InferenceSettings(_Section):
    """Inference, decoding and jobs"""

    inference_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Number of graph runs at the same time. 0: one per core, at most 4; 1 if all graphs run on a GPU; 4 with a remote
    engine.
    """
    max_batch_size: Count = 32
    """Maximum number of texts or clips in one graph run."""
    max_batch_tokens: Count = 4096
    """Maximum number of text tokens in one graph run, including padding."""
    text_cache_bytes: CountOrZero = 32 * MIB
    """Maximum bytes of the cache of text embeddings. 0: no cache."""
    clip_cache_bytes: CountOrZero = 64 * MIB
    """Maximum bytes of the cache of clip embeddings and visual tokens. 0: no cache."""
    preview_cache_bytes: CountOrZero = 1024 * MIB
    """Maximum bytes of previews that are cached on disk until the service stops. 0: no cache."""
    decode_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of processes that decode media files; one is reserved for interactive requests. 0: the number of cores
    plus one.
    """
    decode_memory_bytes: Annotated[int, Field(ge=128 * MIB)] = 1024 * MIB
    """Maximum memory of one decoding process in bytes."""
    decode_timeout: Seconds = 60.0
    """Timeout in seconds of one decoding task; two more are allowed per second of video."""
    job_concurrency: Annotated[Count, Field(le=1000)] = 8
    """Number of files of a job that are processed concurrently."""
    job_decode_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of decoding threads of a job. 0: one per core, at most 8."""
    max_item_crashes: Count = 3
    """Number of crashes after which a file is quarantined: the job goes on without it."""


class RecognitionSettings(_Section):
    """Recognition of speech and screen text"""

    speech_model: str | None = None
    """Speech model: folder of a sherpa-onnx model, or `pocketsphinx`. Unset: no speech is recognised."""
    text_reader: str | None = None
    """Model that reads text on screen (OCR): `rapidocr`, or the folder of a PP-OCR model. Unset: no text is read."""
    recognition_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of threads of each recogniser. 0: one per core."""
    recognition_memory_bytes: Annotated[int, Field(ge=128 * MIB)] = MEMORY_BYTES
    """Maximum memory in bytes of a recogniser's process, in addition to its model."""
    recognition_time_factor: Annotated[float, Field(gt=0)] = TIME_FACTOR
    """Timeout of recognition, in seconds per second of the file, or of a part of its speech; one minute is added."""


class MonitoringSettings(_Section):
    """Logs and traces"""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Lowest severity that is logged."""
    log_format: Literal["text", "json"] = "text"
    """Format of log lines."""
    otlp_endpoint: CollectorURL | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP), such as `http://collector:4318`. Unset: no traces."""
