"""Every setting of the service, with safe defaults; each is the environment variable ``VITASCOPE_<NAME>``.

Lists are written as JSON: ``VITASCOPE_ALLOWED_ROOTS='["/videos"]'``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, IPvAnyNetwork, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from index.jobs.pipeline import PipelineConfig
from index.jobs.sources.access_policy import AccessPolicy, check_url
from index.jobs.sources.list_limits import ListLimits
from index.records import MAX_TEXT_LENGTH
from index.vectors.interface import check_backend
from service.http.api_keys import admin_key_digest
from service.http_client.url_policy import UrlPolicy
from vitascope.bundle.signing.keys import PublicKey, read_public_keys
from vitascope.cli.options import default_bundle, default_data
from vitascope.errors import InvalidInput
from vitascope.integrations.kserve.address import server_url
from vitascope.media.limits import MediaLimits
from vitascope.network import is_loopback

Count = Annotated[int, Field(ge=1)]
HostPattern = Annotated[str, Field(pattern=r"^(\*\.)?([a-z0-9_-]+\.)+[a-z0-9_-]+$")]
MIB = 1024**2
FORM_OVERHEAD = 512 * 1024
"""Bytes that the boundaries of a form may have."""


RENAMED = {
    "answer_idle_seconds": "write_timeout",
    "batch_rows": "max_batch_size",
    "batch_tokens": "max_batch_tokens",
    "body_idle_seconds": "read_timeout",
    "body_rate": "min_body_rate",
    "decoders": "job_decode_threads",
    "drain_seconds": "shutdown_delay",
    "files_in_flight": "job_concurrency",
    "head_seconds": "header_timeout",
    "keep_alive_seconds": "keep_alive_timeout",
    "lanes": "inference_workers",
    "max_head_bytes": "max_header_bytes",
    "max_waiting": "max_queue",
    "max_waiting_bytes": "max_queue_bytes",
    "queue_seconds": "queue_timeout",
    "readers": "io_threads",
    "shutdown_seconds": "shutdown_timeout",
    "thumbnail_side": "thumbnail_size",
    "upload_workers": "upload_threads",
    "vectors": "vector_store",
    "workers": "request_threads",
    "writers": "write_threads",
}
"""Settings of version 0.2 and their successors: a variable that is set and ignored would go unnoticed."""


def _hidden(key: object) -> str | None:
    """The digest in place of the key, so that no setting that is shown, logged or dumped has the key."""
    try:
        return None if key is None or key == "" else admin_key_digest(str(key)).hex()
    except InvalidInput as error:
        raise ValueError(str(error)) from error


class Settings(BaseSettings):
    """Where things are, who may come in, and how much one request may ask for. Sizes in bytes, times in
    seconds.
    """

    model_config = SettingsConfigDict(env_prefix="VITASCOPE_", frozen=True, extra="forbid")

    # Where things are
    data_dir: Path = Field(default_factory=default_data)
    bundle: Path = Field(default_factory=default_bundle)
    """The model that serves whoever names none, unless another one was made the default while the service ran."""
    bundles: list[Path] = []
    """Further models that serve from the start on."""
    bundles_root: Path | None = None
    """Bundles in this folder, at any depth, may be added while the service runs; None: only those named above."""
    require_signature: bool = False
    """Whether each bundle must be signed by one of ``trusted_keys``, at the start and when it is added."""
    trusted_keys: list[Path] = []
    """Public keys, or folders of them (``*.pub``), as ``vitascope bundle keygen`` writes them."""
    max_models: Annotated[Count, Field(description="that are loaded or could not be; no further one is added")] = 8
    engine: str = "onnxruntime"
    """What runs the graphs: onnxruntime, in this process, or ``kserve:`` and the URL of a server that has them."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    threads: Annotated[int, Field(ge=0, description="threads for the model; 0: one per core")] = 0
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="0: any free one")] = 8000
    health_port: Annotated[int, Field(ge=0, le=65535, description="0: none of its own")] = 0
    """Where only ``/livez`` and ``/readyz`` are answered, by a thread of their own."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"

    otlp_endpoint: str | None = None
    """Where traces go, OTLP over HTTP, such as ``http://collector:4318``; None: nowhere."""
    log_format: Literal["text", "json"] = "text"

    vector_store: str = "faiss"
    """Where the vectors of new collections are searched: faiss, in this process, or the URL of a Milvus server."""

    # Who may come in
    allow_unauthenticated: bool = False
    """Ask nobody for a key. Only where the service listens on this machine alone."""
    admin_key: Annotated[str | None, BeforeValidator(_hidden), Field(repr=False, description="SHA-256, as hex")] = None
    """A key that may do everything, beside those that are kept; its text is forgotten at once."""
    admin_key_file: Path | None = None
    """A file that holds such a key, in place of the key itself."""
    metrics_without_key: bool = False
    """Show /metrics to whoever reaches the service."""
    trusted_proxies: list[str] = []
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto tell the client's address and scheme."""
    allowed_hosts: list[str] = []
    """Host names that requests may carry, without port, besides those of this machine itself."""
    cors_origins: list[str] = []
    """Other web origins whose pages may use the service, such as ``https://portal.example``."""
    allowed_roots: list[Path] = []
    """Folders that indexing jobs may name, besides ``incoming`` in the data folder."""

    allowed_urls: list[str] = []
    """URLs that indexing jobs may fetch from, such as ``s3://bucket/videos/``; what begins with one may be named."""

    # Videos behind URLs of any public host
    url_fetch: Literal["off", "on"] = "off"
    """Whether whoever may add videos may name URLs of hosts that nobody vouched for; all else here says which."""
    url_fetch_schemes: Annotated[set[Literal["https", "http"]], Field(min_length=1)] = {"https"}
    url_fetch_ports: Annotated[set[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)] = {443}
    url_fetch_hosts: list[HostPattern] = []
    """Only these names, such as ``media.example`` or ``*.media.example``, all below it; none: any public host."""
    url_fetch_refused: list[IPvAnyNetwork] = []
    """Networks that are not connected to besides those that are not public, such as an office's ``2001:db8::/48``."""
    url_fetch_redirects: Annotated[int, Field(ge=0, le=10, description="that are followed, each checked")] = 0
    url_fetch_seconds: Annotated[float, Field(gt=0, description="for one file; of size as for uploads")] = 900.0

    # Whom ended jobs are told to
    webhooks: Literal["off", "on"] = "off"
    """Whether keys with the scope admin may have ended jobs told to public URLs."""
    webhook_ports: Annotated[set[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)] = {443}
    webhook_hosts: list[HostPattern] = []
    """Only these names, such as ``portal.example`` or ``*.portal.example``, all below it; none: any public host."""
    webhook_networks: list[IPvAnyNetwork] = []
    """Networks that messages may go to although they are not public, such as ``10.20.0.0/16``; none: none."""
    webhook_schemes: Annotated[set[Literal["http", "https"]], Field(min_length=1)] = {"https"}
    webhook_retry_seconds: Annotated[float, Field(gt=0, description="until a message is given up")] = 3 * 24 * 3600.0

    # How much one request may ask for
    max_upload_bytes: Count = 512 * MIB
    max_body_bytes: Annotated[Count, Field(description="every body that is no upload")] = MIB
    max_field_bytes: Annotated[Count, Field(description="one field of a form that is no file")] = 256 * 1024
    max_form_bytes: Annotated[Count, Field(description="all fields of a form together, its file aside")] = MIB
    max_form_fields: Annotated[Count, Field(description="fields of one form, its file included")] = 1024
    max_json_values: Annotated[Count, Field(description="strings, numbers, lists, objects of a JSON body")] = 20_000
    max_captions: Count = 64
    max_text_characters: Count = 4000
    max_results: Count = 100
    max_rerank: Count = 100
    max_query_parts: Annotated[Count, Field(description="texts, clips and files of one search")] = 16
    max_candidates: Annotated[Count, Field(le=10_000, description="clips that events and videos are made of")] = 10_000
    max_answers: Count = 50
    max_candidate_answers: Annotated[Count, Field(description="that one question may name")] = 1000
    max_frames: Annotated[Count, Field(description="of one clip that are looked at one by one, for EMScore")] = 32
    max_inputs: Annotated[Count, Field(description="texts and files of one request for embeddings")] = 2048
    page_size: Count = 50
    max_page_size: Annotated[Count, Field(le=999)] = 200
    thumbnail_size: Annotated[Count, Field(ge=16, le=2048, description="pixels, the longer side")] = 320
    max_pixels: Annotated[Count, Field(description="of one frame")] = 4096 * 2304
    max_video_seconds: Annotated[float, Field(gt=0)] = 4 * 3600.0
    max_video_frames: Count = 1_000_000

    max_list_rows: Annotated[Count, Field(description="of one file list, or items of one shard")] = 1_000_000
    max_list_columns: Annotated[Count, Field(description="of a file list, or keys of one JSON object")] = 1000
    max_list_cell_characters: Annotated[Count, Field(le=MAX_TEXT_LENGTH, description="of one cell")] = MAX_TEXT_LENGTH
    max_list_bytes: Annotated[Count, Field(description="that a file list or shard stores in the catalogue")] = 256 * MIB
    max_list_expansion: Annotated[Count, Field(description="the same, by bytes of the file; 16 MiB are allowed")] = 100

    operations_dir: Annotated[Path | None, Field(description="backups and exports; null: in the data folder")] = None
    max_operations: Annotated[Count, Field(description="that are kept, with their files, until they are deleted")] = 20

    # How much happens at once
    max_requests: Annotated[Count, Field(description="requests under way; more are refused at once")] = 256
    max_writes: Annotated[Count, Field(description="of them, that add, index or delete; at most seven eighths")] = 112
    max_uploads: Annotated[Count, Field(description="of them, uploads whose client waits until they are indexed")] = 96
    max_requests_bytes: Annotated[Count, Field(description="of the bodies under way, also once parsed")] = 2048 * MIB
    client_rate: Annotated[float, Field(ge=0, description="requests a second of one client; 0: without limit")] = 0.0
    client_concurrency: Annotated[Count, Field(description="requests of one client under way")] = 128
    max_streams: Annotated[Count, Field(description="event streams; they are requests under way, too")] = 100
    client_streams: Annotated[Count, Field(description="event streams of one client")] = 20
    read_timeout: Annotated[float, Field(gt=0, description="seconds that a request body may pause in all")] = 30.0
    min_body_rate: Annotated[float, Field(gt=0, description="bytes/s at which a body does not count as paused")] = (
        4096.0
    )
    max_connections: Annotated[int, Field(ge=0, description="open connections; 0: half of the open files allowed")] = 0
    keep_alive_timeout: Annotated[Count, Field(description="seconds between two requests of a connection")] = 75
    """Longer than the 60 s of common load balancers, so that the client closes idle connections first."""
    header_timeout: Annotated[float, Field(gt=0, description="seconds for the headers of a request")] = 10.0
    max_header_bytes: Annotated[Count, Field(description="request line and headers")] = 64 * 1024
    write_timeout: Annotated[float, Field(gt=0, description="seconds without a client reading its response")] = 60.0
    max_kept_answers: Annotated[Count, Field(description="to requests with an Idempotency-Key, of one client")] = (
        100_000
    )
    job_concurrency: Annotated[Count, Field(le=1000, description="files of a job that are begun and not finished")] = 8
    job_decode_threads: Annotated[
        int, Field(ge=0, le=256, description="decoding threads of a job; 0: one per core")
    ] = 0
    decoding_processes: Annotated[int, Field(ge=0, le=256, description="0: one per core and one more")] = 0
    """Media files are decoded in them; one is never given to jobs and uploads, so that searches need not wait."""
    decoding_memory_bytes: Annotated[int, Field(ge=128 * MIB, description="of one of them, for files")] = 1024 * MIB
    decoding_seconds: Annotated[float, Field(gt=0, description="of one task, and two per second of film")] = 60.0
    max_item_crashes: Annotated[Count, Field(description="deaths at one file before it is put aside")] = 3
    queue_timeout: Annotated[float, Field(gt=0, description="seconds that an interactive request may be queued")] = 1.0
    """A request that is expected to wait longer is rejected at once."""
    request_threads: Annotated[Count, Field(description="interactive requests that decode or wait for the model")] = 64
    upload_threads: Annotated[int, Field(ge=0, le=256, description="uploads indexed; 0: one per decoding process")] = 0
    write_threads: Annotated[Count, Field(description="requests that write to the catalogue or receive an upload")] = 8
    max_queue: Annotated[Count, Field(description="requests that may wait, for a thread or for the model")] = 256
    max_queue_bytes: Annotated[Count, Field(description="of what waits for the model")] = 1024 * MIB
    inference_workers: Annotated[int, Field(ge=0, le=64, description="concurrent graph runs; 0: by device")] = 0
    max_batch_size: Annotated[Count, Field(description="texts or clips in one run of a graph")] = 32
    max_batch_tokens: Annotated[Count, Field(description="text tokens in one run of a graph, padding included")] = 4096
    text_cache_bytes: Annotated[int, Field(ge=0, description="of vectors of texts, in memory; 0: none are kept")] = (
        32 * MIB
    )
    clip_cache_bytes: Annotated[int, Field(ge=0, description="of clips that were looked at, likewise")] = 64 * MIB
    request_seconds: Annotated[float, Field(gt=0, description="after which a request's answer is not wanted")] = 120.0
    io_threads: Annotated[Count, Field(description="requests that read the catalogue or files")] = 16
    shutdown_delay: Annotated[float, Field(ge=0, description="seconds between not ready and not listening")] = 1.0
    shutdown_timeout: Annotated[float, Field(ge=0, description="seconds for requests in progress and jobs")] = 20.0

    @model_validator(mode="after")
    def _has_one_admin_key(self) -> Self:
        if self.admin_key is not None and self.admin_key_file is not None:
            raise ValueError("admin_key and admin_key_file are both given; one of them was expected")
        return self

    @model_validator(mode="after")
    def _requires_signatures_by_somebody(self) -> Self:
        if self.require_signature and not self.trusted_keys:
            raise ValueError("require_signature is on and trusted_keys names none; a public key was expected")
        if self.trusted_keys and not self.require_signature:
            raise ValueError("trusted_keys are given and require_signature is off; on was expected, so that they count")
        return self

    @field_validator("allowed_urls")
    @classmethod
    def _are_urls(cls, urls: list[str]) -> list[str]:
        try:
            return [check_url("allowed_urls", url) for url in urls]
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @field_validator("vector_store")
    @classmethod
    def _is_place(cls, vectors: str) -> str:
        try:
            return check_backend(vectors)
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @field_validator("engine")
    @classmethod
    def _is_engine(cls, engine: str) -> str:
        try:
            server_url(engine)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return engine

    def pipeline_config(self) -> PipelineConfig:
        """How much an indexing job does at once."""
        given = {"decoders": self.job_decode_threads} if self.job_decode_threads else {}
        return PipelineConfig(in_flight=self.job_concurrency, **given)

    def processes(self) -> int:
        """How many processes decode media files."""
        return self.decoding_processes or (os.cpu_count() or 1) + 1

    def upload_places(self) -> tuple[int, int]:
        """How many uploads are indexed at a time while their clients wait, and how many more may wait for that."""
        workers = min(self.upload_threads or self.processes(), self.max_uploads)
        return workers, self.max_uploads - workers

    def media_limits(self) -> MediaLimits:
        """What a media file may cost before it is refused; uploads have their own limit in bytes."""
        return MediaLimits(
            max_pixels=self.max_pixels, max_seconds=self.max_video_seconds, max_frames=self.max_video_frames
        )

    def list_limits(self) -> ListLimits:
        """What one file list or shard may hold."""
        cell, expansion = self.max_list_cell_characters, self.max_list_expansion
        return ListLimits(self.max_list_rows, self.max_list_columns, cell, self.max_list_bytes, expansion)

    def access_policy(self) -> AccessPolicy:
        """What indexing jobs may read."""
        return AccessPolicy(tuple(self.roots()), tuple(self.allowed_urls), public_urls=self.url_fetch == "on")

    def url_policy(self) -> UrlPolicy:
        """What may be fetched from hosts that nobody vouched for."""
        return UrlPolicy(
            schemes=frozenset(self.url_fetch_schemes),
            ports=frozenset(self.url_fetch_ports),
            hosts=tuple(self.url_fetch_hosts),
            blocked_networks=tuple(self.url_fetch_refused),
            max_redirects=self.url_fetch_redirects,
            max_bytes=self.max_upload_bytes,
            total_timeout=self.url_fetch_seconds,
        )

    def webhook_policy(self) -> UrlPolicy:
        """Where messages may be sent, and how long one may take."""
        return UrlPolicy(
            schemes=frozenset(self.webhook_schemes),
            ports=frozenset(self.webhook_ports),
            allowed_networks=tuple(self.webhook_networks),
            hosts=tuple(self.webhook_hosts),
            response_timeout=10.0,
            total_timeout=20.0,
        )

    def roots(self) -> list[Path]:
        """The folders that indexing jobs may name; a relative name is below the first."""
        return [self.data_dir / "incoming", *self.allowed_roots]

    def bundle_folders(self) -> list[Path]:
        """The folders that bundles may be added from, at any depth; a relative name is below the first."""
        return [*([] if self.bundles_root is None else [self.bundles_root]), self.bundle, *self.bundles]

    def trusted(self) -> tuple[PublicKey, ...] | None:
        """The keys one of which must have signed a bundle, as their files are now; None where signatures are not
        required. Raises InvalidInput.
        """
        return read_public_keys(self.trusted_keys) if self.require_signature else None

    def check_reach(self) -> None:
        """Raise InvalidInput for an address that others reach while nobody is asked for a key."""
        if self.allow_unauthenticated and not is_loopback(self.host):
            raise InvalidInput(
                f"host: {self.host!r} can be reached by other machines, and allow_unauthenticated (--no-keys) is set; "
                "a loopback address such as 127.0.0.1 was expected, or that requests need a key"
            )

    def admin_digest(self) -> bytes | None:
        """Of the key that the environment gives; None without one. Raises InvalidInput for a file that holds none."""
        if self.admin_key_file is not None:
            try:
                return admin_key_digest(self.admin_key_file.read_text("utf-8").strip())
            except (OSError, ValueError, InvalidInput) as error:
                raise InvalidInput(f"admin_key_file: {str(self.admin_key_file)!r}: {error}") from error
        return None if self.admin_key is None else bytes.fromhex(self.admin_key)

    def body_limit(self, content_type: str) -> int:
        """Bytes that the body of a request may have."""
        is_form = content_type.startswith("multipart/")
        return self.max_upload_bytes + self.max_form_bytes + FORM_OVERHEAD if is_form else self.max_body_bytes


def read_settings(**given: object) -> Settings:
    """Settings from ``given``, then the environment, then the defaults. Raises InvalidInput naming each key."""
    for old, new in RENAMED.items():
        if (variable := f"VITASCOPE_{old.upper()}") in os.environ:
            raise InvalidInput(f"{variable}: renamed in version 0.3.0; VITASCOPE_{new.upper()} was expected")
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = [_told(each) for each in error.errors()]
        raise InvalidInput(f"settings (VITASCOPE_…): {'; '.join(wrong)}") from None  # the cause shows values


def _told(error: ErrorDetails) -> str:
    """Which setting is wrong, with its value unless that is a secret, and what was expected."""
    name = ".".join(map(str, error["loc"]))
    if not name:  # several settings together; their values are all of them
        return error["msg"]
    # A URL may have credentials in it by mistake; its message shows it where it has none.
    is_secret = name in ("admin_key", "vector_store", "engine")
    return f"{name}: {error['msg']}" if is_secret else f"{name}: {error['input']!r}: {error['msg']}"
