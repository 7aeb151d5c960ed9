"""Colours of activations: eight steps of orange, and of blue for negative ones, in light and in dark.

The two hues are told apart by every common colour vision; within one, only the intensity changes. The text
on each step is black or white, whichever contrasts more (at least 4.5 to 1, WCAG's AA).
"""

from __future__ import annotations

import os

import numpy as np

STEPS = 8

RGB = tuple[int, int, int]
_STOPS: dict[tuple[str, str], tuple[RGB, RGB, RGB]] = {
    ("light", "p"): ((255, 240, 222), (255, 176, 92), (190, 66, 8)),
    ("light", "n"): ((228, 241, 255), (128, 190, 250), (20, 92, 172)),
    ("dark", "p"): ((66, 42, 20), (164, 84, 16), (255, 186, 104)),
    ("dark", "n"): ((24, 44, 70), (32, 100, 170), (150, 206, 255)),
}
BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)
"""One of them contrasts with any colour by 4.58 to 1 or more; a softer black would not."""
_TERMINAL = {
    ("light", "p"): (230, 223, 222, 216, 215, 208, 202, 166),
    ("light", "n"): (195, 153, 117, 111, 75, 39, 32, 25),
    ("dark", "p"): (58, 94, 94, 130, 172, 208, 214, 215),
    ("dark", "n"): (17, 18, 24, 25, 32, 39, 75, 117),
}
"""The same among a terminal's 256 colours; which mode it is in, COLORFGBG says (else dark)."""
_CUBE = (0, 95, 135, 175, 215, 255)
"""Values of red, green and blue among them."""


def steps_of(activations: np.ndarray, scale: float) -> np.ndarray:
    """int64: 0 where not active, else 1 to 8 by share of `scale`, with the activation's sign."""
    share = np.abs(activations) / scale if scale > 0 else np.abs(activations)
    size = np.clip(np.ceil(np.nan_to_num(share, posinf=1.0) * STEPS), 1, STEPS).astype(np.int64)
    return np.where(activations == 0, 0, np.sign(np.nan_to_num(activations)).astype(np.int64) * size)


def class_of(step: int) -> str:
    """Name of a step's class in the style sheet."""
    return f"mxt-{'p' if step > 0 else 'n'}{abs(step)}"


def background(mode: str, hue: str, step: int) -> RGB:
    """Colour behind a token.

    Args:
        mode: "light" or "dark".
        hue: "p" (positive) or "n" (negative).
        step: 1 to 8.
    """
    first, middle, last = _STOPS[mode, hue]
    share = (step - 1) / (STEPS - 1)
    a, b, t = (first, middle, share * 2) if share <= 0.5 else (middle, last, share * 2 - 1)
    red, green, blue = (round(x + (y - x) * t) for x, y in zip(a, b, strict=True))
    return red, green, blue


def foreground(behind: RGB) -> RGB:
    """Black or white, whichever is easier to read on a colour."""
    return max(BLACK, WHITE, key=lambda text: contrast(text, behind))


def contrast(a: RGB, b: RGB) -> float:
    """WCAG's contrast of two colours, 1 to 21."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def declarations(mode: str) -> str:
    """The steps as custom properties of CSS: --mxt-p1 and, for the text on it, --mxt-p1t."""
    found = []
    for hue in "pn":
        for step in range(1, STEPS + 1):
            behind = background(mode, hue, step)
            found.append(f"--mxt-{hue}{step}:{_hex(behind)};--mxt-{hue}{step}t:{_hex(foreground(behind))}")
    return ";".join(found)


def rules() -> str:
    """The classes that use them."""
    return "".join(
        f".mlxterp-view .mxt-{hue}{step}{{background:var(--mxt-{hue}{step});color:var(--mxt-{hue}{step}t)}}"
        for hue in "pn"
        for step in range(1, STEPS + 1)
    )


def ansi(step: int) -> str:
    """Escape sequence that starts a step's colours in a terminal of 256 colours."""
    light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
    code = _TERMINAL["light" if light else "dark", "p" if step > 0 else "n"][abs(step) - 1]
    red, green, blue = (_CUBE[(code - 16) // part % 6] for part in (36, 6, 1))
    text = 16 if foreground((red, green, blue)) == BLACK else 231
    return f"\x1b[48;5;{code};38;5;{text}m"


def _luminance(colour: RGB) -> float:
    shares = (value / 255 for value in colour)
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _hex(colour: RGB) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)


# -- groups and scales of maps ----------------------------------------------------------------------

GREY = {"light": "#b9bbc2", "dark": "#5b5d66", "both": "#9a9ca5"}
"""Of what is in no group, or has no value."""
_GROUPS = {
    "light": ("#3b6fd4", "#d9742b", "#2f9e6b", "#c2418c", "#7a5bd0", "#b08a12", "#1f97a8", "#c94a4a",
              "#5f8f2d", "#8d6a4f", "#4a58a8", "#a35cc0"),
    "dark": ("#7fa8ff", "#ffab6b", "#62d6a0", "#ff8ac8", "#b49bff", "#e6c45c", "#5fd3e3", "#ff8f8f",
             "#a9d873", "#d0a98a", "#97a5f5", "#dda0f0"),
    "both": ("#4f82e0", "#e0853f", "#3aad7a", "#d45a9f", "#8d70dd", "#bd9a2a", "#32a5b5", "#d86262",
             "#74a040", "#a07d62", "#6371bd", "#b36fce"),
}  # fmt: skip
_ORDERED = {"light": ((0, 90, 60), (120, 200, 120)), "dark": ((46, 160, 110), (190, 245, 190)),
            "both": ((10, 110, 75), (130, 205, 135))}  # fmt: skip
_SCALE = {
    "light": ((226, 220, 240), (122, 130, 205), (60, 60, 145), (30, 15, 70)),
    "dark": ((58, 48, 92), (92, 104, 190), (90, 190, 200), (240, 245, 170)),
}


def group_color(group: int, mode: str, ordered: int | None = None) -> str:
    """Colour of a group; grey for -1.

    Args:
        mode: "light", "dark", or "both" where one colour is to be seen on either.
        ordered: How many groups there are, where they have an order: then the first is grey, the others run from dark
            to light green.
    """
    if group < 0 or (ordered is not None and ordered > 1 and group == 0):
        return GREY[mode]
    if ordered is None or ordered == 1:
        return _GROUPS[mode][group % len(_GROUPS[mode])]
    first, last = _ORDERED[mode]
    return _mixed(first, last, (group - 1) / max(1, ordered - 2))


def scale_color(share: float, mode: str) -> str:
    """Colour of a value at a share of its range, in [0, 1]."""
    stops = _SCALE[mode]
    at = min(int(share * (len(stops) - 1)), len(stops) - 2)
    return _mixed(stops[at], stops[at + 1], share * (len(stops) - 1) - at)


def _mixed(a: RGB, b: RGB, share: float) -> str:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return _hex((red, green, blue))


def ramp(share: float, mode: str) -> tuple[str, str]:
    """Colour of a share in [0, 1] and of text on it, as #rrggbb: from the panel's own colour to the strongest step."""
    panel: RGB = (255, 255, 255) if mode == "light" else (30, 30, 34)
    stops = (panel, *(background(mode, "p", step) for step in range(1, STEPS + 1)))
    at = min(int(share * STEPS), STEPS - 1)
    part = share * STEPS - at
    red, green, blue = (round(x + (y - x) * part) for x, y in zip(stops[at], stops[at + 1], strict=True))
    return _hex((red, green, blue)), _hex(foreground((red, green, blue)))
