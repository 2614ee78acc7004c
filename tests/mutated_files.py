"""Randomly damaged files, reproducible by seed."""

from __future__ import annotations

import random
from pathlib import Path

import av

from tests.media_files import (
    counter_frame,
    write_animation,
    write_counter_video,
    write_picture,
    write_subtitled_video,
)


def write_originals(folder: Path) -> list[Path]:
    """Write a small file of each format."""
    frames = [counter_frame(number) for number in range(6)]
    subtitles = [("subrip", "eng", [(0.0, 0.5, "A red thing.")])]
    files = [
        write_counter_video(folder / "h264.mp4", 24, gop=8),
        write_counter_video(folder / "h264.ts", 24, gop=8),
        write_counter_video(folder / "mpeg4.avi", 24, codec="mpeg4"),
        write_counter_video(folder / "mpeg2.mpg", 24, codec="mpeg2video"),
        write_counter_video(folder / "flv1.flv", 24, codec="flv", b_frames=0),
        write_subtitled_video(folder / "subtitled.mkv", [counter_frame(number) for number in range(24)], subtitles),
        write_animation(folder / "moving.gif", frames, [100] * 6),
        write_animation(folder / "moving.webp", frames, [100] * 6),
        write_animation(folder / "moving.png", frames, [100] * 6),
        write_picture(folder / "still.jpg", frames[5]),
    ]
    fast = {"deadline": "realtime", "cpu-used": "8"}
    for name, codec in (("vp8.webm", "libvpx"), ("vp9.webm", "libvpx-vp9")):
        if codec in av.codecs_available:
            files.append(write_counter_video(folder / name, 24, codec=codec, options=fast))
    if "libx265" in av.codecs_available:
        files.append(write_counter_video(folder / "hevc.mp4", 24, codec="libx265", options={"preset": "ultrafast"}))
    return files


def mutated(data: bytes, seed: int) -> bytes:
    """Return ``data`` with one to three kinds of damage, more often in the header."""
    rng = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        kind = rng.choice(["flip", "flip", "extreme", "zero", "cut", "repeat", "swap"])
        reach = rng.choice([64, 512, len(damaged), len(damaged)])
        offset = rng.randrange(max(1, min(reach, len(damaged))))
        size = rng.choice([1, 2, 4, 16, 200])
        if kind == "flip":
            for _ in range(rng.choice([1, 4, 40])):
                damaged[rng.randrange(max(1, min(reach, len(damaged))))] ^= 1 << rng.randrange(8)
        elif kind == "extreme":
            damaged[offset : offset + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"])
        elif kind == "zero":
            damaged[offset : offset + size] = bytes(size)
        elif kind == "cut":
            del damaged[max(16, offset) :]
        elif kind == "repeat":
            damaged[offset:offset] = damaged[offset : offset + size] * rng.choice([1, 50])
        else:
            other = rng.randrange(len(damaged))
            damaged[offset : offset + size], damaged[other : other + size] = (
                damaged[other : other + size],
                damaged[offset : offset + size],
            )
    return bytes(damaged)
