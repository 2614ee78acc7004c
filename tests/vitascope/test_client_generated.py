"""The blocking client is made of the asynchronous one, and nobody has changed it since.

``python -m tests.vitascope.test_client_generated`` makes it anew. It works on text, word by word: no more than someone
would do who copied a module and took the `await` out of it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "vitascope" / "client"
SOURCE, TARGET = CLIENT / "asynchronous", CLIENT / "synchronous"
UPDATE = "python -m tests.vitascope.test_client_generated"
HEADER = f"# Generated from vitascope/client/asynchronous: change that, then run {UPDATE}\n"

RULES = (
    (r"\b(async|await) ", ""),
    (r"\bAwaitable\[([^\[\]]*)\]", r"\1"),
    (r"\bAsync(ByteStream)\b", r"Sync\1"),
    (r"\bAsync(BaseTransport|Client|Iterator)\b", r"\1"),
    (r"\bAsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\b__a(enter|exit|iter)__\b", r"__\1__"),
    (r"\ba(close|closing|read|iter_lines|iter_bytes)\b", r"\1"),
    (r"\banext\b", "next"),
    (r"\b(\w+)_async\b", r"\1"),
    (r"\basynchronous\b", "synchronous"),
)


def blocking() -> dict[str, str]:
    """The modules of the blocking client by name."""
    modules = {}
    for module in SOURCE.glob("*.py"):
        text = module.read_text("utf-8")
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        modules[module.name] = text and HEADER + text
    return modules


def write(folder: Path) -> None:
    """Write the modules into ``folder``, without the imports and line breaks that are not needed any more."""
    for name, text in blocking().items():
        (folder / name).write_text(text, "utf-8")
    settings = ("--quiet", "--config", str(CLIENT.parents[1] / "pyproject.toml"), str(folder))
    for command in (("check", "--fix", "--select=F401,I,UP028", "--unsafe-fixes"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, *settings], check=True)


def test_the_blocking_client_is_made_of_the_asynchronous_one(tmp_path: Path) -> None:
    write(tmp_path)
    made = {module.name: module.read_text("utf-8") for module in tmp_path.glob("*.py")}
    assert made == {module.name: module.read_text("utf-8") for module in TARGET.glob("*.py")}, f"run {UPDATE}"


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.glob("*.py"):
        old.unlink()
    write(TARGET)
    print(f"written: {TARGET}")
