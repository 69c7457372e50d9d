"""README.md's configuration reference, from the declarations in edge/settings.py: python -m tests.tools.reference"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.config import shown
from edge.settings import KEYS, SECTIONS

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- configuration:begin -->", "<!-- configuration:end -->"


def reference() -> str:
    """One table for each section."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for section, holder in SECTIONS.items():
        yield f"**`[{section}]`**: {(holder.__doc__ or '').strip()}"
        yield ""
        yield "| key | default | allowed | what it is |"
        yield "| --- | --- | --- | --- |"
        for known in KEYS.values():
            if known.key.startswith(f"{section}."):
                setting = known.setting
                allowed = f"{setting.rule.text} {setting.unit}".strip()
                doc = setting.doc + (f" Option `{setting.option}`." if setting.option else "")
                cells = (f"`{known.key.partition('.')[2]}`", f"`{shown(known.key, known.default)}`", allowed, doc)
                yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
        yield ""


def refreshed(text: str, begin: str = BEGIN, end: str = END, content: str | None = None) -> str:
    """`text` with what stands between the two markers made anew."""
    head, found, rest = text.partition(begin)
    _, ending, tail = rest.partition(end)
    if not found or not ending:
        raise ValueError(f"no {begin} ... {end}")
    return f"{head}{begin}\n{reference() if content is None else content}\n{end}{tail}"


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text()))
