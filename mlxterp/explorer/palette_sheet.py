"""The explorer's colours as a style sheet, from the palette that every view of the package uses."""

from __future__ import annotations

from ..viz.page import MODES
from ..viz.palette import STEPS, declarations, scale_color

_STOPS = 5
_MORE = {
    "light": "--sel:#e3edf8;--edge:#8b8b96;--error:#a3140f;--good:#13703f",
    "dark": "--sel:#25344a;--edge:#74747f;--error:#ff9a8a;--good:#6fd39b",
}
"""Behind what is chosen, borders of controls, refusals, what works."""


def palette_sheet() -> str:
    """CSS: custom properties for light and dark, and the classes p1 to p8 and n1 to n8 of activations."""
    light, dark = _declared("light"), _declared("dark")
    rules = "".join(
        f".{hue}{step}{{background:var(--mxt-{hue}{step});color:var(--mxt-{hue}{step}t)}}\n"
        for hue in "pn"
        for step in range(1, STEPS + 1)
    )
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f":root[data-theme=light]{{{light}}}\n:root[data-theme=dark]{{{dark}}}\n{rules}"
    )


def _declared(mode: str) -> str:
    scale = ";".join(f"--map{i}:{scale_color(i / (_STOPS - 1), mode)}" for i in range(_STOPS))
    return f"{MODES[mode]};{_MORE[mode]};{declarations(mode)};{scale}"
