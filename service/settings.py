"""Settings of the service, read from environment variables ``VITASCOPE_<NAME>``. Lists are written as JSON."""

from __future__ import annotations

import os
import shlex
from ipaddress import ip_network
from pathlib import Path
from typing import Self

from pydantic import ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from index.jobs.pipeline import PipelineConfig
from index.jobs.sources.access_policy import AccessPolicy, check_url, expand_home
from index.jobs.sources.list_limits import ListLimits
from index.vectors.interface import check_backend
from service.http.api_keys import admin_key_digest
from service.http_client.url_policy import UrlPolicy
from service.settings_sections import (
    AccessSettings,
    BasicSettings,
    ConcurrencySettings,
    ConnectionSettings,
    InferenceSettings,
    MediaSettings,
    MonitoringSettings,
    RecognitionSettings,
    RequestSettings,
    UrlFetchSettings,
    WebhookSettings,
)
from vitascope.bundle.signing import PublicKey, read_public_keys
from vitascope.errors import InvalidInput
from vitascope.integrations.kserve import server_url
from vitascope.media.limits import MediaLimits
from vitascope.network import is_loopback
from vitascope.sandbox.recognition import RecognitionKind

FORM_OVERHEAD = 512 * 1024
"""Bytes that are allowed for the part boundaries and headers of a multipart form."""

RENAMED = {
    "answer_idle_seconds": "write_timeout",
    "batch_rows": "max_batch_size",
    "batch_tokens": "max_batch_tokens",
    "body_idle_seconds": "read_timeout",
    "body_rate": "min_body_rate",
    "decoders": "job_decode_threads",
    "decoding_memory_bytes": "decode_memory_bytes",
    "decoding_processes": "decode_processes",
    "decoding_seconds": "decode_timeout",
    "drain_seconds": "shutdown_delay",
    "files_in_flight": "job_concurrency",
    "head_seconds": "header_timeout",
    "keep_alive_seconds": "keep_alive_timeout",
    "lanes": "inference_workers",
    "max_head_bytes": "max_header_bytes",
    "max_kept_answers": "max_idempotency_keys",
    "max_upload_bytes": "max_video_bytes",
    "max_waiting": "max_queue",
    "max_waiting_bytes": "max_queue_bytes",
    "metrics_without_key": "public_metrics",
    "queue_seconds": "queue_timeout",
    "readers": "io_threads",
    "request_seconds": "request_timeout",
    "shutdown_seconds": "shutdown_timeout",
    "thumbnail_side": "thumbnail_size",
    "upload_workers": "upload_threads",
    "url_fetch_redirects": "url_fetch_max_redirects",
    "url_fetch_refused": "url_fetch_blocked_networks",
    "url_fetch_seconds": "url_fetch_timeout",
    "vectors": "vector_store",
    "workers": "request_threads",
    "writers": "write_threads",
}
"""Names of settings in version 0.2 and their new names. Old variables are errors, as they would be silently ignored."""


class Settings(
    BasicSettings,
    AccessSettings,
    UrlFetchSettings,
    WebhookSettings,
    RequestSettings,
    MediaSettings,
    ConcurrencySettings,
    ConnectionSettings,
    InferenceSettings,
    RecognitionSettings,
    MonitoringSettings,
):
    """All settings of the service. Sizes are bytes, times are seconds."""

    @model_validator(mode="after")
    def _has_one_admin_key(self) -> Self:
        if self.admin_key is not None and self.admin_key_file is not None:
            raise ValueError("admin_key and admin_key_file are both set; one of them was expected")
        return self

    @model_validator(mode="after")
    def _has_keys_for_signatures(self) -> Self:
        if self.require_signature and not self.trusted_keys:
            raise ValueError("require_signature is set and trusted_keys is empty; a public key was expected")
        if self.trusted_keys and not self.require_signature:
            raise ValueError("trusted_keys is set and require_signature is not; require_signature was expected")
        return self

    @model_validator(mode="after")
    def _has_two_ports(self) -> Self:
        if self.health_port and self.health_port == self.port:
            raise ValueError(f"health_port and port are both {self.port}; another port, or 0, was expected")
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: list[str]) -> list[str]:
        if proxies != ["*"]:
            for each in proxies:
                ip_network(each)  # raises ValueError
        return proxies

    @field_validator("allowed_roots")
    @classmethod
    def _expand_home(cls, roots: list[Path]) -> list[Path]:
        return [Path(expand_home(str(root))) for root in roots]

    @field_validator("allowed_urls")
    @classmethod
    def _check_urls(cls, urls: list[str]) -> list[str]:
        try:
            return [check_url("allowed_urls", url) for url in urls]
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @field_validator("vector_store")
    @classmethod
    def _check_vector_store(cls, value: str) -> str:
        try:
            return check_backend(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, value: str) -> str:
        try:
            server_url(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return value

    def pipeline_config(self) -> PipelineConfig:
        """Return the concurrency of indexing jobs."""
        decoders = {"decoders": self.job_decode_threads} if self.job_decode_threads else {}
        return PipelineConfig(in_flight=self.job_concurrency, **decoders)

    def recognizers(self) -> dict[RecognitionKind, str]:
        """Return the models of the recognisers by kind."""
        models: dict[RecognitionKind, str | None] = {"speech": self.speech_model, "screen_text": self.text_reader}
        return {kind: model for kind, model in models.items() if model}

    def decode_process_count(self) -> int:
        """Return the number of decoding processes."""
        return self.decode_processes or (os.cpu_count() or 1) + 1

    def upload_pool_size(self) -> tuple[int, int]:
        """Return how many uploads are indexed concurrently, and how many more may be queued."""
        workers = min(self.upload_threads or max(1, (os.cpu_count() or 1) - 1), self.max_uploads)
        return workers, self.max_uploads - workers

    def media_limits(self) -> MediaLimits:
        """Return the limits of a media file."""
        return MediaLimits(
            max_bytes=self.max_video_bytes,
            max_pixels=self.max_pixels,
            max_seconds=self.max_video_seconds,
            max_frames=self.max_video_frames,
        )

    def list_limits(self) -> ListLimits:
        """Return the limits of a file list or shard."""
        cell, expansion = self.max_list_cell_characters, self.max_list_expansion
        return ListLimits(self.max_list_rows, self.max_list_columns, cell, self.max_list_bytes, expansion)

    def access_policy(self) -> AccessPolicy:
        """Return the policy for the files and URLs that indexing jobs may read."""
        return AccessPolicy(tuple(self.roots()), tuple(self.allowed_urls), public_urls=self.url_fetch == "on")

    def url_policy(self) -> UrlPolicy:
        """Return the policy for downloads from public URLs."""
        return UrlPolicy(
            schemes=frozenset(self.url_fetch_schemes),
            ports=frozenset(self.url_fetch_ports),
            hosts=tuple(self.url_fetch_hosts),
            blocked_networks=tuple(self.url_fetch_blocked_networks),
            max_redirects=self.url_fetch_max_redirects,
            max_bytes=self.max_video_bytes,
            total_timeout=self.url_fetch_timeout,
        )

    def webhook_policy(self) -> UrlPolicy:
        """Return the policy for the URLs of webhooks."""
        return UrlPolicy(
            schemes=frozenset(self.webhook_schemes),
            ports=frozenset(self.webhook_ports),
            allowed_networks=tuple(self.webhook_networks),
            hosts=tuple(self.webhook_hosts),
            response_timeout=10.0,
            total_timeout=20.0,
        )

    def roots(self) -> list[Path]:
        """Return the folders that jobs may index. Relative paths are resolved in the first one."""
        is_unrestricted = self.allow_unauthenticated and not self.allowed_roots
        return [self.data_dir / "incoming", *([Path("/")] if is_unrestricted else self.allowed_roots)]

    def serve_command(self, root: Path) -> str:
        """Return the command line that starts a service with these settings, and with ``root`` as an allowed folder."""
        defaults = Settings.model_fields
        words = ["vitascope", "serve", *(["--no-keys"] if self.allow_unauthenticated else [])]
        for option, name in (("--host", "host"), ("--port", "port"), ("--data", "data_dir"), ("--bundle", "bundle")):
            if (value := getattr(self, name)) != defaults[name].get_default(call_default_factory=True):
                words += [option, str(value)]
        for folder in (*self.allowed_roots, root):
            words += ["--root", str(folder)]
        return shlex.join(words)

    def bundle_folders(self) -> list[Path]:
        """Return the folders from which bundles may be added. Relative paths are resolved in the first one."""
        return [*([] if self.bundles_root is None else [self.bundles_root]), self.bundle, *self.bundles]

    def read_trusted_keys(self) -> tuple[PublicKey, ...] | None:
        """Read the public keys, one of which must have signed each bundle; None if no signature is required.

        Raises InvalidInput if a file is not a public key.
        """
        return read_public_keys(self.trusted_keys) if self.require_signature else None

    def check_exposure(self) -> None:
        """Raise InvalidInput if other machines could reach the service without an API key."""
        if self.allow_unauthenticated and not is_loopback(self.host):
            raise InvalidInput(
                f"host: {self.host!r} can be reached by other machines, and allow_unauthenticated (--no-keys) is set; "
                "a loopback address such as 127.0.0.1 was expected, or required keys"
            )

    def admin_digest(self) -> bytes | None:
        """Return the SHA-256 of the admin key, or None if there is none. Raises InvalidInput for an invalid file."""
        if self.admin_key_file is not None:
            try:
                return admin_key_digest(self.admin_key_file.read_text("utf-8").strip())
            except (OSError, ValueError, InvalidInput) as error:
                raise InvalidInput(f"admin_key_file: {str(self.admin_key_file)!r}: {error}") from error
        return None if self.admin_key is None else bytes.fromhex(self.admin_key)

    @staticmethod
    def body_limit_setting(content_type: str) -> str:
        """Return the environment variable that limits request bodies of this content type."""
        return f"VITASCOPE_MAX_{'VIDEO' if is_multipart(content_type) else 'BODY'}_BYTES"

    def body_limit(self, content_type: str) -> int:
        """Return the maximum size in bytes of a request body with this content type."""
        if is_multipart(content_type):
            return self.max_video_bytes + self.max_form_bytes + FORM_OVERHEAD
        return self.max_body_bytes


def is_multipart(content_type: str) -> bool:
    """Return whether a ``Content-Type`` is that of a form with files."""
    return content_type.strip().lower().startswith("multipart/")


LIST_EXPECTED = 'a JSON list such as ["/videos"] or [443] was expected'


def read_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; ``overrides`` take precedence.

    Raises InvalidInput that names each invalid setting.
    """
    for old, new in RENAMED.items():
        if (variable := f"VITASCOPE_{old.upper()}") in os.environ:
            raise InvalidInput(f"{variable}: renamed; VITASCOPE_{new.upper()} was expected")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_describe(each) for each in error.errors()]
        raise InvalidInput(f"settings (VITASCOPE_…): {'; '.join(problems)}") from None  # the cause shows values
    except SettingsError as error:  # a list that is not JSON; the message has the name of its setting in quotes
        variable = "VITASCOPE_" + str(error).split('"')[1].upper()
        value = next((value for name, value in os.environ.items() if name.upper() == variable), None)
        raise InvalidInput(f"{variable}: {value!r}: {LIST_EXPECTED}") from None


def _describe(error: ErrorDetails) -> str:
    """Return the name of an invalid setting, its value unless it may be a secret, and the expected value."""
    name, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    if not name:  # a check of several settings; its input, all settings, is not shown
        return message
    if error["type"] in ("list_type", "set_type"):
        return f"VITASCOPE_{name.upper()}: {error['input']!r}: {LIST_EXPECTED}"
    # A URL may contain credentials by mistake; its own message shows it if it does not.
    is_secret = name in ("admin_key", "vector_store", "engine", "otlp_endpoint")
    return f"{name}: {message}" if is_secret else f"{name}: {error['input']!r}: {message}"
