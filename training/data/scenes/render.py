"""Render a scene as frames, depth maps and an H.264 MP4 file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image, ImageDraw

from training.data.audio import SAMPLE_RATE, Samples
from training.data.scenes.outlines import outline
from training.data.scenes.world import (
    FPS,
    FRAMES,
    HEIGHT,
    MAX_OBJECTS,
    WIDTH,
    Background,
    Thing,
    World,
    frame_times,
    rgb_of,
    state_at,
)

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

OVERSAMPLE = 3
MARGIN = 4  # pixels of background outside each edge of the frame, for camera shake
AUDIO_BITS = 48_000  # per second
LAYER = 255 // MAX_OBJECTS
"""Difference of grey levels in depth maps between an object and the one behind it; the background is 0."""
PLATE = (14, 22)
"""Width and height of the rectangle behind a digit, in pixels."""

# Bitmaps of 5x7, drawn as 10x18 pixels. Strokes are wider than a pixel in 224x224 frames. In 112x112 frames they are
# narrower, so that digits blur and are harder to read.
DIGITS = (
    "01110 10001 10001 10001 10001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "01110 10000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 00100 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00001 01110",
)


def second_tone(colour: str) -> tuple[int, int, int]:
    """Return the colour of stripes and dots: a lighter or darker shade of the object's colour."""
    if colour in ("black", "white"):  # distinct from the greys of backgrounds
        return (72, 72, 76) if colour == "black" else (190, 190, 194)
    rgb = rgb_of(colour)
    if colour == "yellow":
        return (rgb[0] * 5 // 9, rgb[1] * 5 // 9, rgb[2] * 5 // 9)
    lift = 0.62
    return (
        int(rgb[0] + (255 - rgb[0]) * lift),
        int(rgb[1] + (255 - rgb[1]) * lift),
        int(rgb[2] + (255 - rgb[2]) * lift),
    )


def _pattern(thing: Thing, side: int) -> Image.Image:
    """Return a square of `side` pixels in the object's colour and pattern."""
    canvas = Image.new("RGB", (side, side), rgb_of(thing.colour))
    draw, tone = ImageDraw.Draw(canvas), second_tone(thing.colour)
    pitch = (10 if thing.size == "small" else 14) * OVERSAMPLE
    centre = side // 2
    if thing.pattern == "striped":
        for y in range(centre % pitch - pitch, side, pitch):
            draw.rectangle((0, y, side, y + pitch // 2 - 1), fill=tone)
    elif thing.pattern == "dotted":
        radius = round(pitch * 0.3)
        for row, y in enumerate(range(centre % pitch - pitch, side + pitch, pitch)):
            for x in range(centre % pitch - pitch + (row % 2) * pitch // 2, side + pitch, pitch):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tone)
    return canvas


def _digit(thing: Thing) -> Image.Image:
    """Return the digit on its rectangle."""
    ink, plate = ((20, 20, 20), (255, 255, 255)) if thing.colour == "black" else ((255, 255, 255), (16, 16, 16))
    rows = DIGITS[thing.digit or 0].split()
    glyph = Image.fromarray(np.array([[int(bit) * 255 for bit in row] for row in rows], dtype=np.uint8))
    glyph = glyph.resize((60, 108), Image.Resampling.NEAREST).resize((10, 18), Image.Resampling.BOX)
    canvas = Image.new("RGB", PLATE, plate)
    canvas.paste(ink, (2, 2), glyph)
    return canvas


def draw_thing(thing: Thing, scale: float = 1.0, angle: float = 0.0) -> Image.Image:
    """Return a small RGBA picture with the object in its centre. angle: In degrees, clockwise."""
    diameter = thing.diameter * scale
    half = math.ceil(0.6 * diameter) + 2
    side = 2 * half * OVERSAMPLE
    grown = diameter * OVERSAMPLE
    cos, sin = math.cos(math.radians(angle)) * grown, math.sin(math.radians(angle)) * grown
    middle = side / 2
    points = [(middle + x * cos - y * sin, middle + x * sin + y * cos) for x, y in outline(thing.shape)]
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    paint = _pattern(thing, side)
    if angle:
        paint = paint.rotate(-angle, Image.Resampling.BILINEAR)
    edge = (205, 205, 208) if thing.colour == "black" else (26, 26, 30)
    draw = ImageDraw.Draw(paint)
    draw.line([*points, points[0], points[1]], fill=edge, width=int(1.7 * OVERSAMPLE), joint="curve")
    if thing.shape == "ring":
        inner = 0.27 * grown
        box = (middle - inner, middle - inner, middle + inner, middle + inner)
        ImageDraw.Draw(mask).ellipse(box, fill=0)
        wider = inner + OVERSAMPLE
        box = (middle - wider, middle - wider, middle + wider, middle + wider)
        draw.ellipse(box, outline=edge, width=int(1.7 * OVERSAMPLE))
    paint.putalpha(mask)
    sprite = paint.resize((2 * half, 2 * half), Image.Resampling.BOX)
    if thing.digit is not None:  # upright and of fixed size, so that a 6 never looks like a 9
        sprite.paste(_digit(thing), (half - PLATE[0] // 2, half - PLATE[1] // 2))
    return sprite


def draw_background(background: Background) -> Image.Image:
    """Return the background with its margin: RGB, WIDTH + 2 MARGIN by HEIGHT + 2 MARGIN pixels."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    period = background.period
    if background.kind == "flat":
        share = np.zeros((height, width), np.float32)
    elif background.kind == "gradient":
        share = y / height if background.seed % 2 else x / width
    elif background.kind == "checker":
        share = ((x // period + y // period) % 2).astype(np.float32)
    elif background.kind == "stripes":
        share = (((x + y * (background.seed % 3 - 1)) // period) % 2).astype(np.float32)
    elif background.kind == "noise":
        share = np.random.default_rng(background.seed).random((height // 2, width // 2), dtype=np.float32)
        share = share.repeat(2, axis=0).repeat(2, axis=1)
    else:
        raise ValueError(f"background kind {background.kind!r} is not one that can be drawn")
    first, second = np.array(background.first, np.float32), np.array(background.second, np.float32)
    mixed = first + (second - first) * share[..., None]
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def render(world: World, *, depth: bool = False, frames: int = FRAMES) -> Iterator[Image.Image]:
    """Yield the first `frames` frames in order, each RGB and WIDTH x HEIGHT pixels.

    Args:
        world: The scene.
        depth: Whether to yield grey depth maps instead: the background is 0, and each object is brighter by `LAYER`
            than the one behind it. Objects that appear or disappear are opaque while they are partly visible.
        frames: Number of frames.
    """
    background = draw_background(world.background)
    if depth:
        background.paste((0, 0, 0), (0, 0, *background.size))
    sprites: dict[tuple[int, float, float], Image.Image] = {}
    for time, (dx, dy) in zip(frame_times(frames), camera_shifts(world), strict=False):
        frame = background.copy()
        for layer, index in enumerate(world.drawing_order, 1):
            state = state_at(world.things[index], time)
            if state.opacity <= 0:
                continue
            key = (index, round(state.scale, 2), round(state.angle, 1))
            if key not in sprites:
                sprites[key] = draw_thing(world.things[index], key[1], key[2])
            sprite = sprites[key]
            mask = sprite.getchannel("A")
            if depth:
                sprite = Image.new("RGB", sprite.size, (layer * LAYER,) * 3)
                mask = mask.point([0] * 128 + [255] * 128)
            elif state.opacity < 1:
                mask = mask.point([int(level * state.opacity) for level in range(256)])
            corner = (
                round(state.x) + MARGIN - sprite.width // 2,
                round(state.y) + MARGIN - sprite.height // 2,
            )
            frame.paste(sprite, corner, mask)
        left, top = dx + MARGIN, dy + MARGIN
        yield frame.crop((left, top, left + WIDTH, top + HEIGHT))


def camera_shifts(world: World) -> Iterator[tuple[int, int]]:
    """Yield the camera's shift to the right and downwards (pixels) for each frame; never ends."""
    camera = Random(world.shake_seed)
    while True:
        yield camera.randint(-world.shake, world.shake), camera.randint(-world.shake, world.shake)


def _add_video_track(container: OutputContainer, crf: int) -> VideoStream:
    stream = container.add_stream("libx264", rate=FPS)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    # For reproducible files: one thread, since the number of threads changes the bytes, and neither look-ahead nor
    # macroblock trees, with which x264 (core 165) reads uninitialized memory.
    stream.options = {
        "crf": str(crf),
        "preset": "veryfast",
        "threads": "1",
        "x264-params": "rc-lookahead=0:mbtree=0",
    }
    return stream


def encode(world: World, sound: Samples | None = None, *, depth: bool = False, frames: int = FRAMES) -> bytes:
    """Return the clip as an MP4 file: H.264, yuv420p, 12 fps, by default 3 s. Equal worlds give equal bytes.

    Args:
        world: The scene.
        sound: Samples for an AAC track, mono at 16 kHz; None: no audio track.
        depth: Whether to add a second video track with depth maps, which is lossless.
        frames: Number of frames.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        videos = [(_add_video_track(container, 23), render(world, frames=frames))]
        if depth:
            videos.append((_add_video_track(container, 0), render(world, depth=True, frames=frames)))
        track = None
        if sound is not None:
            track = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=AUDIO_BITS)
        for stream, pictures in videos:
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
            container.mux(stream.encode())
        if track is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0  # players need pts to skip the encoder's delay
            container.mux(track.encode(frame))
            container.mux(track.encode())
    return buffer.getvalue()
