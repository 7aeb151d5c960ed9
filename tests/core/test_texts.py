"""Texts are accepted in every form in which users hold them, by one function, and what is no text is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, InterpretableModel, NoTokenizerError
from mlxterp.core.texts import TokenText, listed, one_text
from mlxterp.core.tokens import TokenBatch, held, several, to_batch
from mlxterp.data.dataset import StreamedTexts, open_texts, text_of, texts_of
from tests.tiny import WordTokenizer, tiny_llama

TEXTS = ["the cat sat", "a big dog", "run"]
ROWS = [[0, 1, 2], [4, 11, 12], [13]]


def _pandas() -> Any:
    return pytest.importorskip("pandas")


def _datasets() -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3]})


def _large(name: str) -> Any:
    arrow, datasets = pytest.importorskip("pyarrow"), pytest.importorskip("datasets")
    return datasets.Dataset(arrow.table({name: arrow.array(TEXTS, arrow.large_string()), "n": [1, 2, 3]}))


class _Sequence:
    """Texts that are only reached by number."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> str:
        return TEXTS[index]


def _padded(made: Callable[[Any], Any] = np.array) -> dict[str, Any]:
    """Token ids as a tokenizer pads them, on either side."""
    ids, mask = [[0, 1, 2], [4, 11, 12], [13, 7, 7]], [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    return {"input_ids": made(ids), "token_type_ids": made(mask), "attention_mask": made(mask)}


FORMS: dict[str, Callable[[], Any]] = {
    "list": lambda: list(TEXTS), "tuple": lambda: tuple(TEXTS), "generator": lambda: (text for text in TEXTS),
    "map": lambda: map(str, TEXTS), "dictionary's values": lambda: dict(enumerate(TEXTS)).values(),
    "numpy": lambda: np.array(TEXTS), "numpy objects": lambda: np.array(TEXTS, dtype=object),
    "series": lambda: _pandas().Series(TEXTS, index=[7, 8, 9]),
    "string": lambda: _pandas().Series(TEXTS, dtype="string"),
    "objects": lambda: _pandas().Series(TEXTS, dtype=object),
    "frame": lambda: _pandas().DataFrame({"story": TEXTS, "n": [1, 2, 3]}),
    "columns": lambda: {"n": [1, 2, 3], "story": TEXTS}, "rows": lambda: [{"n": 1, "story": text} for text in TEXTS],
    "column": lambda: _datasets()["text"], "data set": _datasets, "splits": lambda: {"text": _datasets()["text"]},
    "stream": lambda: _datasets().to_iterable_dataset(),
    "streamed column": lambda: _datasets().to_iterable_dataset()["text"],
    "pandas rows": lambda: _datasets().with_format("pandas"), "numpy rows": lambda: _datasets().with_format("numpy"),
    "arrow column": lambda: _datasets().with_format("arrow")["text"], "large": lambda: _large("story"),
    "large text": lambda: _large("text")["text"], "array": lambda: pytest.importorskip("pyarrow").array(TEXTS),
    "index": lambda: _pandas().Index(TEXTS), "values": lambda: _pandas().Series(TEXTS).values,
    "extension array": lambda: _pandas().Series(TEXTS, dtype="string").array,
    "categories": lambda: _pandas().Series(TEXTS, dtype="category").values,
    "table": lambda: pytest.importorskip("pyarrow").table({"n": [1, 2, 3], "story": TEXTS}),
    "sequence": lambda: _Sequence(),
}  # fmt: skip
IDS: dict[str, Callable[[], Any]] = {
    "lists": lambda: ROWS, "tuples": lambda: tuple(map(tuple, ROWS)), "generator": lambda: iter(ROWS),
    "numpy": lambda: [np.array(row, dtype=np.uint8) for row in ROWS],
    "objects": lambda: np.array(ROWS, dtype=object), "series": lambda: _pandas().Series(ROWS),
    "columns": lambda: {"input_ids": ROWS, "attention_mask": ROWS}, "batch": lambda: TokenBatch.from_rows(ROWS),
    "mlx": lambda: [pytest.importorskip("mlx.core").array(row) for row in ROWS],
    "torch": lambda: [pytest.importorskip("torch").tensor(row) for row in ROWS],
    "padded": _padded, "padded torch": lambda: _padded(pytest.importorskip("torch").tensor),
    "padded rows": lambda: [dict(zip(_padded(), row, strict=True)) for row in zip(*_padded().values(), strict=True)],
    "padded data set": lambda: pytest.importorskip("datasets").Dataset.from_dict(_padded()).with_format("numpy"),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> InterpretableModel:
    pytest.importorskip("mlx_lm")
    return tiny_llama(2, tokenizer=WordTokenizer())


@pytest.fixture(scope="module")
def bare() -> InterpretableModel:
    pytest.importorskip("mlx_lm")
    return tiny_llama(2)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_texts_gives_the_same_list(form):
    assert texts_of(FORMS[form]()) == TEXTS
    assert all(type(text) is str for text in texts_of(FORMS[form]()))


@pytest.mark.parametrize("form", IDS)
def test_every_form_of_token_ids_gives_texts_that_know_them(form, model):
    found = texts_of(IDS[form](), model.language_model)
    assert found == TEXTS
    assert [text.ids.tolist() for text in found if isinstance(text, TokenText)] == ROWS
    assert [model.tokenize(text) for text in found] == ROWS


@pytest.mark.parametrize("form", FORMS)
def test_a_model_runs_columns_and_generators_of_texts(form, model):
    assert np.array_equal(to_batch(FORMS[form](), model.tokenize).ids, to_batch(TEXTS, model.tokenize).ids)
    assert list(several(FORMS[form]()) or ()) == TEXTS == texts_of(held(FORMS[form]()))
    assert model.generate(FORMS[form](), max_tokens=2) == model.generate(TEXTS, max_tokens=2)
    assert model.to_str_tokens(FORMS[form]()) == model.to_str_tokens(TEXTS)


@pytest.mark.parametrize("form", IDS)
def test_a_model_runs_token_ids_in_every_form(form, model):
    assert np.array_equal(to_batch(IDS[form](), None).ids, to_batch(ROWS, None).ids)
    assert model.generate(IDS[form](), max_tokens=2) == model.generate(ROWS, max_tokens=2)


def test_padding_on_the_left_is_left_out():
    ids, mask = [[7, 7, 13], [0, 1, 2]], [[0, 0, 1], [1, 1, 1]]
    batch = to_batch({"input_ids": ids, "attention_mask": mask}, None)
    assert batch.ids.tolist() == [[13, 0, 0], [0, 1, 2]]
    assert batch.lengths.tolist() == [1, 3]


def test_a_single_text_is_told_from_several(model):
    for one in ("the cat", ROWS[0], np.array(ROWS[0]), (0, 1)):
        assert several(one) is None
        assert text_of(one, model.language_model) in ("the cat", TEXTS[0])
    assert one_text(np.array([ROWS[0]]), None) == "#0 #1 #2"
    for bad in (TEXTS, ROWS, 3, None, {"text": "a"}, [], b"a"):
        with pytest.raises(InputError):
            one_text(bad)


def test_a_stream_stays_one_and_a_generator_is_held():
    assert isinstance(open_texts(FORMS["stream"]()), StreamedTexts)
    opened = open_texts(FORMS["generator"]())
    assert [opened[i] for i in range(len(opened))] == [opened[i] for i in range(len(opened))] == TEXTS  # type: ignore


def test_the_one_split_is_taken_and_of_several_train_with_a_warning():
    datasets = pytest.importorskip("datasets")
    table = _datasets()
    assert texts_of(datasets.DatasetDict({"test": table})) == TEXTS
    with pytest.warns(match="'train' is taken"):
        assert texts_of(datasets.DatasetDict({"train": table, "test": table})) == TEXTS
    with pytest.raises(InputError, match="Which split"):
        texts_of(datasets.DatasetDict({"a": table, "b": table}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("one text", r"Put a single text into a list: \[text\]"),
        (np.array("one text"), "Put a single text"),
        (b"bytes", "got bytes"),
        (3, "got int"),
        ([1, 2, 3], r"given as token ids goes into a list: \[ids\]"),
        (np.array([1, 2, 3]), r"given as token ids goes into a list"),
        ([["a"]], "token id 0 is 'a'; token ids must be integers"),
        ([[1, 2.5]], "token id 1 is 2.5"),
        ([[True, False]], "token id 0 is True"),
        ([np.array([1.0])], "must be integers, got float64"),
        ([[1], []], "Text 1 has no tokens"),
        ([[1, -2]], "Token id -2 is outside"),
        ([[2**31]], "Token id 2147483648 is outside"),
        ([[2**80]], "is outside"),
        (["a", float("nan")], "Text 1 is float .*an empty cell"),
        ({"a": ["x"], "b": ["y"]}, "Which column holds the text"),
        ({"text": ["x", None]}, "Text 1 in column 'text' is NoneType"),
        ({}, "Which column"),
        ([{"text": "x"}, {"n": 1}], "Row 1 has no 'text'"),
        (np.array([["a"]]), r"shape \(1, 1\)"),
        (np.zeros((2, 2)), "must be integers, got float64"),
        ((), "An empty list"),
    ],
)
def test_what_holds_no_texts_is_named(bad, message):
    with pytest.raises(InputError, match=message):
        listed(bad)


@pytest.mark.parametrize("missing", [None, float("nan"), "NA"])
def test_an_empty_cell_of_a_series_is_named_with_its_row_and_label(missing):
    pandas = _pandas()
    kind = "string" if missing == "NA" else object
    column = pandas.Series(["a", pandas.NA if missing == "NA" else missing], index=["x", "y"], dtype=kind)
    for given_ in (column, {"text": column}):
        with pytest.raises(InputError, match=r"Row 1 \(label 'y'\) of the Series.*an empty cell"):
            listed(given_)


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_text_of_token_ids_survives_a_pickle_with_its_ids(rows):
    found = pickle.loads(pickle.dumps(listed(rows)))
    assert [text.ids.tolist() for text in found] == rows and found == listed(rows)


def test_ids_beyond_the_vocabulary_are_named_by_every_call(model):
    for call in (model, model.loss, model.generate, model.to_tokens):
        for bad in ([[1, 64]], [[2**31, 1]], [[1, 2**63]], [[-1, 2]], np.array([[1, 2**31]])):
            with pytest.raises(InputError, match=r"Token id -?\d+ is outside"):
                call(bad)


def test_loss_names_the_text_that_has_none(model):
    with pytest.raises(InputError, match="text 1 of 2 has one"):
        model.loss([[1, 2, 3], [3]])
    with pytest.raises(InputError, match="the text has one"):
        model.loss([3])
    for bad in ([[1, 2], []], [[1, 2.0]], [[True, True]], [1.5, 2.5]):
        with pytest.raises(InputError):
            model.loss(bad)


def test_a_model_without_a_tokenizer_takes_token_ids_everywhere(bare, model, tmp_path):
    from mlxterp import SAE, SAETrainConfig, collect_activations, steering
    from mlxterp.variants import TopK
    from mlxterp.weights import SAEWeights

    W = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    sae = SAE(
        SAEWeights(W.T, np.zeros(16, np.float32), W, np.zeros(32, np.float32)), TopK(4),
        {"component": "layers.1.resid_post"},
    )  # fmt: skip
    rows = [[i, i + 1, i + 2, 5] for i in range(20)]
    index = bare.build_index(sae, rows, verbose=False)
    direct = bare.get_top_texts_for_feature(3, sae, rows)
    told = model.get_top_texts_for_feature(3, sae, rows)
    assert [hit[1:] for hit in direct] == [hit[1:] for hit in told] and direct
    assert direct[0][0].startswith("#") and index.top_texts(3) == direct
    assert index.holds(rows) and not index.holds(rows[1:])
    assert index.top_features(rows[0]) == bare.get_top_features_for_text(rows[0], sae)
    assert "#" in str(index.feature(3)) and bare.visualize_feature_activations(rows[0], sae).tokens[0] == "#0"
    assert bare.get_top_texts_for_feature(3, sae, rows, index=index) == direct
    assert bare.evaluate_sae(sae, rows).tokens == bare.check_sae(sae, rows).tokens == 60
    config = SAETrainConfig(d_hidden=16, k=2, batch_size=16)
    trained = bare.train_sae(1, rows, "mlp", config, verbose=False)
    assert trained.component == "layers.1.mlp"
    store = collect_activations(bare, rows, "layers.1.mlp", tmp_path / "store", progress=False)
    assert sum(store.meta["excluded"].values()) < 80
    assert steering.difference_of_means(bare, rows[:5], rows[5:], "layers.1.mlp").norm > 0
    with bare.attach_sae(sae) as handle:
        assert handle.encode(rows).n == 20
    for call in (
        lambda: bare.build_index(sae, TEXTS), lambda: bare.evaluate_sae(sae, TEXTS),
        lambda: bare.get_top_features_for_text("a", sae), lambda: bare.train_sae(1, TEXTS, "mlp", config),
        lambda: collect_activations(bare, TEXTS, "layers.1.mlp", tmp_path / "other"),
    ):  # fmt: skip
        with pytest.raises(NoTokenizerError, match="This model has no tokenizer"):
            call()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "bad", [-1, 2**31, 2**40, 2**63, 2**64, [3, -1], [10**30], [True], [1.0], "a", None, {1}]
)
def test_what_no_vocabulary_has_is_not_decoded(bad, model):
    with pytest.raises(InputError):
        model.decode(bad)


@pytest.mark.parametrize("good", [1, np.uint64(1), [1], (1,), range(1, 2), [[1]], np.array([[1]])])
def test_token_ids_of_one_text_are_decoded(good, model):
    assert model.decode(good) == "cat"
