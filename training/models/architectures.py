"""The registry of architectures: `hd-vila`, `soho` and `visual-parsing`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from training.models import hd_vila, soho, visual_parsing
from training.models.config import FusedConfig
from training.models.fusion import FusedModel
from vitascope.errors import InvalidInput
from vitascope.text_format import format_validation_error


@dataclass(frozen=True)
class Architecture:
    """Configuration and model of one architecture, and its sizes, each a function of the number of answers."""

    config: type[FusedConfig]
    model: Callable[[Any], FusedModel]
    sizes: Mapping[str, Callable[[int], FusedConfig]]


ARCHITECTURES: Mapping[str, Architecture] = {
    "hd-vila": Architecture(hd_vila.HdVilaConfig, hd_vila.HdVila, {"tiny": hd_vila.tiny, "base": hd_vila.base}),
    "soho": Architecture(soho.SohoConfig, soho.Soho, {"tiny": soho.tiny, "base": soho.base}),
    "visual-parsing": Architecture(
        visual_parsing.VisualParsingConfig,
        visual_parsing.VisualParsing,
        {"tiny": visual_parsing.tiny, "base": visual_parsing.base},
    ),
}


def read_config(values: Mapping[str, Any]) -> FusedConfig:
    """Parse a stored configuration. Without the key `system` the architecture is `hd-vila`.

    Raises InvalidInput where the architecture is unknown or a field is wrong.
    """
    name = values.get("system", "hd-vila")
    if name not in ARCHITECTURES:
        raise InvalidInput(f"system: {name!r}; one of {sorted(ARCHITECTURES)} was expected")
    try:
        return ARCHITECTURES[name].config.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"model: {format_validation_error(error)}") from error


def build(config: FusedConfig) -> FusedModel:
    """Build a model with weights initialized from torch's generator."""
    return ARCHITECTURES[config.system].model(config)
