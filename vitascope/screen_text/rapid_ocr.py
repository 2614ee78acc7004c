"""Text reader with RapidOCR and PP-OCR models, in ONNX Runtime sessions with this project's settings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitascope.engines.onnx_runtime import Device, OnnxRuntimeEngine
from vitascope.errors import EngineError, InvalidInput
from vitascope.extras import missing_package_message
from vitascope.media.frame import Pixels
from vitascope.screen_text.interface import Box, TextLine
from vitascope.screen_text.text import clean_text, script_of

DETECTION_SIDE = 736
"""Default length, in pixels, of the longer side of the picture in which lines are detected."""
MAX_LINES = 200
"""Maximum number of lines per frame that are recognised: the lines with the largest letters."""
MIN_CONFIDENCE = 0.75
"""Default minimum confidence of a line."""
_LINES_PER_BATCH = 6
_MAX_PIXEL_CHANGE = 24
"""Maximum change, of 255, of the mean of a small patch of a line that compression alone can cause."""
_PATCH = 4
"""Side of such a patch, in pixels."""
_EDGE_TOLERANCE = 0.25
"""Maximum difference of the edges of equal boxes, as a fraction of the height of the line."""

_logger = logging.getLogger(__name__)
Corners = NDArray[np.float32]
"""(4, 2): x and y in pixels of the corners of a line, clockwise from the upper left."""


@dataclass(frozen=True, slots=True)
class OcrModels:
    """The files of a detection and a recognition model."""

    name: str
    detection: Path
    recognition: Path
    characters: Path | None
    """Dictionary with one character per line; None if the recognition graph contains its dictionary."""


class _ReadLine(NamedTuple):
    """A line of the last frame, which is reused without recognition if it looks the same in the next frame."""

    corners: Corners
    crop: Pixels
    text: str
    confidence: float


class RapidOcrReader:
    """Reads the lines of frames; a line that looks the same as in the previous frame is not recognised again."""

    def __init__(
        self,
        models: OcrModels,
        *,
        threads: int = 0,
        device: Device = "auto",
        detection_side: int = DETECTION_SIDE,
    ) -> None:
        """Load the models.

        Args:
            models: Files of the models.
            threads: Threads within an operator; 0: one per core.
            device: As in ``OnnxRuntimeEngine``.
            detection_side: Lines are detected in frames whose longer side is scaled down to this many pixels; they are
                recognised at full resolution.

        Raises:
            InvalidInput: A value is out of range, a file is no model of this kind, or RapidOCR is not installed.
            EngineError: The device cannot be used.
        """
        if not 32 <= detection_side <= 4096:
            raise InvalidInput(f"detection_side: {detection_side}; 32 to 4096 pixels were expected")
        self.name = models.name
        self._detector, self._recognizer = _load(models, threads, device, detection_side)
        self._last: list[_ReadLine] = []
        self._last_shape: tuple[int, ...] = ()

    def read(self, frame: Pixels) -> list[TextLine]:
        """Return the lines of a frame (H, W, 3) uint8 RGB, from top to bottom. Raises EngineError."""
        image = np.ascontiguousarray(frame[:, :, ::-1])  # the library works on BGR
        try:
            lines = self._read_lines(image)
        except Exception as error:  # the library's and OpenCV's errors share no base but Exception
            raise EngineError(f"{self.name}: failed on a frame of shape {frame.shape}: {error}") from error
        self._last, self._last_shape = lines, image.shape
        return [
            TextLine(line.text, _box(line.corners, image), line.confidence, script_of(line.text))
            for line in lines
            if line.text and line.confidence >= MIN_CONFIDENCE
        ]

    def _read_lines(self, image: Pixels) -> list[_ReadLine]:
        from rapidocr.utils.process_img import get_rotate_crop_image

        boxes = self._detector(image).boxes
        corners: list[Corners] = [] if boxes is None else list(np.asarray(boxes, np.float32))
        if len(corners) > MAX_LINES:
            _logger.warning(
                "%d lines of text in a frame; the %d with the largest letters are read", len(corners), MAX_LINES
            )
            smallest_first = sorted(range(len(corners)), key=lambda index: _line_height(corners[index]))
            corners = [corners[index] for index in sorted(smallest_first[-MAX_LINES:])]
        unchanged = self._unchanged_lines(image)
        lines = [next((line for line in unchanged if _is_same_box(line.corners, box)), None) for box in corners]
        new = [index for index, line in enumerate(lines) if line is None]
        if new:
            crops = [get_rotate_crop_image(image, corners[index].copy()) for index in new]
            for index, crop, (text, confidence) in zip(new, crops, self._recognize(crops), strict=True):
                lines[index] = _ReadLine(corners[index], crop, text, confidence)
        return [line for line in lines if line is not None]

    def _unchanged_lines(self, image: Pixels) -> list[_ReadLine]:
        """Return the lines of the last frame whose places look the same in this frame."""
        from rapidocr.utils.process_img import get_rotate_crop_image

        if image.shape != self._last_shape:
            return []
        crops = (get_rotate_crop_image(image, line.corners.copy()) for line in self._last)
        return [line for line, crop in zip(self._last, crops, strict=True) if _is_same_picture(line.crop, crop)]

    def _recognize(self, crops: list[Pixels]) -> list[tuple[str, float]]:
        from rapidocr.ch_ppocr_rec.typings import TextRecInput

        result = self._recognizer(TextRecInput(img=crops))
        return [(clean_text(text), float(score)) for text, score in zip(result.txts or (), result.scores, strict=True)]


def wheel_models() -> OcrModels:
    """Return the models in RapidOCR's wheel. Raises InvalidInput if it is not installed."""
    folder = _library_folder() / "models"
    recognition = _model_file(folder, "rec")
    return OcrModels(f"rapidocr/{recognition.stem}", _model_file(folder, "det"), recognition, None)


def folder_models(folder: Path) -> OcrModels:
    """Return the models in a folder: ``*rec*.onnx``, and if present ``*det*.onnx`` and a dictionary ``*.txt``.

    Without a detection model, that of RapidOCR's wheel is used, which detects lines of every script.

    Raises InvalidInput.
    """
    if not folder.is_dir():
        raise InvalidInput(f"model: {str(folder)!r}; 'rapidocr' or a folder with a PP-OCR model was expected")
    has_detection = any(folder.glob("*det*.onnx"))
    detection = _model_file(folder, "det") if has_detection else wheel_models().detection
    dictionaries = sorted(folder.glob("*.txt"))
    if len(dictionaries) > 1:
        names = ", ".join(path.name for path in dictionaries)
        raise InvalidInput(f"{folder}: {names}; one dictionary (*.txt) at most was expected")
    recognition = _model_file(folder, "rec")
    return OcrModels(f"rapidocr/{folder.resolve().name}", detection, recognition, next(iter(dictionaries), None))


def _model_file(folder: Path, kind: str) -> Path:
    files = sorted(folder.glob(f"*{kind}*.onnx"))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "no such file"
        raise InvalidInput(f"{folder}: {names}; exactly one *{kind}*.onnx was expected")
    return files[0]


def _library_folder() -> Path:
    try:
        import rapidocr
    except ModuleNotFoundError as error:
        raise InvalidInput(missing_package_message("rapidocr", "reading text on screen")) from error
    return Path(rapidocr.__file__).parent


def _load(models: OcrModels, threads: int, device: Device, detection_side: int) -> tuple[Any, Any]:
    """Return the library's detector and recogniser with our own sessions, so that it never downloads a model."""
    _library_folder()
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    from rapidocr import RapidOCR
    from rapidocr.ch_ppocr_det import TextDetector
    from rapidocr.ch_ppocr_rec import TextRecognizer

    detection = OnnxRuntimeEngine(models.detection, threads, device).session
    recognition = OnnxRuntimeEngine(models.recognition, threads, device).session
    characters = _characters(models, recognition)
    parameters = {
        "Global.log_level": "error",
        "Det.limit_type": "max",
        "Det.limit_side_len": detection_side,
        "Rec.rec_batch_num": _LINES_PER_BATCH,
        "Rec.font_path": None,
        "Rec.rec_keys_path": None if models.characters is None else str(models.characters),
    }
    if any("\u0620" <= character <= "\u064a" for character in characters):
        parameters["Rec.lang_type"] = "arabic"  # such a model reads from left to right; the library reorders
    config = RapidOCR(params=parameters).cfg
    config._set_flag("allow_objects", True)  # which sessions are
    config.Det.session, config.Rec.session = detection, recognition
    try:
        return TextDetector(config.Det), TextRecognizer(config.Rec)
    except ModuleNotFoundError as error:
        raise InvalidInput(f"{models.recognition}: {error}") from error


def _characters(models: OcrModels, session: Any) -> list[str]:
    """Return the characters that a recognition model can output. Raises InvalidInput."""
    metadata = session.get_modelmeta().custom_metadata_map.get("character")
    if metadata is None and models.characters is None:
        raise InvalidInput(
            f"{models.recognition}: the graph has no 'character' in its metadata; a dictionary (*.txt) was expected "
            "in its folder"
        )
    try:
        text = metadata if metadata is not None else models.characters.read_text("utf-8")  # type: ignore[union-attr]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{models.characters}: {error}; a dictionary in UTF-8 was expected") from error
    characters: list[str] = text.splitlines()
    shape = session.get_outputs()[0].shape
    classes = shape[-1] if shape else None
    if len(shape or ()) != 3 or (isinstance(classes, int) and classes != len(characters) + 2):
        raise InvalidInput(
            f"{models.recognition}: outputs of shape {shape}; a recognition model with (lines, steps, "
            f"{len(characters) + 2}) was expected: {len(characters)} characters, a space and a blank"
        )
    return characters


def _line_height(corners: Corners) -> float:
    return float(np.linalg.norm(corners[3] - corners[0]))


def _is_same_box(before: Corners, after: Corners) -> bool:
    return float(np.abs(after - before).max()) <= max(2.0, _EDGE_TOLERANCE * _line_height(before))


def _is_same_picture(before: Pixels, after: Pixels) -> bool:
    """Return whether two crops of equal shape differ by no more than compression changes."""
    height, width = (size // _PATCH * _PATCH for size in before.shape[:2])
    if before.shape != after.shape or not height or not width:
        return False
    difference = after[:height, :width].astype(np.float32) - before[:height, :width]
    patches = difference.reshape(height // _PATCH, _PATCH, width // _PATCH, _PATCH, -1).mean(axis=(1, 3))
    return float(np.abs(patches).max()) <= _MAX_PIXEL_CHANGE


def _box(corners: Corners, image: Pixels) -> Box:
    height, width = image.shape[:2]
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    shares = np.clip([left / width, top / height, right / width, bottom / height], 0, 1)
    return (float(shares[0]), float(shares[1]), float(shares[2]), float(shares[3]))
