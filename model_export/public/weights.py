"""Weights of public models: safe reading, strict checks, and mapping to the names of our modules."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from model_export.assemble import ANSWERS_NAME, read_json
from vitascope.errors import InvalidInput

Weights = Mapping[str, Tensor]
"""Tensors by name in the file."""

PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth")
HEAD_WIDTH = 64
"""Width of an attention head in CLIP's ViT-B and ViT-L and in BERT. It cannot be derived from shapes of weights."""
HEADS_NOTE = "The {part} has {heads} heads of {width}: a guess; all published configurations have that."
LAYER_INDEX = "{n}"
"""Placeholder in rules for the index of a layer or block, which is the same in the module and in the file."""
_MAX_LISTED = 12
"""Maximum number of keys that an error lists."""
_STATE_DICT_KEYS = ("state_dict", "model_state_dict")
"""Keys of the weights in training checkpoints."""
_PARALLEL_PREFIX = "module."
"""Prefix of all names in checkpoints of `DataParallel` models."""
_BATCH_COUNTER = ".num_batches_tracked"
"""Suffix of unused batch norm counters."""
_POSITION_IDS = "position_ids"
"""Suffix of constant buffers that older versions of transformers stored with the weights."""
_VOCABULARY = "a JSON list in the order of the classifier, or an object {answer: index}, was expected"
_RESNETS: dict[tuple[int, ...], dict[bool, str]] = {
    (2, 2, 2, 2): {False: "resnet18"},
    (3, 4, 6, 3): {False: "resnet34", True: "resnet50"},
    (3, 4, 23, 3): {True: "resnet101"},
    (3, 8, 36, 3): {True: "resnet152"},
}
"""timm's names of ResNets by numbers of blocks in the four stages, and by whether a block has three convolutions."""


def load_model(model_class: Any, folder: Path, *, allow_pickle: bool, config: Any = None) -> Any:
    """Load a transformers model in float32 and evaluation mode.

    Args:
        model_class: Class of transformers.
        folder: Folder of the model.
        allow_pickle: Whether weights may be pickles. They are loaded with `weights_only=True`, which runs no code.
        config: Configuration; None: that of the folder.

    Raises:
        InvalidInput: Weights are missing, unexpected, mismatched or unreadable, or are pickles that are not allowed.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    is_pickle = has_pickled_weights(folder, allow_pickle=allow_pickle)
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=not is_pickle,
            weights_only=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise _read_error(folder, error) from error
    mismatched = {key if isinstance(key, str) else str(key[0]) for key in report["mismatched_keys"]}
    check_keys(folder, set(report["missing_keys"]) - mismatched, report["unexpected_keys"], mismatched)
    return model.eval()


def has_pickled_weights(folder: Path, *, allow_pickle: bool) -> bool:
    """Return whether the weights of a folder are pickles.

    Raises:
        InvalidInput: Pickles are not allowed, or the folder has no weights.
    """
    if list(folder.glob("*.safetensors")):
        return False
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if not pickles:
        raise InvalidInput(f"model: {folder} has no weights; *.safetensors was expected")
    if not allow_pickle:
        raise InvalidInput(
            f"model: {folder} has its weights as {', '.join(pickles)}, which are pickles; *.safetensors was expected, "
            "or --allow-pickle if you trust their source"
        )
    return True


def check_keys(where: Path, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = ()) -> None:
    """Check that no weights are missing, unexpected or mismatched. Position ids are ignored.

    Raises:
        InvalidInput: Lists these weights.
    """
    parts = []
    for problem, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched)):
        relevant = sorted(key for key in keys if not key.endswith(_POSITION_IDS))
        if relevant:
            more = f" and {len(relevant) - _MAX_LISTED} more" if len(relevant) > _MAX_LISTED else ""
            parts.append(f"{len(relevant)} {problem}: {', '.join(relevant[:_MAX_LISTED])}{more}")
    if parts:
        raise InvalidInput(f"model: {where}: weights do not fit the configuration: {'; '.join(parts)}")


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files, or its pickles if there are none."""
    safe = sorted(folder.glob("*.safetensors"))
    return safe or sorted(path for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))


def read_weight_names(file: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file, of which only the header is read.

    Raises:
        InvalidInput: The file cannot be read.
    """
    try:
        with safe_open(file, "pt") as opened:
            return [name.removeprefix(_PARALLEL_PREFIX) for name in opened.keys()]  # noqa: SIM118 - not a dict
    except Exception as error:  # the library's error types differ by version
        raise _read_error(file, error) from error


def read_weights(folder: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Read the tensors of the folder's only file of weights.

    Args:
        folder: Folder of the model.
        allow_pickle: Whether the file may be a pickle. It is loaded with `weights_only=True`, which runs no code.

    Returns:
        Tensors by name, without the prefix "module.".

    Raises:
        InvalidInput: There is no file or more than one, it is a pickle that is not allowed, it cannot be read, or it
            does not contain tensors by name.
    """
    has_pickled_weights(folder, allow_pickle=allow_pickle)
    files = weight_files(folder)
    if len(files) != 1:
        raise InvalidInput(f"model: {folder} has weights in {[path.name for path in files]}; one file was expected")
    (file,) = files
    try:
        content: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise various errors
        raise _read_error(file, error) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _STATE_DICT_KEYS if key in content), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InvalidInput(
            f"model: {file} holds {_describe(content)}; tensors by name were expected, at the top level or under "
            f"{' or '.join(_STATE_DICT_KEYS)}"
        )
    return {str(name).removeprefix(_PARALLEL_PREFIX): values for name, values in content.items()}


def _read_error(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(f"model: {path}: its weights cannot be read: {first_line(error)}")


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    other = sorted(str(name) for name, value in content.items() if not isinstance(value, Tensor))
    return f"{len(content)} entries, {', '.join(other[:5]) or 'none'} not tensors"


@dataclass(frozen=True)
class Layout:
    """Mapping from the names of a module's tensors to names in the file.

    Attributes:
        rules: (prefix of names in the module, prefix of names in the file). The first rule that matches is applied.
            A prefix consists of whole parts of a name between dots.
        unused: (prefix of names in the file, reason why no graph uses these tensors).
    """

    rules: Sequence[tuple[str, str]]
    unused: Sequence[tuple[str, str]] = ()

    def name_in_file(self, name: str) -> str:
        """Return the name in the file of a module's tensor.

        Raises:
            LookupError: No rule matches.
        """
        for own_prefix, file_prefix in self.rules:
            pattern = re.escape(own_prefix).replace(re.escape(LAYER_INDEX), r"(\d+)")
            if match := re.match(rf"{pattern}(?=\.|$)", name):
                index = match[1] if match.groups() else ""
                return file_prefix.replace(LAYER_INDEX, index) + name[match.end() :]
        raise LookupError(f"{name}: no rule of the layout matches")

    def reason_unused(self, name: str) -> str | None:
        """Return why no graph uses a tensor of the file; None if a graph should use it.

        The reason is "" for counters and position ids, which need no note.
        """
        if name.endswith((_BATCH_COUNTER, _POSITION_IDS)):
            return ""
        for prefix, reason in self.unused:
            pattern = re.escape(prefix).replace(re.escape(LAYER_INDEX), r"\d+")
            if re.match(rf"{pattern}(?=\.|$)", name):
                return reason
        return None


def load_weights(folder: Path, module: nn.Module, weights: Weights, layout: Layout) -> list[str]:
    """Load all weights of a module from a file in float32, and put the module in evaluation mode.

    Args:
        folder: Folder of the file, for errors.
        module: Module to load the weights into.
        weights: Tensors of the file.
        layout: Mapping from the module's names to the file's.

    Returns:
        Notes on unused tensors, one per reason.

    Raises:
        InvalidInput: Tensors are missing, unexpected or of another shape; they are listed by their names in the file.
    """
    own = {name: values for name, values in module.state_dict().items() if not name.endswith(_BATCH_COUNTER)}
    file_names = {name: layout.name_in_file(name) for name in own}
    missing = [name for name in file_names.values() if name not in weights]
    reasons = {name: layout.reason_unused(name) for name in sorted(set(weights) - set(file_names.values()))}
    unexpected = [name for name, reason in reasons.items() if reason is None]
    loaded, mismatched = {}, []
    for name, file_name in file_names.items():
        if file_name in weights:
            values = _fit(weights[file_name], own[name])
            if values is None:
                shapes = tuple(weights[file_name].shape), tuple(own[name].shape)
                mismatched.append(f"{file_name} {shapes[0]} instead of {shapes[1]}")
            else:
                loaded[name] = values
    check_keys(folder, missing, unexpected, mismatched)
    module.load_state_dict(loaded, strict=False)
    module.eval()
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            by_reason.setdefault(reason, []).append(name)
    return [f"Not used: {len(names)} tensors, {names[0]} first. {reason}" for reason, names in by_reason.items()]


def _fit(values: Tensor, target: Tensor) -> Tensor | None:
    """Convert values to the target's shape and type; None if the shapes differ. A 1x1 kernel fits a linear layer."""
    if values.shape == (*target.shape, 1, 1):
        values = values.reshape(target.shape)
    if values.shape != target.shape:
        return None
    return values.to(torch.float32) if target.is_floating_point() else values


def size_of(folder: Path, weights: Weights, name: str, axis: int) -> int:
    """Return the size of a tensor along an axis.

    Raises:
        InvalidInput: The tensor or the axis is missing.
    """
    if name not in weights:
        check_keys(folder, [name], ())
    shape = tuple(weights[name].shape)
    if not -len(shape) <= axis < len(shape):
        raise InvalidInput(f"model: {folder}: {name} has the shape {shape}; one with an axis {axis} was expected")
    return int(shape[axis])


def count_layers(weights: Weights, prefix: str) -> int:
    """Return the number of layers `prefix.0`, `prefix.1`, … by the highest index; gaps are found when loading."""
    matches = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in weights]
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def guess_heads(folder: Path, part: str, width: int) -> tuple[int, str]:
    """Return the number of attention heads, assuming that each is `HEAD_WIDTH` wide, and a note about that.

    Args:
        folder: Folder of the model, for errors.
        part: Name of the part of the model, for errors and the note.
        width: Width of the part.

    Raises:
        InvalidInput: The width is not a multiple of `HEAD_WIDTH`.
    """
    if width % HEAD_WIDTH:
        raise InvalidInput(
            f"model: {folder}: the {part} is {width} wide; a multiple of {HEAD_WIDTH}, the width of an attention head, "
            "was expected"
        )
    heads = width // HEAD_WIDTH
    return heads, HEADS_NOTE.format(part=part, heads=heads, width=HEAD_WIDTH)


def detect_resnet(folder: Path, weights: Weights, prefix: str) -> str:
    """Return timm's name of the ResNet whose weights are under `prefix`.

    Raises:
        InvalidInput: The numbers of blocks are those of no known ResNet.
    """
    blocks = tuple(count_layers(weights, f"{prefix}.layer{stage}") for stage in (1, 2, 3, 4))
    bottleneck = f"{prefix}.layer1.0.conv3.weight" in weights
    name = _RESNETS.get(blocks, {}).get(bottleneck)
    if name is None:
        raise InvalidInput(
            f"model: {folder}: {prefix} has {blocks} blocks in its four stages, {'three' if bottleneck else 'two'} "
            "convolutions each; a ResNet of 18, 34, 50, 101 or 152 layers was expected"
        )
    return name


def resnet_rules(own_prefix: str, file_prefix: str) -> list[tuple[str, str]]:
    """Return the rules that map the names in `training.models.convolution.ConvEncoder` to those of a ResNet."""
    return [
        (f"{own_prefix}.stages.0.0", f"{file_prefix}.conv1"),
        (f"{own_prefix}.stages.0.1", f"{file_prefix}.bn1"),
        (f"{own_prefix}.stages.1.1", f"{file_prefix}.layer1"),
        (f"{own_prefix}.stages.2.0", f"{file_prefix}.layer2"),
        (f"{own_prefix}.stages.3.0", f"{file_prefix}.layer3"),
        (f"{own_prefix}.stages.4.0", f"{file_prefix}.layer4"),
    ]


def read_vocabulary(folder: Path, count: int) -> list[str]:
    """Read the answers of a released classifier from the folder's answers.json.

    Args:
        folder: Folder of the model.
        count: Number of outputs of the classifier.

    Returns:
        The answers, in the order of the outputs.

    Raises:
        InvalidInput: The file is missing, or does not name each output once.
    """
    path = folder / ANSWERS_NAME
    if not path.is_file():
        raise InvalidInput(
            f"model: {folder} has no {ANSWERS_NAME}; {_VOCABULARY} beside the weights, which classify into {count} "
            "answers without naming them"
        )
    content = read_json("model", path, _VOCABULARY)
    answers = _order_by_index(content) if isinstance(content, Mapping) else content
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer for answer in answers):
        raise InvalidInput(f"model: {path}: {_VOCABULARY}, each index from 0 once")
    if len(answers) != count:
        raise InvalidInput(f"model: {path} has {len(answers)} answers; {count} were expected, as in the classifier")
    return answers


def _order_by_index(indices: Mapping[str, Any]) -> list[str] | None:
    """Return the answers by index; None if an index is missing or repeated."""
    if not all(type(index) is int for index in indices.values()):
        return None
    if sorted(indices.values()) != list(range(len(indices))):
        return None
    return sorted(indices, key=lambda answer: int(indices[answer]))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]
