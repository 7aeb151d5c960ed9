"""Generations of the explorer: the same as the model's own, side by side, in turn, and ended when nobody listens."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxterp import steering
from mlxterp.explorer.generation import Generation, request_of
from mlxterp.explorer.model_thread import MOST, ModelThread
from tests.explorer.client import Client, end_of, text_of
from tests.explorer.conftest import BALL, Shown

PROMPT = "She saw a"
ADD = {"feature": BALL, "kind": "add", "strength": 2}


@pytest.fixture(scope="module")
def client(shown: Shown) -> Iterator[Client]:
    """Asks the server that all tests share."""
    with Client(shown.url) as made:
        yield made


def free(client: Client) -> dict[str, Any]:
    """The status once no generation runs or waits."""
    while (status := client.said("status"))["busy"] or status["waiting"]:
        pass
    return status


def edits(shown: Shown, *several: dict[str, Any]) -> list[Any]:
    """The same edits as Python makes them."""
    sae, made = shown.demo.sae, []
    for one in several:
        f, kind, strength = one["feature"], one["kind"], one.get("strength", 0)
        if kind == "add":
            made.append(steering.add_feature(sae, f, strength, "max", index=shown.index))
        elif kind == "clamp":
            made.append(steering.clamp(sae, f, strength, units="max", index=shown.index))
        else:
            made.append(steering.amplify(sae, f, strength if kind == "scale" else 0))
    return made


@pytest.mark.parametrize(
    ("several", "settings"),
    [
        ([ADD], {}),
        ([ADD], {"temperature": 1.0, "seed": 7}),
        ([ADD], {"positions": "generated"}),
        ([{"feature": BALL, "kind": "clamp", "strength": 1.5}, {"feature": 571, "kind": "ablate"}], {}),
        ([{"feature": 571, "kind": "scale", "strength": 3}], {"temperature": 0.8, "top_p": 0.9, "seed": 1}),
    ],
)
def test_both_texts_are_those_of_generate(
    client: Client, shown: Shown, several: list[Any], settings: dict[str, Any]
):
    events = client.steered(prompt=PROMPT, edits=several, max_tokens=8, **settings)
    model, own = shown.demo.model, {k: v for k, v in settings.items() if k != "positions"}
    own.setdefault("seed", 0)
    assert text_of(events, "base") == model.generate(PROMPT, 8, **own)
    where = settings.get("positions", "all")
    assert text_of(events, "steered") == model.generate(
        PROMPT, 8, steer=edits(shown, *several), positions=where, **own
    )
    assert events[-1]["done"] and events[-1]["pieces"] == sum("on" in event for event in events)


def test_without_an_edit_or_with_strength_0_both_are_alike(client: Client):
    for several in ([], [{**ADD, "strength": 0}]):
        events = client.steered(prompt=PROMPT, edits=several, max_tokens=6, temperature=0.9, seed=3)
        assert text_of(events, "base") == text_of(events, "steered") != ""


@pytest.mark.parametrize("prompt", [PROMPT, "Once upon a time", "Lily went to the", "She said: "])
def test_perplexities_are_those_of_the_unsteered_model(client: Client, shown: Shown, prompt: str):
    events = client.steered(prompt=prompt, edits=[ADD], max_tokens=8)
    for side in ("base", "steered"):
        end = end_of(events, side)
        assert end["text"] == text_of(events, side)
        glue = next(event.get("glue", "") for event in events if event.get("on") == side)
        whole = prompt + glue + end["text"]
        assert end["loss"] == pytest.approx(shown.demo.model.loss(whole), rel=1e-5)
        assert end["perplexity"] == pytest.approx(math.exp(end["loss"]))


def test_the_space_that_generate_leaves_out_is_told(client: Client):
    events = client.steered(prompt="Lily went to the", max_tokens=3)
    first, second = [event for event in events if event.get("on") == "base"][:2]
    assert first["glue"] == " " and not first["piece"].startswith(" ") and "glue" not in second
    assert not any("glue" in event for event in client.steered(prompt="Once upon a time", max_tokens=3))


def test_the_texts_grow_in_turns(client: Client):
    events = client.steered(prompt=PROMPT, edits=[ADD], max_tokens=5)
    assert [event["on"] for event in events if "on" in event] == ["base", "steered"] * 5
    assert events[0] == {"queued": 0} and {"started": True} in events


def test_one_side_alone_is_generated_where_the_other_is_not_wanted(client: Client, shown: Shown):
    events = client.steered(prompt=PROMPT, edits=[ADD], max_tokens=4, baseline=False)
    assert text_of(events, "base") == ""
    assert text_of(events, "steered") == shown.demo.model.generate(PROMPT, 4, steer=edits(shown, ADD), seed=0)


def test_features_of_several_saes_steer_together(client: Client, shown: Shown):
    other = {"source": "1", "feature": 3, "kind": "add", "strength": 1}
    events = client.steered(prompt=PROMPT, edits=[ADD, other], max_tokens=5)
    assert shown.other.source is not None
    sae = shown.other.source.sae
    both = [*edits(shown, ADD), steering.add_feature(sae, 3, 1, "max", index=shown.other)]
    assert text_of(events, "steered") == shown.demo.model.generate(PROMPT, 5, steer=both, seed=0)


def test_three_generations_at_once_give_what_each_gives_alone(shown: Shown):
    clients = [Client(shown.url) for _ in range(3)]
    requests = [{"prompt": PROMPT, "edits": [{**ADD, "strength": s}], "max_tokens": 8} for s in (0.5, 1, 2)]
    alone = [clients[0].steered(**request) for request in requests]
    with ThreadPoolExecutor(3) as pool:
        together = list(
            pool.map(lambda pair: pair[0].steered(**pair[1]), zip(clients, requests, strict=True))
        )
    for one, other in zip(alone, together, strict=True):
        assert other[-1].get("done")
        assert [text_of(one, side) for side in ("base", "steered")] == [
            text_of(other, side) for side in ("base", "steered")
        ]
    for client in clients:
        client.close()


def test_of_eight_at_once_some_wait_and_the_rest_are_told_to_come_back(client: Client, shown: Shown):
    clients = [Client(shown.url) for _ in range(MOST)]
    streams = [one.steering(prompt=PROMPT, edits=[ADD], max_tokens=200) for one in clients]
    events = [stream.__enter__() for stream in streams]
    assert [next(one)["queued"] for one in events] == list(range(MOST))
    for _ in range(8 - MOST):
        answer = client.post("0/steer", {"prompt": PROMPT, "max_tokens": 2})
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
    for stream, one in reversed(list(zip(streams, clients, strict=True))):  # those that wait go first
        stream.__exit__(None, None, None)
        one.close()
    free(client)
    assert client.steered(prompt=PROMPT, max_tokens=2)[-1]["done"]


def test_when_the_browser_goes_away_the_model_is_free_within_two_tokens(client: Client, shown: Shown):
    own = Client(shown.url)
    with own.steering(prompt=PROMPT, edits=[ADD], max_tokens=200) as events:
        seen = [next(events) for _ in range(8)]
    own.close()
    last = free(client)["last"]
    # What was written but not read when the connection broke is on its way, too.
    assert last["stopped"] and last["pieces"] < 100 < 400
    assert sum("on" in event for event in seen) >= 4


def test_one_that_waits_and_goes_away_never_starts(client: Client, shown: Shown):
    first, second = Client(shown.url), Client(shown.url)
    with first.steering(prompt=PROMPT, edits=[ADD], max_tokens=60) as running:
        next(running)
        with second.steering(prompt=PROMPT, max_tokens=60) as waiting:
            assert next(waiting) == {"queued": 1}
        second.close()
        rest = list(running)
    first.close()
    status = free(client)
    assert rest[-1]["done"] and status["last"]["pieces"] == rest[-1]["pieces"]


def test_pages_are_read_while_a_text_is_generated(client: Client, shown: Shown):
    own = Client(shown.url)
    with own.steering(prompt=PROMPT, edits=[ADD], max_tokens=120) as events:
        for _ in range(2):
            next(events)
        assert client.said(f"0/feature/{BALL}")["id"] == BALL
        assert client.said(f"0/logits/{BALL}")["up"]
        assert client.post("0/text", {"text": "A red ball."}).status_code == 200
        assert client.said("status")["busy"]
    own.close()
    free(client)


def test_a_notebook_and_the_server_run_the_same_model_at_once(client: Client, shown: Shown):
    model = shown.demo.model

    def logits() -> np.ndarray:
        with model.trace("Lily lost her red") as t:
            model.layers[1].mlp.output[:, -1] *= 0.5
        return model.language_model.backend.get(t.output)

    before, alone = logits(), client.steered(prompt=PROMPT, edits=[ADD], max_tokens=20)
    found: list[list[dict[str, Any]]] = []
    own = Client(shown.url)
    thread = threading.Thread(
        target=lambda: found.append(own.steered(prompt=PROMPT, edits=[ADD], max_tokens=20))
    )
    thread.start()
    rounds = 0
    while thread.is_alive() or rounds < 3:
        assert np.array_equal(logits(), before)
        rounds += 1
    thread.join()
    own.close()
    assert [text_of(found[0], side) for side in ("base", "steered")] == [
        text_of(alone, side) for side in ("base", "steered")
    ]
    assert np.array_equal(logits(), before)


def test_an_open_steer_block_of_a_notebook_does_not_reach_the_server(client: Client, shown: Shown):
    before = client.steered(prompt=PROMPT, max_tokens=6)
    with shown.demo.model.steer(edits(shown, {**ADD, "strength": 3})):
        inside = client.steered(prompt=PROMPT, max_tokens=6)
    assert text_of(inside, "base") == text_of(before, "base")


def test_a_generation_ends_and_others_are_answered_within_a_long_prompt(shown: Shown):
    made = request_of({"prompt": " ".join([PROMPT] * 12), "max_tokens": 4}, "0", lambda _: shown.index)
    made = replace(made, settings=replace(made.settings, prefill_step_size=4))
    assert shown.index.source is not None
    generation, model, said = Generation(shown.index.source.anatomy, made), ModelThread(), []

    def say(event: dict[str, Any]) -> None:
        said.append(event)
        model.soon(generation.gone.set)  # done between two parts of the prompt

    model.soon(generation.prepare).result(60)
    last = model.generate(lambda: generation.run(model, say)).result(60)
    model.stop()
    assert last.stopped and last.pieces == 0 and said == [{"started": True}]
