"""Small real media, shards and packages that the tests of the corpora write."""

from __future__ import annotations

import io
import json
import tarfile
import wave
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from training.data import pictograms
from training.data.pictogram_concepts import Concept

Color = tuple[int, int, int]
RED: Color = (220, 20, 20)
GREEN: Color = (20, 200, 20)
BLUE: Color = (20, 20, 220)


def picture(color: Color = RED, image_format: str = "JPEG", size: tuple[int, int] = (48, 36)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, image_format)
    return content.getvalue()


def animation(colors: Sequence[Color]) -> bytes:
    """An animated WebP that shows each color for 100 ms."""
    frames = [Image.new("RGB", (32, 32), color) for color in colors]
    content = io.BytesIO()
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    return content.getvalue()


def movie(path: Path, colors: Sequence[Color], frames_each: int = 5, *, one_key_frame: bool = False) -> None:
    """An H.264 MP4 of 10 frames per second; `one_key_frame`: only the first frame is one, however colors change."""
    options = {"x264-params": "keyint=infinite:scenecut=0"} if one_key_frame else {}
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for color in colors:
            pixels = np.broadcast_to(np.array(color, np.uint8), (48, 64, 3))
            for _ in range(frames_each):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(stream.encode())


def key_frames(path: Path) -> int:
    """Return the number of key frames of a video."""
    with av.open(path) as container:
        return sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar archive, gzipped when the name ends in .tgz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shard(path: Path, samples: Mapping[str, tuple[bytes, Any]]) -> Path:
    """A WebDataset shard of {key: (JPEG, annotation)}."""
    members = {}
    for key, (jpeg, record) in samples.items():
        members[f"{key}.jpg"] = jpeg
        members[f"{key}.json"] = json.dumps(record).encode()
    return write_tar(path, members)


def concept(label: str, code: str = "1f436", group: str = "objects", subgroup: str = "tool", **rest: Any) -> Concept:
    return Concept(code, label, tuple(rest.pop("tags", ())), group, subgroup, **rest)


WORDS = [
    {"hexcode": "1F436", "label": "dog face", "tags": ["dog", "pet"], "group": 3, "subgroup": 34},
    {"hexcode": "1F1F5-1F1EA", "label": "flag: Peru", "tags": ["PE", "flag"], "group": 9, "subgroup": 98},
    {"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone", "group": 1, "subgroup": 16},
    {"hexcode": "0035-FE0F-20E3", "label": "keycap: 5", "tags": ["keycap"], "group": 8, "subgroup": 94},
    {"hexcode": "1F550", "label": "one o\u2019clock", "tags": ["clock"], "group": 5, "subgroup": 58},
    {"hexcode": "1F1E6", "label": "regional indicator A"},
]
GROUPS = {
    "groups": {"1": "people-body", "3": "animals-nature", "5": "travel-places", "8": "symbols", "9": "flags"},
    "subgroups": {
        "16": "hand-fingers-open",
        "34": "animal-mammal",
        "58": "time",
        "94": "keycap",
        "98": "country-flag",
    },
}


def icon(color: str = "#dc1414") -> dict[str, Any]:
    """An icon of Iconify's format, twice as high as wide: the middle half of its square."""
    return {"body": f'<path fill="{color}" d="M0 0h8v16H0z"/>', "width": 8}


def icon_set(icons: dict[str, dict[str, Any]], names_by_code: dict[str, str]) -> dict[str, bytes]:
    """Members of a package of @iconify-json."""
    return {
        "package/icons.json": json.dumps({"prefix": "x", "icons": icons, "height": 16, "width": 16}).encode(),
        "package/chars.json": json.dumps(names_by_code).encode(),
    }


def pictogram_packages(folder: Path) -> dict[str, Path]:
    """Packages with the layout of the real ones: {name: path}."""
    moving = {f"package/assets/{name}.webp": animation([RED, GREEN]) for name in ("1f436", "1f1f5-1f1ea", "1f550")}
    toned = {"package/assets/1f44b-1f3fb.webp": animation([RED, GREEN])}
    spelled = {
        "package/assets/0035-fe0f-20e3.webp": animation([RED, GREEN]),
        "package/assets/35-fe0f-20e3.webp": animation([BLUE, BLUE]),
    }
    contents: dict[str, dict[str, bytes]] = {
        "@lobehub/fluent-emoji-anim-1": {**moving, "package/README.md": b"read me"},
        "@lobehub/fluent-emoji-anim-2": toned,
        "@lobehub/fluent-emoji-anim-3": spelled,
        "@lobehub/fluent-emoji-anim-4": {},
        "emojibase-data": {
            "package/en/data.json": json.dumps(WORDS).encode(),
            "package/meta/groups.json": json.dumps(GROUPS).encode(),
            "package/en/shortcodes/emojibase.json": b'{"1F436": ["dog_face", "puppy_head"]}',
        },
    }
    for style in ("google", "twitter"):
        contents[f"emoji-datasource-{style}"] = {
            f"package/img/{style}/64/1f436.png": picture(BLUE, "PNG", (64, 64)),
            f"package/img/{style}/64/0035-fe0f-20e3.png": picture(GREEN, "PNG", (64, 64)),
            f"package/img/{style}/sheets/64.png": b"another file",
        }
    for package in pictograms.PACKAGES:
        if package.name.startswith("@iconify-json/"):
            contents[package.name] = icon_set({"keycap-5": icon(), "dog-face": icon()}, {})
    files = {package.name: package.file_name for package in pictograms.PACKAGES}
    return {name: write_tar(folder / files[name], members) for name, members in contents.items()}


def tone(hertz: float = 440.0, seconds: float = 0.5, rate: int = 16_000) -> np.ndarray:
    """A sine wave, int16 (n,)."""
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """A mono WAV file of int16 samples (n,)."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return content.getvalue()
