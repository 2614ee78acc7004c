"""Frames are upright, in the right colours, on white, and of the requested size."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.media_files import counter_frame, solid, write_animation, write_picture, write_video
from vitascope.errors import MediaTooLarge
from vitascope.media.decode import probe, read_frames
from vitascope.media.frame import (
    Frame,
    Pixels,
    mirrored_middle,
    pad_top_left,
    resize_to_fit,
    top_left_size,
    with_resampling,
)
from vitascope.media.image import PictureFrame
from vitascope.media.limits import MediaLimits
from vitascope.media.sampling import StreamSpec, sample_streams

RED, GREEN, BLUE, WHITE = (230, 20, 30), (20, 200, 40), (30, 40, 220), (255, 255, 255)


def quarters(width: int = 96, height: int = 64) -> Pixels:
    """Red, green over blue, white."""
    frame = np.empty((height, width, 3), np.uint8)
    half_y, half_x = height // 2, width // 2
    frame[:half_y, :half_x], frame[:half_y, half_x:] = RED, GREEN
    frame[half_y:, :half_x], frame[half_y:, half_x:] = BLUE, WHITE
    return frame


def corners(frame: Pixels) -> list[list[int]]:
    height, width, _ = frame.shape
    ys, xs = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [[int(value) for value in frame[y, x]] for y in ys for x in xs]


def assert_similar(pixels: Pixels, expected: Pixels, within: float = 14) -> None:
    assert pixels.shape == expected.shape
    assert np.abs(np.array(corners(pixels)) - np.array(corners(expected))).max() <= within


TURNED = {f"rotated by {angle}": ({"rotation": angle}, np.rot90(quarters(), angle // 90)) for angle in (90, 180, 270)}


@pytest.mark.parametrize(
    ("options", "upright"),
    [
        *TURNED.values(),
        ({"mirror": True}, quarters()[:, ::-1]),
        ({"pixel_aspect": Fraction(2)}, quarters(192, 64)),
    ],
    ids=[*TURNED, "mirrored", "wide pixels"],
)
def test_frames_of_a_video_are_upright_with_square_pixels(
    options: dict[str, Any], upright: Pixels, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "turned.mp4", [quarters()] * 3, **options)
    assert_similar(read_frames(path, [0.0])[0], upright)
    info = probe(path)
    assert (info.height, info.width) == upright.shape[:2]


@pytest.mark.parametrize(
    ("size", "colorspace", "tagged"),
    [((96, 64), 5, True), ((96, 64), 1, True), ((96, 64), 5, False), ((1280, 720), 1, False)],
    ids=["BT.601", "BT.709", "small and untagged", "HD and untagged"],
)
def test_colours_are_preserved(size: tuple[int, int], colorspace: int, tagged: bool, tmp_path: Path) -> None:
    path = tmp_path / "colours.mp4"
    options = {"preset": "ultrafast", "crf": "10"}
    write_video(path, [quarters(*size)] * 2, matrix=colorspace, tag_matrix=tagged, options=options, b_frames=0)
    assert_similar(read_frames(path, [0.0])[0], quarters(*size), within=8)


@pytest.mark.parametrize("suffix", [".mkv", ".png", ".webp", ".gif"])
def test_transparent_pixels_are_composited_on_white(suffix: str, tmp_path: Path) -> None:
    rgba = np.dstack([solid(RED), np.full((64, 96), 255, np.uint8)])
    rgba[:, 48:, 3] = 0
    path = tmp_path / f"alpha{suffix}"
    if suffix == ".mkv":
        write_video(path, [rgba] * 2, codec="ffv1", pix_fmt="bgra")
    else:
        write_picture(path, rgba, **({"lossless": True} if suffix == ".webp" else {}))
    frame = read_frames(path, [0.0])[0]
    assert np.abs(frame[30, 10].astype(int) - RED).max() <= 3
    assert frame[30, 80].tolist() == [255, 255, 255]


def test_half_transparent_black_is_grey(tmp_path: Path) -> None:
    rgba = np.dstack([solid((0, 0, 0)), np.full((64, 96), 128, np.uint8)])
    frame = read_frames(write_picture(tmp_path / "half.png", rgba), [0.0])[0]
    assert np.abs(frame.astype(int) - 127).max() <= 1


def test_transparent_animation_frames_are_composited_on_white(tmp_path: Path) -> None:
    clear = np.zeros((64, 96, 4), np.uint8)
    red = np.dstack([solid(RED), np.full((64, 96), 255, np.uint8)])
    path = write_animation(tmp_path / "blink.webp", [red, clear], [100, 100])
    shown = read_frames(path, [0.05, 0.15])
    assert shown[0][0, 0].tolist() == list(RED)
    assert shown[1][0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter clockwise for display
    path = write_picture(tmp_path / "camera.jpg", quarters(), exif=exif, quality=95)
    assert_similar(read_frames(path, [0.0])[0], np.rot90(quarters(), -1))
    assert (probe(path).width, probe(path).height) == (64, 96)


def test_grey_16_bit_and_cmyk_pictures_become_rgb(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))
    grey = read_frames(write_picture(tmp_path / "grey.png", ramp), [0.0])[0]
    deep = read_frames(write_picture(tmp_path / "deep.png", ramp.astype(np.uint16) * 257), [0.0])[0]
    assert np.array_equal(grey, np.dstack([ramp] * 3))
    assert np.array_equal(deep, grey)
    clear = write_picture(tmp_path / "clear.png", ramp.astype(np.uint16) * 257, transparency=int(ramp[0, 9]) * 257)
    grey[:, 9] = 255
    assert np.array_equal(read_frames(clear, [0.0])[0], grey)
    path = tmp_path / "cmyk.jpg"
    Image.fromarray(solid(RED)).convert("CMYK").save(path, quality=95)
    assert np.abs(read_frames(path, [0.0])[0][5, 5].astype(int) - RED).max() <= 8


class Still:
    """A frame of known pixels."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def rgb(self, width: int, height: int) -> Pixels:
        return np.array(Image.fromarray(self.pixels).resize((width, height), Image.Resampling.BOX))


def test_stretch_crop_and_pad() -> None:
    frame: Frame = Still(quarters(120, 40))
    stretched = resize_to_fit(frame, 32, 32, "stretch")
    assert_similar(stretched, quarters(32, 32))
    cropped = resize_to_fit(frame, 32, 32, "crop")
    assert cropped.shape == (32, 32, 3)
    assert_similar(cropped, quarters(32, 32))  # the centre holds all four quarters
    padded = resize_to_fit(frame, 32, 32, "pad")
    assert padded.shape == (32, 32, 3)
    assert padded[:10].max() == padded[-10:].max() == 0
    assert np.abs(padded[13, 4].astype(int) - RED).max() <= 8


def test_the_middle_is_mirrored_and_has_the_size_of_the_frame() -> None:
    frame = np.full((64, 96, 3), 128, np.uint8)
    frame[8:56, 12:84] = quarters(72, 48)
    middle = mirrored_middle(frame, 0.75)
    assert middle.shape == frame.shape
    assert corners(middle) == [list(colour) for colour in (GREEN, RED, WHITE, BLUE)]


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(8, 300), (300, 8), (31, 17)])
def test_fitting_gives_the_requested_size(fit: str, size: tuple[int, int]) -> None:
    assert resize_to_fit(Still(counter_frame(5)), *size, fit).shape == (size[1], size[0], 3)


def test_downscaling_averages(tmp_path: Path) -> None:
    """Fine stripes become grey in video and in pictures, not a random pattern."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    stream = StreamSpec("s", 1, 32, 32, "middle")
    video = write_video(tmp_path / "fine.mkv", [stripes] * 2, codec="ffv1", pix_fmt="bgr0", options={})
    picture = write_picture(tmp_path / "fine.png", stripes)
    for path in (video, picture):
        small = sample_streams(path, [stream], [(0.0, 0.0)])["s"]
        assert np.abs(small.astype(int) - 127).max() <= 20


def _growing_gif(path: Path, width: int) -> Path:
    """A red frame of 48x64, then one of ``width`` whose right half is transparent."""
    blocks = []
    for size, clear in ((48, 0), (width, width // 2)):
        pixels = np.zeros((64, size), np.uint8)
        pixels[:, size - clear :] = 1
        image = Image.fromarray(pixels, "P")
        image.putpalette([*RED, *GREEN])
        image.save(path, optimize=False)
        data = path.read_bytes()
        start = data.index(b",\0\0\0\0")
        blocks.append((data[:start], data[start:-1]))
    control = [b"\x21\xf9\x04" + bytes([flags]) + b"\x0a\0\x01\0" for flags in (0, 1)]
    path.write_bytes(blocks[0][0] + control[0] + blocks[0][1] + control[1] + blocks[1][1] + b";")
    return path


def test_a_gif_may_grow_within_the_limits(tmp_path: Path) -> None:
    path = _growing_gif(tmp_path / "growing.gif", 96)
    shown = read_frames(path, [0.05, 0.15])
    assert [frame.shape for frame in shown] == [(64, 48, 3), (64, 96, 3)]
    assert shown[1][30, 10].tolist() == list(RED)
    assert shown[1][30, 80].tolist() == [255, 255, 255]
    with pytest.raises(MediaTooLarge, match="96x64 pixels; at most 4000"):
        read_frames(path, [0.05, 0.15], MediaLimits(max_pixels=4000))


@pytest.mark.parametrize("size", [(8, 4000), (4001, 8)])
@pytest.mark.parametrize("options", [(), ("bicubic", 256)])
def test_the_middle_of_a_very_narrow_picture_is_cropped_without_scaling_all_of_it(
    size: tuple[int, int], options: tuple[Any, ...]
) -> None:
    image = Image.fromarray(np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8))
    edge = options[1] if options else 224
    whole = image.resize((size[0] * edge // 8, size[1] * edge // 8), Image.Resampling.BICUBIC)
    left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
    tracemalloc.start()
    try:
        cropped = resize_to_fit(PictureFrame(image), 224, 224, "crop", *options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(cropped, np.array(whole.crop((left, top, left + 224, top + 224))))
    assert peak < 20e6


@pytest.mark.parametrize("size", [(333, 250), (331, 249), (250, 333), (224, 224), (97, 500)])
@pytest.mark.parametrize(("shortest_edge", "side"), [(96, 96), (128, 112)])
def test_resampling_and_center_crop_match_public_processors(
    size: tuple[int, int], shortest_edge: int, side: int
) -> None:
    """Resize the shorter edge, round the longer one down, cut the centre, all with Pillow's filter."""
    random = np.random.default_rng(7)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    width, height = size
    shorter = min(size)
    inner = image.resize(
        (int(shortest_edge * width / shorter), int(shortest_edge * height / shorter)), Image.Resampling.BICUBIC
    )
    left, top = int((inner.width - side) / 2), int((inner.height - side) / 2)
    expected = np.array(inner.crop((left, top, left + side, top + side)))
    cropped = resize_to_fit(Still(np.array(image)), side, side, "crop", "bicubic", shortest_edge)
    assert np.array_equal(cropped, expected)
    left, top = round((inner.width - side) / 2), round((inner.height - side) / 2)
    even = resize_to_fit(Still(np.array(image)), side, side, "crop", "bicubic", shortest_edge, "even")
    assert np.array_equal(even, np.array(inner.crop((left, top, left + side, top + side))))
    stretched = resize_to_fit(Still(np.array(image)), side, side, "stretch", "bilinear")
    assert np.array_equal(stretched, np.array(image.resize((side, side), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (32, 24)),
        ((480, 640), (24, 32)),
        ((48, 48), (24, 24)),
        ((1000, 500), (36, 20)),  # 39 pixels at most, so the shorter edge becomes 19.5
        ((30, 3000), (4, 36)),  # the shorter edge would be 0
    ],
)
def test_pad_top_left_fits_the_frame_in_whole_multiples(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert top_left_size(*size, 24, 39, 4) == expected
    random = np.random.default_rng(7)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    frame = with_resampling(Still(np.array(image)), "bicubic")
    width, height = expected
    picture = pad_top_left(frame, 36, 24, 39, 4, "picture")
    assert np.array_equal(picture[:height, :width], np.array(image.resize(expected, Image.Resampling.BICUBIC)))
    assert not picture[height:].any()
    assert not picture[:, width:].any()
    cover = pad_top_left(frame, 9, 24, 39, 4, "cover")
    assert np.array_equal(cover[..., 0] == 255, np.outer(np.arange(9) < height // 4, np.arange(9) < width // 4))
