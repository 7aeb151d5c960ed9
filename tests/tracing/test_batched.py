"""Several prompts together give what each gives alone: tokens, edits, hooks, SAEs, failures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlxterp
from mlxterp import InputError, InterpretableModel, MlxterpWarning, NotFiniteError, steering, variants
from mlxterp.backends.host.capacity import Capacity
from mlxterp.backends.host.prefill import merged_groups, prefilled
from mlxterp.core.continuations import Continuation
from mlxterp.edits.compile import site_edits
from mlxterp.edits.edits import flattened
from mlxterp.interventions import Intervention, add_vector, clamp, noise, replace_with, scale, zero_out
from tests.architectures import build, model_types
from tests.edits.test_edits import PLACE, D, make_sae
from tests.letters import LetterTokenizer
from tests.small import open_llama
from tests.tracing.together import Compared, compared

ROWS = np.random.default_rng(0)
LENGTHS = (1, 2, 5, 5, 12, 30)
TORCH = (
    "llama", "gpt2", "qwen2", "gemma2", "gemma3_text", "gpt_neox", "opt", "mixtral", "olmo2", "gpt_oss", "phi", "bloom",
    "mamba", "jamba",
)  # fmt: skip
PROMPTS = [ROWS.integers(0, 200, n).tolist() for n in LENGTHS]


@pytest.fixture
def reader(folder: Path | None, backend: str) -> InterpretableModel:
    return open_llama(folder, backend, LetterTokenizer())


def whole(found: Compared, n: int = len(PROMPTS)) -> None:
    """Every text equal, or parted at a tie; on these models ties are rare."""
    assert found.equal + len(found.ties) == n
    assert len(found.ties) <= 1, found.ties


# -- architectures ---------------------------------------------------------------------------------


ARCHITECTURES = [name for name in model_types() if name != "olmo"]
"""mlx-lm itself cannot read a prompt of olmo: it adds a word to its scores."""


EQUAL = ("afm7", "deepseek_v41", "gpt_bigcode", "llama4", "minimax_m3_vl")
"""Their caches hold texts of one length only."""


@pytest.mark.parametrize("model_type", [name for name in EQUAL if name in ARCHITECTURES])
def test_caches_that_hold_one_length_say_so_once(model_type):
    model = InterpretableModel(build(model_type))
    with pytest.warns(MlxterpWarning, match="only those of equal length together"):
        model.generate([[1, 2], [3, 4, 5], [6, 7]], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate([[1, 2], [3, 4, 5], [6, 7]], 2)


@pytest.mark.parametrize("model_type", sorted(TORCH))
def test_torch_architectures_give_together_what_they_give_alone(model_type):
    tiny = pytest.importorskip("tests.backends.tiny_torch").tiny
    model = InterpretableModel(tiny(model_type).model)
    logits_agree(model.language_model)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 61, n).tolist() for n in (1, 4, 4, 7, 20)]
    change = {"layers.1": add_vector(rng.standard_normal(model.d_model).astype(np.float32))}
    for options in (
        {}, {"temperature": 0.8, "seed": [1, 2, 3, 4, 5]}, {"prefill_step_size": 3},
        {"interventions": [change, None, change, None, None], "positions": slice(2, 9, 2)},
    ):  # fmt: skip
        whole(compared(model, prompts, max_tokens=6, **cast(Any, options)), len(prompts))


def logits_agree(model: Any) -> None:
    """Three steps of texts of different lengths, given the same tokens together and alone, to 1e-5 of the largest.

    Where reading a prompt in other chunks moves the logits of one text further than that, three times so far.
    """
    rng = np.random.default_rng(5)
    rows = [Continuation(rng.integers(0, model.vocab_size, n).tolist(), 1) for n in (1, 9, 9, 17)]
    steps = rng.integers(0, model.vocab_size, (3, len(rows))).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        list(model.stream_rows(rows[:2]))  # finds out what the caches hold
    together = forced(model, rows, steps)
    for i, row in enumerate(rows):
        own = [[step[i]] for step in steps]
        alone = forced(model, [row], own)[0]
        error = np.abs(together[i] - alone).max()
        if error > 1e-5 * np.abs(alone).max():
            others = [forced(model, [row], own, chunk=chunk)[0] for chunk in (1, 3, 2048)]
            assert error <= 3 * max(np.abs(other - alone).max() for other in others)


def forced(
    model: Any, rows: list[Continuation], steps: list[list[int]], chunk: int = 6
) -> dict[int, np.ndarray]:
    """The logits (steps, vocabulary) of each row after given tokens."""
    passes, wave = model.passes(rows), list(range(len(rows)))
    groups = prefilled(passes, rows, wave, model._capacities._known.reading(chunk))
    batches = merged_groups(passes, groups) if model._capacities._known.holding == "any" else groups
    found: dict[int, list[np.ndarray]] = {i: [] for i in wave}
    for batch, _ in batches:
        for step in steps:
            given_now = passes.put([step[i] for i in batch.rows])
            for i, logits in zip(
                batch.rows, passes.backend.get(passes.logits(batch, given_now)), strict=True
            ):
                found[i].append(logits)
    return {i: np.stack(several) for i, several in found.items()}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_gives_together_what_it_gives_alone(model_type):
    """Logits, texts that are drawn, and chosen ones of an edited model; what a model's caches hold is tried once."""
    model = InterpretableModel(build(model_type))
    logits_agree(model.language_model)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, model.language_model.vocab_size, n).tolist() for n in (1, 4, 4, 20)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        settings = {"prefill_step_size": 5, "temperature": 0.8, "seed": [1, 2, 3, 4]}
        drawn = compared(model, prompts, max_tokens=[3, 1, 5, 2], **settings)
        vector = rng.standard_normal(model.d_model).astype(np.float32)
        edit = {"layers.1.mlp_out": add_vector(vector)} if has(model, "layers.1.mlp_out") else None
        edited = compared(
            model,
            prompts,
            max_tokens=4,
            interventions=[edit, None, None, edit],
            positions=slice(2, 9, 2),
        )
    for found in (drawn, edited):
        whole(found, len(prompts))


def has(model: InterpretableModel, name: str) -> bool:
    try:
        model.session.plain.component(name)
    except mlxterp.ComponentError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:.*was made for 128")
def test_long_and_short_prompts_together(model):
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 200, n).tolist() for n in (1, 300, 3, 164, 2, 90, 31, 7, 256, 257)]
    edit = steering.add_feature(make_sae(), 7, 3.0, positions="generated")
    for chunk in (16, 100, 2048):
        whole(compared(model, prompts, max_tokens=12, prefill_step_size=chunk), len(prompts))
    whole(compared(model, prompts, max_tokens=12, steer=[edit, None] * 5), len(prompts))


@pytest.mark.parametrize("tokens", [1, 20, 60, 10_000])
def test_a_bound_on_tokens_changes_no_text(model, tokens):
    whole(compared(model, PROMPTS, max_tokens=8, batch_tokens=tokens))


# -- settings by row -------------------------------------------------------------------------------


def test_settings_of_each_row(reader):
    texts = ["abc", "the cat", "a", "hello there", "zz", "once upon"]
    alone = [reader.generate(text, 30) for text in texts]
    stops = [[text[4:6]] if len(text) > 8 else None for text in alone]
    found = compared(
        reader, texts, max_tokens=[1, 30, 7, 12, 30, 25], seed=[0, 1, 2, 3, 4, 4], temperature=0.9,
    )  # fmt: skip
    assert found.equal == len(texts)
    stopped = reader.generate(texts, 30, stop=stops)
    for text, stop, ours in zip(texts, stops, stopped, strict=True):
        assert ours == reader.generate(text, 30, stop=stop)
    assert reader.generate(texts, 30, stop=["e", "b"]) == [
        reader.generate(t, 30, stop=["e", "b"]) for t in texts
    ]


def test_rows_may_be_anything_that_holds_prompts(reader):
    texts = ["abc", "the cat", "a"]
    expected = [reader.generate(text, 5) for text in texts]
    for given_as in (tuple(texts), np.array(texts), (text for text in texts)):
        assert reader.generate(given_as, 5) == expected
    ids = [reader.tokenizer.encode(text) for text in texts]
    assert reader.generate(ids, 5) == reader.generate([np.array(row) for row in ids], 5)
    square = np.array([[3, 4, 5], [6, 7, 8]])
    assert reader.generate(square, 5) == [reader.generate(row.tolist(), 5) for row in square]
    assert reader.generate(texts, np.array([5, 5, 5]), seed=np.array([1, 2, 3])) == expected
    assert reader.generate(["abc"], 5) == expected[:1]


def test_equal_prompts_with_one_seed_are_equal_and_with_others_differ(reader):
    same = reader.generate(["abc"] * 4, 12, temperature=1.0, seed=3)
    assert len(set(same)) == 1
    assert len(set(reader.generate(["abc"] * 4, 12, temperature=1.0, seed=[1, 2, 3, 4]))) == 4
    assert len(set(reader.generate(["abc"] * 4, 12, temperature=1.0))) > 1


# -- edits by row ----------------------------------------------------------------------------------


def edits(sae: Any) -> dict[str, Any]:
    v = np.random.default_rng(3).standard_normal(D).astype(np.float32)
    f = 7
    return {
        "none": None,
        "amplify": steering.amplify(sae, f, 4.0),
        "ablate": steering.ablate(sae, f),
        "clamp": steering.clamp(sae, f, 3.0),
        "at least": steering.clamp(sae, f, 2.0, at_least=True),
        "add": steering.add_feature(sae, f, 2.5),
        "add norm": steering.add_feature(sae, f, 0.7, units="norm"),
        "add kept": steering.add_feature(sae, f, 3.0, preserve_norm=True),
        "direction": steering.add_direction(v, 1.5, at=PLACE),
        "project": steering.project_out(v, at=PLACE, keep=-1.0),
        "threshold": steering.threshold_add(v, 2.0, 0.1, at=PLACE),
        "prompt": steering.add_feature(sae, f, 3.0, positions="prompt"),
        "generated": steering.add_feature(sae, f, 3.0, positions="generated"),
        "a slice": steering.add_feature(sae, f, 3.0, positions=slice(1, 14, 3)),
        "a list": steering.clamp(sae, f, 3.0, positions=[0, 1]),
        "when": steering.add_feature(sae, f, 4.0, when=steering.feature(sae, 3) > 0.2),
        "when along": steering.clamp(sae, f, 4.0, when=steering.direction(v) > 0.0),
        "elsewhere": steering.add_feature(
            sae, f, 4.0, when=steering.feature(sae, 3, at="layers.0.resid_post") > 0.2
        ),
        "two": [steering.amplify(sae, f, -2.0), steering.add_direction(v, 1.0, at="layers.0.mlp")],
    }


KINDS = list(edits(make_sae()))


@pytest.mark.parametrize("activation", [None, variants.JumpReLU(), variants.BatchTopK(8)])
def test_every_row_has_its_own_edit(model, activation):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)  # a BatchTopK SAE without a threshold
        kinds = list(edits(make_sae(activation)).values())
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(kinds))]
        whole(compared(model, prompts, max_tokens=6, steer=kinds), len(kinds))
        whole(compared(model, prompts[::-1], max_tokens=6, steer=kinds, prefill_step_size=4), len(kinds))


def test_edits_that_only_add_a_vector_are_one_addition(model):
    own, sae, anatomy = edits(make_sae()), make_sae(), model.session.anatomy
    adding = {
        kind
        for kind, edit in own.items()
        if edit is not None
        and any(one.adds is not None for one in site_edits(anatomy, flattened([edit]), generating=True))
    }
    assert adding == {"add", "direction", "two"}  # of the two one adds, at its own place
    [whole_edit] = site_edits(anatomy, [steering.add_feature(sae, 5, 2.0)], generating=True)
    assert whole_edit.adds is not None
    value = model.language_model.backend.put(np.zeros((1, 2, D), dtype=np.float32))
    added = model.language_model.backend.get(whole_edit.adds(value))
    assert np.allclose(added, 2 * sae.W_dec[5], rtol=1e-6)
    [both] = site_edits(
        anatomy, [steering.add_feature(sae, 5, 2.0), steering.add_direction(sae.W_dec[6], 1.0, at=PLACE)],
        generating=True,
    )  # fmt: skip
    assert both.adds is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("none", "two")])
def test_one_edit_for_all_rows(model, kind):
    whole(compared(model, PROMPTS, max_tokens=6, steer=edits(make_sae())[kind]))


def interventions() -> dict[str, dict[str, Any]]:
    v = np.random.default_rng(4).standard_normal(D).astype(np.float32)
    return {
        "zero": {"layers.1.mlp": zero_out(positions=slice(0, None, 2))},
        "heads": {"layers.2.attn.z": zero_out(heads=[0, 2])},
        "scale": {"layers.0.attn": scale(-1.5)},
        "vector": {"layers.1.mlp_out": add_vector(v), "layers.2.resid_post": [scale(0.5), add_vector(v)]},
        "replaced": {"layers.1.mlp": replace_with(v, positions=[0, 1])},
        "limits": {"layers.1.resid_post": clamp(-0.3, 0.4)},
        "noise": {"layers.1.resid_post": noise(0.3, seed=5)},
        "a function": {"layers.1.resid_post": lambda x: x - x.mean()},
        "of positions": {"layers.1.mlp": Intervention(lambda x, where: x * float(where.positions.sum() % 3))},
        "q": {"layers.1.attn.q": scale(2.0, heads=1)},
        "k": {"layers.1.attn.k": scale(-2.0, positions=[1])},
        "v": {"layers.1.attn.v": zero_out(positions=slice(1, 9, 2))},
        "pattern": {"layers.1.attn.pattern": zero_out(heads=0)},
        "embedding": {"embed": scale(1.5, positions=slice(3, None))},
        "logits": {"lm_head": add_vector(np.linspace(0, 3, 200, dtype=np.float32))},
        "an edit": {"layers.1.mlp": steering.add_direction(v, 2.0)},
    }


@pytest.mark.parametrize("kind", list(interventions()))
def test_interventions_for_all_rows_and_for_some(model, kind):
    change = interventions()[kind]
    whole(compared(model, PROMPTS, max_tokens=6, interventions=change))
    each = [change if i % 2 else None for i in range(len(PROMPTS))]
    whole(compared(model, PROMPTS, max_tokens=6, interventions=each, prefill_step_size=4))


@pytest.mark.parametrize("positions", ["prompt", "generated", slice(2, 15, 3), [0, 1, 5]])
def test_positions_count_in_each_rows_own_text(model, positions):
    change = {"layers.1.mlp": scale(-2.0)}
    whole(compared(model, PROMPTS, max_tokens=6, interventions=change, positions=positions))
    v = np.random.default_rng(4).standard_normal(D).astype(np.float32)
    edit = steering.add_direction(v, 2.0, at=PLACE)
    whole(compared(model, PROMPTS, max_tokens=6, steer=edit, positions=positions))


def test_steered_texts_are_those_of_a_recomputation_without_a_cache(model):
    sae = make_sae()
    kinds = [edit for name, edit in edits(sae).items() if name not in ("prompt", "generated", "none")]
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(kinds))]
    for prompt, edit, ours in zip(prompts, kinds, model.generate(prompts, 5, steer=kinds), strict=True):
        ids = list(prompt)
        with model.steer(edit):
            for token in ours:
                logits = model.language_model.backend.get(model.trace(ids).output)[0, -1]
                assert logits[token] >= logits.max() - 1e-5 * np.abs(logits).max()
                ids.append(token)


# -- who watches -----------------------------------------------------------------------------------


def test_detectors_see_each_row_as_alone(model):
    def seen(run: Any) -> mlxterp.Detector:
        detector = mlxterp.Detector(PLACE, keep=True, statistics=True)
        with model.add_hook(detector):
            run()
        return detector

    counts = [3, 1, 6, 2, 5, 4]
    ours = seen(lambda: model.generate(PROMPTS, counts))
    alone = seen(lambda: [model.generate(p, n) for p, n in zip(PROMPTS, counts, strict=True)])
    assert ours.statistics.count == alone.statistics.count
    for a, b in zip(ours.activations, alone.activations, strict=True):  # in the order of the prompts
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.parametrize(
    "name", ["layers.1.mlp", "layers.1.attn.q", "layers.1.attn.k", "layers.1.attn.pattern"]
)
def test_an_observer_is_given_one_text_at_a_time(model, name):
    seen: list[tuple[int, int, tuple[int, ...]]] = []

    def note(x: Any, where: Any) -> None:
        assert x.shape[0] == 1 and where.positions.ndim == 1
        text = -1 if where.texts is None else int(where.texts[0])
        seen.append((text, int(where.positions[-1]), tuple(x.shape)))

    with model.add_hook(mlxterp.Detector(name, note)):
        model.generate(PROMPTS, 4)
        together, seen = seen, []
        for number, prompt in enumerate(PROMPTS):
            before = len(seen)
            model.generate(prompt, 4)
            seen[before:] = [(number, last, shape) for _, last, shape in seen[before:]]
    assert sorted(set(together)) == sorted(set(seen))


def test_controllers_change_each_row_as_alone(model):
    class Centred(mlxterp.Controller):
        def modify(self, activation: Any) -> Any:
            return activation - activation.mean()

    with model.add_hook(Centred(PLACE)), model.add_hook(mlxterp.Controller("layers.0.mlp", zero_out([1]))):
        whole(compared(model, PROMPTS, max_tokens=5))


def test_attached_saes_change_and_track_each_row_as_alone(reader):
    texts = ["abc", "the cat sat", "a", "hello there", "zz", "once upon a time"]
    sae, other = make_sae(), make_sae()
    for one in (sae, other):
        one.concepts.enable_text_tracking(top_k=3)
        one.concepts.manipulate_concept(7, 2.0)
    with reader.attach_sae(sae):
        ours = reader.generate(texts, 6)
    with reader.attach_sae(other):
        alone = [reader.generate(text, 6) for text in texts]
    assert ours == alone
    found, expected = sae.concepts.get_top_texts(), other.concepts.get_top_texts()
    assert found.keys() == expected.keys()
    whole_texts = {text + more for text, more in zip(texts, ours, strict=True)}
    for feature, ranked in found.items():
        assert {text for text, _ in ranked} <= whole_texts
        strengths = [value for _, value in ranked]
        assert strengths == pytest.approx([value for _, value in expected[feature]], rel=1e-4, abs=1e-5)


def test_an_sae_in_the_activations_place(reader):
    texts = ["abc", "the cat sat", "a", "hello there"]
    with reader.attach_sae(make_sae(), mode="replace"):
        assert reader.generate(texts, 6) == [reader.generate(text, 6) for text in texts]


def test_steer_blocks_act_on_all_rows(model):
    with model.steer(steering.add_feature(make_sae(), 7, 3.0)):
        whole(compared(model, PROMPTS, max_tokens=5))


# -- random programs -------------------------------------------------------------------------------


@st.composite
def programs(draw: Any) -> dict[str, Any]:
    n = draw(st.integers(1, 7))
    prompts = [draw(st.lists(st.integers(0, 199), min_size=1, max_size=40)) for _ in range(n)]
    own = draw(st.booleans())
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(n)]
    changes = [draw(st.sampled_from([None, *interventions()])) for _ in range(n)]
    return {
        "prompts": prompts,
        "kinds": kinds if own else kinds[:1] * n,
        "changes": changes if own else changes[:1] * n,
        "max_tokens": [draw(st.integers(1, 8)) for _ in range(n)],
        "seed": [draw(st.integers(0, 9)) for _ in range(n)],
        "temperature": draw(st.sampled_from([0.0, 0.7])),
        "top_p": draw(st.sampled_from([1.0, 0.8])),
        "prefill_step_size": draw(st.sampled_from([3, 2048])),
        "batch_tokens": draw(st.sampled_from([None, 1, 50])),
    }


_MODELS: dict[str, InterpretableModel] = {}


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(program=programs())
def test_random_programs_give_what_each_row_gives_alone(program, folder, backend):
    model = _MODELS.setdefault(backend, open_llama(folder, backend))
    sae, table = make_sae(), interventions()
    chosen = edits(sae)
    whole(
        compared(
            model, program["prompts"], max_tokens=program["max_tokens"], seed=program["seed"],
            temperature=program["temperature"], top_p=program["top_p"], batch_tokens=program["batch_tokens"],
            prefill_step_size=program["prefill_step_size"], steer=[chosen[kind] for kind in program["kinds"]],
            interventions=[None if name is None else table[name] for name in program["changes"]],
        ),
        len(program["prompts"]),
    )  # fmt: skip


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_wrongly", "said"),
    [
        ({"seed": [1, 2]}, "seed has 2 entries for 3 prompts"),
        ({"max_tokens": [4, 4, 4, 4]}, "max_tokens has 4 entries for 3 prompts"),
        ({"interventions": [None]}, "interventions has 1 entry for 3 prompts"),
        ({"steer": [None, None]}, "steer has 2 entries for 3 prompts"),
        ({"stop": [["a"], None]}, "stop has 2 entries for 3 prompts"),
        ({"seed": [1, -2, 3]}, "seed"),
        ({"max_tokens": [1, 2, 2.5]}, "max_tokens"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"steer": ["x", None, None]}, "Expected edits"),
        ({"interventions": [None, 3, None]}, "interventions"),
    ],
)
def test_lists_of_another_length_and_wrong_entries_are_named(reader, given_wrongly, said):
    with pytest.raises(InputError, match=said):
        reader.generate(["abc", "de", "f"], **{"max_tokens": 3, **cast(Any, given_wrongly)})


def test_an_empty_prompt_among_others_is_named(reader):
    with pytest.raises(InputError, match="Prompt 2 of 3"):
        reader.generate([[1, 2], [3], []], 3)
    with pytest.raises(InputError, match="Prompt 0 of 2"):
        reader.generate([[1, 10**6], [3]], 3)


def test_a_prompt_longer_than_the_positions_is_named():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.AutoConfig.for_model(
        "gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=16, vocab_size=50, eos_token_id=None
    )
    model = InterpretableModel(transformers.AutoModelForCausalLM.from_config(config))
    with pytest.raises(InputError, match="Prompt 1 of 3 and max_tokens=4 make 17 tokens"):
        model.generate([[1, 2], [3] * 13, [4]], 4)


def spoiled(row: int) -> list[Any]:
    """An edit of one of four rows that makes its logits NaN."""
    return [
        {"layers.1.mlp": Intervention(lambda x, where: x * float("nan"), positions="generated")}
        if i == row
        else None
        for i in range(4)
    ]


def test_a_row_that_fails_is_named_and_the_others_go_on(model):
    prompts = PROMPTS[:4]
    with pytest.warns(MlxterpWarning, match="Prompt 2 of 4 failed"):
        found = model.generate(prompts, 6, interventions=spoiled(2))
    assert found[2] is None
    assert [found[i] for i in (0, 1, 3)] == [model.generate(prompts[i], 6) for i in (0, 1, 3)]
    with pytest.raises(NotFiniteError):
        model.generate(prompts[:2], 6, interventions=spoiled(0)[:1] * 2)


def test_ctrl_c_keeps_what_is_finished(model):
    calls = iter(range(10**6))

    def interrupt(_: Any) -> None:
        if next(calls) > 40:
            raise KeyboardInterrupt

    with (
        model.add_hook(mlxterp.Detector(PLACE, interrupt)),
        pytest.warns(MlxterpWarning, match="Interrupted"),
    ):
        found = model.generate(PROMPTS, [1, 2, 1, 2, 90, 90])
    assert found[:4] == [model.generate(p, n) for p, n in zip(PROMPTS[:4], (1, 2, 1, 2), strict=True)]
    assert found[4:] == [None, None]
    assert model.generate(PROMPTS[:1], 3) == [model.generate(PROMPTS[0], 3)]


def test_an_edit_that_raises_leaves_the_model_as_it_was(model):
    def broken(_: Any) -> Any:
        raise ValueError("mine")

    before = model.generate(PROMPTS, 4)
    with pytest.raises(ValueError, match="mine"):
        model.generate(PROMPTS, 4, interventions=[None, None, {"layers.1.mlp": broken}, None, None, None])
    assert model.generate(PROMPTS, 4) == before


# -- caches and values that do not lend themselves -------------------------------------------------


def caches(model: Any, make: Any) -> InterpretableModel:
    """An MLX model with caches of its own."""
    native = cast(Any, model.language_model).model
    type(native).make_cache = lambda self: [make() for _ in self.layers]
    return InterpretableModel(native)


def own_window() -> Any:
    """A subclass of mlx-lm's cache with a mask of its own, which a merged cache would not have."""
    from mlx_lm.models.base import create_causal_mask
    from mlx_lm.models.cache import KVCache

    class Window(KVCache):
        def make_mask(self, N: int, *args: Any, **options: Any) -> Any:
            return create_causal_mask(N, self.offset, window_size=8)

    return Window()


@pytest.mark.parametrize("kind", ["keep", "own", "quantized", "rotating"])
def test_caches_of_any_kind_give_the_same_texts(kind):
    cache = pytest.importorskip("mlx_lm.models.cache")
    from tests.tiny import tiny_llama

    model = tiny_llama(hidden_size=128)  # heads of 32: a group of quantized numbers
    native = cast(Any, model.language_model).model
    native.__class__ = type("Own", (type(native),), {})
    make = {
        "keep": lambda: cache.RotatingKVCache(max_size=16, keep=4), "own": own_window,
        "quantized": lambda: cache.QuantizedKVCache(group_size=32, bits=8),
        "rotating": lambda: cache.RotatingKVCache(max_size=10),
    }[kind]  # fmt: skip
    model = caches(model, make)
    prompts = [row[:] for row in ([1, 2, 3], [4, 5, 6, 7, 8], [9, 10, 11, 12, 13], list(range(3, 15)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        whole(compared(model, prompts, max_tokens=20), len(prompts))


@pytest.mark.skipif("qwen3_moe" not in ARCHITECTURES, reason="its shape stands in ../shared")
def test_values_without_rows_of_one_text_run_one_by_one_and_say_so_once():
    name = "layers.1.mlp.switch_mlp.gate_proj"
    model = InterpretableModel(build("qwen3_moe"))
    prompts = [list(range(40)), list(range(5, 45)), list(range(60)), [1, 2]]
    change = {name: lambda x: x * -2}
    with pytest.warns(MlxterpWarning, match="one by one"):
        together = model.generate(prompts, 4, interventions=change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.generate(prompts, 4, interventions=change) == together
    assert together == [model.generate(prompt, 4, interventions=change) for prompt in prompts]


def test_a_torch_model_that_scales_positions_by_the_longest_text():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=16, eos_token_id=None,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    )  # fmt: skip
    model = InterpretableModel(transformers.AutoModelForCausalLM.from_config(config).eval())
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 61, n).tolist() for n in (3, 5, 5, 8, 30)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        whole(compared(model, prompts, max_tokens=6), len(prompts))


def test_few_learned_positions():
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=8, vocab_size=50, eos_token_id=None
    )
    model = InterpretableModel(transformers.AutoModelForCausalLM.from_config(config).eval())
    prompts = [[1, 2], [3, 4, 5], [6, 7]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        whole(compared(model, prompts, max_tokens=3), 3)
        whole(compared(model, prompts, max_tokens=3, interventions={"layers.0.mlp": scale(2.0)}), 3)


def test_modules_of_eager_attention_meet_no_padded_keys():
    tiny = pytest.importorskip("tests.backends.tiny_torch").tiny
    model = InterpretableModel(tiny("bloom", "eager").model)
    name = "layers.1.self_attention.attention_dropout"
    keys: list[int] = []
    prompts = [[1, 2, 3], [4, 5, 6, 7], list(range(20))]
    with model.add_hook(mlxterp.Detector(name, lambda x: keys.append(int(x.shape[-1])))):
        model.generate(prompts, 2)
        together, keys = sorted(keys), []
        for prompt in prompts:
            model.generate(prompt, 2)
    assert together == sorted(keys)
    whole(compared(model, prompts, max_tokens=4, interventions={name: lambda x: x * x.shape[-1]}), 3)


def test_waves_keep_to_the_bounds():
    capacity = Capacity("any", row_bytes=100, token_bytes=10)
    rows = [Continuation([0] * n, 5) for n in (9, 1, 4, 4, 30)]
    sizes = [[rows[i].whole for i in wave] for wave in capacity.waves(rows, 20, 10**9)]
    assert sizes == [[6, 9], [9], [14], [35]]
    assert capacity.waves(rows, None, 10**9) == [[1, 2, 3, 0, 4]]
    assert capacity.waves(rows, None, 4 * 400) == [[1, 2], [3], [0], [4]]
    assert Capacity("one", 0, 0).waves(rows, None, 10**9) == [[1], [2], [3], [0], [4]]
    assert Capacity("equal", 1, 1).waves(rows, None, 10**9) == [[1], [2, 3], [0], [4]]
    assert len(capacity.waves([Continuation([0], 1)] * 300, None, 10**12)) == 3
