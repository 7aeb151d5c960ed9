"""Verbalizers: what `nla_meta.yaml` says is held to, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, patchscopes
from mlxterp.interventions import replace_with

yaml = pytest.importorskip("yaml")

WIDTH, MARK = 64, "%"
TEMPLATE = "say <concept>{injection_char}</concept>"


class ChatTokenizer:
    """Letters, in a chat of one turn."""

    chat_template = "[user]answer:"
    eos_token_id = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [2 + ord(c) % 190 for c in text]

    def decode(self, ids: Any) -> str:
        return "".join("" if i == 1 else chr((int(i) - 2) % 190) for i in ids)

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool, tokenize: bool) -> list[int]:
        assert add_generation_prompt and tokenize
        return self.encode("".join(f"[{one['content']}]" for one in messages))


def token(letter: str) -> int:
    return 2 + ord(letter) % 190


@pytest.fixture
def model(backend: str, torch_folder: Path) -> mlxterp.InterpretableModel:
    from tests.small import open_llama

    return open_llama(torch_folder, backend, ChatTokenizer())


def settings(**changed: Any) -> dict[str, Any]:
    plain = {
        "kind": "nla_model", "d_model": WIDTH, "role": "av", "extraction_layer_index": 2,
        "extraction": {"injection_scale": 3.0},
        "tokens": {
            "injection_char": MARK, "injection_token_id": token(MARK), "injection_left_neighbor_id": token(">"),
            "injection_right_neighbor_id": token("<"),
        },
        "prompt_templates": {"av": TEMPLATE},
    }  # fmt: skip
    for path, value in changed.items():
        part: Any = plain
        *outer, last = path.split("__")
        for name in outer:
            part = part[name]
        if value is None:
            del part[last]
        else:
            part[last] = value
    return plain


def written(folder: Path, **changed: Any) -> Path:
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(settings(**changed)), encoding="utf-8")
    return folder


def test_a_vector_is_asked_about_at_the_length_and_place_of_the_settings(model, tmp_path):
    verbalizer = patchscopes.load_verbalizer(written(tmp_path))
    assert (verbalizer.layer, verbalizer.length, verbalizer.neighbours) == (2, 3.0, (token(">"), token("<")))
    ids, place = verbalizer.prompt(model)
    vectors = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    told = verbalizer.ask(model, vectors, max_tokens=6, verbose=False)
    for vector, said in zip(vectors, told, strict=True):
        unit = vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
        change = replace_with((unit * 3.0).astype(np.float32), positions=[place])
        text = model.generate(ids, max_tokens=6, interventions={"layers.0.resid_pre": change})
        assert said.text == text.strip() and not said.closed and said.mse is None
    assert verbalizer.ask(model, vectors[0], max_tokens=6, verbose=False) == told[:1]
    assert verbalizer.ask(model, vectors[0] * 100, max_tokens=6, verbose=False) == told[:1]


def test_a_reconstruction_stands_beside_each_text(model, tmp_path):
    verbalizer = patchscopes.load_verbalizer(written(tmp_path) / "nla_meta.yaml")
    vector = np.eye(WIDTH)[0]
    for made, mse, cosine in ((vector * 7, 0.0, 1.0), (-vector, 4.0, -1.0), (np.eye(WIDTH)[1], 2.0, 0.0)):
        [said] = verbalizer.ask(
            model, vector, max_tokens=2, verbose=False, reconstruct=lambda _, made=made: made
        )
        assert (said.mse, said.cosine) == (pytest.approx(mse), pytest.approx(cosine))


def test_the_explanation_is_what_stands_between_its_tags():
    from mlxterp.patchscopes.verbalizer import _explanation

    assert _explanation("x <explanation> a dog </explanation> y") == patchscopes.Verbalized("a dog", True)
    assert _explanation("<explanation>a do") == patchscopes.Verbalized("a do", False)
    assert _explanation(" a dog ") == patchscopes.Verbalized("a dog", False)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"kind": "sae"}, "kind 'sae'"),
    "a reconstructor": ({"role": "ar"}, "role 'ar'"),
    "no width": ({"d_model": None}, "d_model is None"),
    "a width that is none": ({"d_model": "64"}, "d_model is '64'"),
    "no length": ({"extraction": None}, "no extraction"),
    "a length of nothing": ({"extraction__injection_scale": 0.0}, "injection_scale is 0.0"),
    "an endless length": ({"extraction__injection_scale": float("inf")}, "injection_scale is inf"),
    "no tokens": ({"tokens": None}, "no tokens"),
    "no character": ({"tokens__injection_char": None}, "injection_char is None"),
    "a token that is none": ({"tokens__injection_token_id": -1}, "injection_token_id is -1"),
    "no neighbour": ({"tokens__injection_left_neighbor_id": None}, "injection_left_neighbor_id is None"),
    "no template": ({"prompt_templates": {"ar": "x"}}, "prompt_templates has none"),
    "a template without the slot": ({"prompt_templates__av": "say it"}, "once, and no other slot"),
    "a template with two": ({"prompt_templates__av": TEMPLATE * 2}, "once, and no other slot"),
    "a template that reaches inside": (
        {"prompt_templates__av": "{injection_char.__class__}"}, "once, and no other slot"
    ),
    "a template with an open brace": ({"prompt_templates__av": "{injection_char"}, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_cannot_be_are_refused(name, tmp_path):
    changed, told = REFUSED[name]
    with pytest.raises(InputError, match=told):
        patchscopes.load_verbalizer(written(tmp_path, **changed))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x [1]\nb: *x\n", "alias"),
        ("- 1\n", "expected an object"),
        ("kind: [", "cannot be read"),
        ("a: 1\na: 2", "twice"),
    ],
)
def test_damaged_and_hostile_files_are_refused(text, told, tmp_path):
    (tmp_path / "nla_meta.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told):
        patchscopes.load_verbalizer(tmp_path)


def test_a_folder_without_settings_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds nla_meta\.yaml"):
        patchscopes.load_verbalizer(tmp_path)
    with pytest.raises(InputError, match="path of a file"):
        patchscopes.load_verbalizer(7)  # type: ignore[arg-type]


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "another width": ({"d_model": 32}, "is 32 wide, the model 64"),
    "another token": ({"tokens__injection_token_id": 9}, "that of another model"),
    "other neighbours": ({"tokens__injection_left_neighbor_id": 9}, "was trained between 9 and"),
    "several tokens": ({"tokens__injection_char": "%%"}, "that of another model"),
    "a character that comes twice": ({"prompt_templates__av": "%" + TEMPLATE}, "2 times; once is expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_a_verbalizer_that_does_not_fit_the_model_is_refused(name, model, tmp_path):
    changed, told = MISFITS[name]
    verbalizer = patchscopes.load_verbalizer(written(tmp_path, **changed))
    with pytest.raises(InputError, match=told):
        verbalizer.ask(model, np.ones(verbalizer.d_model), verbose=False)


def test_vectors_that_cannot_be_said_are_refused(model, tmp_path):
    verbalizer = patchscopes.load_verbalizer(written(tmp_path))
    for given, told in (
        (np.zeros(WIDTH), "Vector 0 is zero"), (np.ones((2, 5)), "Vector 0 has 5 numbers"), ("dog", "holds text"),
        (np.full(WIDTH, np.nan), "no direction"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            verbalizer.ask(model, given, verbose=False)
