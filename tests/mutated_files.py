"""Damaged files in any number: a seed and a number give the same file everywhere."""

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
    """One small file of each kind that is read here."""
    frames = [counter_frame(number) for number in range(6)]
    said = [("subrip", "eng", [(0.0, 0.5, "A red thing.")])]
    files = [
        write_counter_video(folder / "h264.mp4", 24, gop=8),
        write_counter_video(folder / "h264.ts", 24, gop=8),
        write_counter_video(folder / "mpeg4.avi", 24, codec="mpeg4"),
        write_counter_video(folder / "mpeg2.mpg", 24, codec="mpeg2video"),
        write_counter_video(folder / "flv1.flv", 24, codec="flv", b_frames=0),
        write_subtitled_video(folder / "said.mkv", [counter_frame(number) for number in range(24)], said),
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
    """``data`` with one to three kinds of damage; headers are hit more often than the rest."""
    chance = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        kind = chance.choice(["flip", "flip", "extreme", "zero", "cut", "repeat", "swap"])
        reach = chance.choice([64, 512, len(damaged), len(damaged)])
        at = chance.randrange(max(1, min(reach, len(damaged))))
        size = chance.choice([1, 2, 4, 16, 200])
        if kind == "flip":
            for _ in range(chance.choice([1, 4, 40])):
                damaged[chance.randrange(max(1, min(reach, len(damaged))))] ^= 1 << chance.randrange(8)
        elif kind == "extreme":
            damaged[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"])
        elif kind == "zero":
            damaged[at : at + size] = bytes(size)
        elif kind == "cut":
            del damaged[max(16, at) :]
        elif kind == "repeat":
            damaged[at:at] = damaged[at : at + size] * chance.choice([1, 50])
        else:
            other = chance.randrange(len(damaged))
            damaged[at : at + size], damaged[other : other + size] = (
                damaged[other : other + size],
                damaged[at : at + size],
            )
    return bytes(damaged)
