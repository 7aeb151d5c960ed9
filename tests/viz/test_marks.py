"""Text that is shown: escaped, all of it there, in colours that can be read."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.data.text import pieces_in, pieces_of
from mlxterp.viz.escaping import attribute, one_line, token_line, visible, visible_pieces
from mlxterp.viz.histogram import histogram_svg
from mlxterp.viz.palette import STEPS, ansi, background, class_of, contrast, foreground, steps_of
from mlxterp.viz.spans import spans_html, spans_text, wants_color
from tests.viz.reading import HOSTILE, Reader

characters = st.one_of(
    st.characters(),
    st.sampled_from(
        "\x00\x1b\x7f\x85\r\n\t \u2028\u202e\ud800<>&\"'·↵[]\u200b\u200c\u200d\u200f\ufe0f👩🏽❤می\U000e0061"
    ),
)
texts = st.text(characters, max_size=8)
tokens_with_activations = st.lists(
    st.tuples(texts, st.sampled_from([0.0, 0.0, 0.0, 1.0, -2.0, 0.001, 5.0])), min_size=1, max_size=12
)


@given(tokens_with_activations, st.integers(-1, 12))
def test_stripping_the_tags_gives_the_text_back(pairs, peak):
    tokens, activations = [t for t, _ in pairs], np.array([a for _, a in pairs], np.float32)
    html = spans_html(tokens, activations, 5.0, peak=peak)
    html.encode("utf-8")
    assert Reader(f"<p>{html}</p>").everything == visible("".join(tokens))


@given(tokens_with_activations, st.integers(-1, 12))
def test_a_terminal_gets_the_text_and_no_escape_sequence_but_colours(pairs, peak):
    tokens, activations = [t for t, _ in pairs], np.array([a for _, a in pairs], np.float32)
    shown = re.sub(r"\x1b\[[0-9;]+m", "", spans_text(tokens, activations, 5.0, peak, color=True))
    assert not re.search("[\x00-\x1f\x7f-\x9f]", shown)
    assert shown.replace("▯", "") == one_line("".join(tokens)).replace("▯", "")


@given(texts)
def test_an_attribute_stays_within_its_quotes(text):
    (_, attributes), *more = Reader(f'<p title="{attribute(text)}"></p>').elements
    assert not more and attributes == {"title": one_line(text)}


def test_what_cannot_be_shown_is_named():
    assert visible("a\x00\x1b[1m\r\x7f\x85\ud83d\u202e") == "a⟨00⟩⟨1B⟩[1m⟨0D⟩⟨7F⟩⟨85⟩⟨D83D⟩⟨202E⟩"
    assert visible("tab\tline\nמים 👩‍👧 \u2028") == "tab\tline\nמים 👩‍👧 \u2028"
    assert one_line("a\tb\nc\u2028") == "a⇥b↵c↵"


UNSEEN = [
    0xAD, 0x34F, 0x61C, 0x115F, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x202A, 0x202E, 0x2060, 0x2066, 0x2069,
    0x206F, 0x3164, 0xFE00, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF9, 0xE0001, 0xE0041, 0xE007F, 0xE0100, 0xE01EF,
]  # fmt: skip


@pytest.mark.parametrize("code", UNSEEN)
def test_what_has_no_width_or_turns_the_direction_is_named(code):
    for text in (f"a{chr(code)}b", chr(code), f"{chr(code)}\n", f"א{chr(code)}ב"):
        assert visible(text) == text.replace(chr(code), f"⟨{code:02X}⟩")
        assert chr(code) not in attribute(text) and chr(code) not in one_line(text)


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👧", "👩🏽‍🚀", "❤️", "🏳️‍🌈", "👨‍👩‍👧‍👦", "🕵🏽‍♂️", "1️⃣", "⚠︎", "©️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "می‌خواهم", "نامه‌ای", "क्‍ष", "র‍্য", "ക്‍", "ශ්‍රී", "ক্‌ষ", "ᠠ᠋", "مِي‌خواهم",
    ],
)  # fmt: skip
def test_what_emoji_and_spellings_are_made_of_stays(text):
    assert visible(text) == text and visible(f"a {text} b") == f"a {text} b"
    pieces = list(text)
    assert "".join(visible_pieces(pieces)) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200db", "a⟨200D⟩b"),
        ("👩\u200d", "👩⟨200D⟩"),
        ("👩\u200d\u200d👧", "👩⟨200D⟩⟨200D⟩👧"),
        ("😀\ufe0f\ufe01\U000e0141", "😀\ufe0f⟨FE01⟩⟨E0141⟩"),
        ("😀\U000e0061\U000e007f", "😀⟨E0061⟩⟨E007F⟩"),
        ("x\ufe0f", "x⟨FE0F⟩"),
        ("1\ufe0f", "1⟨FE0F⟩"),
        ("سلام\u200c ", "سلام⟨200C⟩ "),
        ("ی\u200c\u200cخ", "ی⟨200C⟩⟨200C⟩خ"),
        ("葛\U000e0100", "葛⟨E0100⟩"),
    ],
)
def test_the_same_characters_elsewhere_are_named(text, shown):
    assert visible(text) == shown


@given(st.lists(texts, max_size=6))
def test_pieces_are_seen_as_the_whole_text_is(pieces):
    shown = visible_pieces(pieces)
    assert "".join(shown) == visible("".join(pieces))
    assert [bool(piece) for piece in shown] == [bool(piece) for piece in pieces]


def test_a_token_of_white_space_is_written_with_marks():
    assert [token_line(t) for t in (" ", " \n", "\t", "\r\n", "\u3000", " a", "")] == [
        "·", "·↵", "⇥", "⟨0D⟩↵", "⟨3000⟩", " a", "",
    ]  # fmt: skip


def test_only_active_tokens_get_an_element():
    html = spans_html(["a", " b", "c", "d"], np.array([0, 2, 0, 0], np.float32), 2.0, start=10, peak=1)
    assert html == 'a<mark class=mxt-p8 title="2 at position 11"><b><i> </i>b</b></mark>cd'


def test_tokens_that_finish_a_character_share_its_mark():
    html = spans_html(["😀", "", "", "!"], np.array([1, 3, 0, 0], np.float32), 4.0, peak=1)
    assert html == '<mark class=mxt-p6 title="3 at position 0"><b>😀</b></mark>!'


def test_without_colour_active_tokens_stand_in_brackets():
    activations = np.array([0, 2, 0.5, 0], np.float32)
    assert spans_text(["a", " b", "c", "\n"], activations, 2.0, 1, color=False) == "a [b=2][c]↵"
    assert spans_text(["a\nb", "\n"], np.array([0, 1.0]), 1, color=False, breaks=True) == "a↵\nb[↵]\n"


def test_colour_is_left_out_where_it_is_not_wanted(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_color(None) and not wants_color(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(None) and wants_color(True)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("hue", ["p", "n"])
def test_text_on_every_step_can_be_read_and_steps_only_get_stronger(mode, hue):
    colours = [background(mode, hue, step) for step in range(1, STEPS + 1)]
    assert all(contrast(foreground(colour), colour) >= 4.5 for colour in colours)
    page = (255, 255, 255) if mode == "light" else (30, 30, 34)
    away = [contrast(colour, page) for colour in colours]
    assert away == sorted(away) and len(set(away)) == STEPS


def test_steps_follow_the_share_of_the_scale_and_the_sign():
    activations = np.array([0, 1e-6, 0.5, 1, 7, -1, -0.1, np.nan, np.inf], np.float32)
    assert steps_of(activations, 1.0).tolist() == [0, 1, 4, 8, 8, -8, -1, 0, 8]
    assert steps_of(np.array([0.0, 0.3]), 0.0).tolist()[0] == 0
    assert class_of(3) == "mxt-p3" and class_of(-8) == "mxt-n8"


def test_a_terminal_says_whether_it_is_light(monkeypatch):
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert ansi(1) == "\x1b[48;5;230;38;5;16m"
    monkeypatch.setenv("COLORFGBG", "15;0")
    assert ansi(-1) == "\x1b[48;5;17;38;5;231m"


class Bytes:
    """A tokenizer with one token for each byte."""

    def decode(self, ids) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.just("\ufffd"), max_size=12))
def test_the_pieces_of_a_text_are_the_text(text):
    ids = list(text.encode())
    pieces = pieces_of(Bytes(), ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_a_character_of_several_tokens_stands_with_the_first():
    assert pieces_of(Bytes(), list("a€b".encode())) == ("a", "€", "", "", "b")
    assert pieces_of(Bytes(), [97, 0xE2, 0x82]) == ("a", "\ufffd", "")


@given(st.text(st.sampled_from("ab .é€日本🙂\ufffd"), max_size=24), st.booleans())
def test_pieces_of_ids_are_put_into_the_text_that_they_make(text, begins):
    tokens = [bytes([byte]) for byte in text.encode()]
    pieces = ["<s>"] * begins + [token.decode("utf-8", errors="replace") for token in tokens]
    found = pieces_in(text, pieces)
    assert found is not None and len(found) == len(pieces)
    assert "".join(found[begins:]) == text
    assert all(new == old for new, old in zip(found, pieces, strict=True) if "\ufffd" not in old)


def test_each_character_stands_with_the_first_of_its_bytes():
    half = "\ufffd"
    assert pieces_in("a日本b", ["a", *[half] * 6, "b"]) == ["a", "日", "", "", "本", "", "", "b"]
    assert pieces_in("a é", ["a", " " + half, half]) == ["a", " é", ""]


def test_pieces_of_another_text_are_not_forced_into_it():
    assert pieces_in("a€c", ["a", "\ufffd", "b"]) is None
    assert pieces_in("Hello", ["hello"]) is None and pieces_in("ab", ["a"]) is None


def test_an_active_token_of_spaces_or_a_tab_can_be_seen():
    plain = spans_text(["a", "  ", " b", "\t"], np.array([0, 1.0, 1.0, 1.0]), 1.0, color=False)
    assert plain == "a[··] [b][⇥]"
    html = spans_html(["a\t", "\tb"], np.array([0, 1.0]), 1.0)
    assert html.count("<i class=mxt-tab>\t</i>") == 2 and Reader(html).everything == "a\t\tb"


def test_a_histogram_names_round_numbers_that_do_not_touch():
    for first, last in ((0, 15), (-3, 9), (5, 40), (0, 3), (1, 28)):
        edges = 2.0 ** (np.arange(first, last + 1) / 4)
        svg = histogram_svg(np.ones(len(edges) - 1), edges)
        places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="108.0"', svg)]
        assert len(places) >= 2 and places == sorted(places)
        assert min(np.diff(places)) >= 40 or len(places) == 2
    names = re.findall(
        r'y="108.0"[^>]*>([\d.]+)</text>', histogram_svg(np.ones(15), 2.0 ** (np.arange(16) / 4))
    )
    assert names == ["1", "2", "4", "8", "13.5"]


def test_hostile_text_has_no_tag_of_its_own():
    read = Reader(f"<p>{spans_html([HOSTILE, HOSTILE], np.array([0, 1.0]), 1.0, peak=1)}</p>")
    assert {tag for tag, _ in read.elements} == {"p", "mark", "b", "i"}
