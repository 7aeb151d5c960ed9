"""What both methods look at: a model, texts of many kinds, an SAE trained on them, and diverse features of it.

With the Hugging Face hub in reach that is GPT-2, layer 6, and 200 texts each of several data sets; without it
(or with HF_HUB_OFFLINE=1, or `--offline`) the model and stories that come with mlxterp. To look at something
else, change the settings below, or pass your own texts to `prepare`.
"""

import os
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import mlxterp
from mlxterp import HuggingFaceDataset, SAETrainConfig

MODEL, LAYER = "openai-community/gpt2", 6  # earlier layers: more of syntax; later ones: more of meaning
COMPONENT = "resid_post"  # what a layer puts out: transformer.h.6
CONFIG = SAETrainConfig(d_hidden=2048, k=32, epochs=15, batch_size=1024)
DEMO_LAYER, DEMO_CONFIG = 1, SAETrainConfig(d_hidden=768, k=16, epochs=15, batch_size=512)
N_EACH, N_FEATURES, MAX_COS = 200, 3, 0.7
LONGEST = 1000  # characters of a text that are used

SOURCES = {
    "news": HuggingFaceDataset("fancyzhx/ag_news", split=f"train[:{N_EACH}]"),
    "film reviews": HuggingFaceDataset(
        "stanfordnlp/imdb", split=f"train[:{N_EACH // 2}]+train[-{N_EACH // 2}:]"
    ),
    "abstracts": HuggingFaceDataset("ccdv/arxiv-summarization", text_field="abstract", streaming=True),
    "Wikipedia": HuggingFaceDataset("wikimedia/wikipedia", config="20231101.en", streaming=True),
}


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    model: mlxterp.InterpretableModel
    sae: mlxterp.SAE
    texts: list[str]
    index: mlxterp.FeatureIndex
    features: list[int]


def prepare(texts: Sequence[str] | None = None, offline: bool | None = None) -> Subject:
    """Loads the model and the texts, trains the SAE, and chooses features; says what it does.

    Args:
        texts: Your own; None takes those above.
        offline: Whether to do without the hub; None looks whether it can be reached.
    """
    offline = not hub_in_reach() if offline is None else offline
    model, layer, config, own = load_model(offline)
    found = list(texts) if texts is not None else own or load_texts()
    found = [text[:LONGEST] for text in found]
    held_out, training = found[::10], [text for i, text in enumerate(found) if i % 10]
    path = f"layers.{layer}.{COMPONENT}"
    print(f"{model}\n{len(found)} texts, every tenth held out; an SAE of {path}, {config.epochs} epochs")
    with tempfile.TemporaryDirectory() as folder:  # the model runs once, however many epochs there are
        activations = mlxterp.collect_activations(model, training, path, f"{folder}/activations")
        sae = mlxterp.train_sae(activations, config, component=path)
    evaluation = sae.evaluate(model, held_out)
    print(sae)
    print(
        f"Explained Variance: {evaluation.explained_variance:.2f} on held-out texts, L0 {evaluation.l0:.1f}"
    )
    index = model.build_index(sae, found)
    features = choose(index, sae)
    print(f"\n{len(features)} diverse features (decoder cosine below {MAX_COS}): {features}")
    for a, b in combinations(features, 2):
        print(f"  cosine of #{a} and #{b}: {cosine(sae, a, b):+.3f}")
    return Subject(model, sae, found, index, features)


def load_model(offline: bool) -> tuple[mlxterp.InterpretableModel, int, SAETrainConfig, list[str]]:
    """The model, the layer to look at, how to train, and, with the model that comes along, its stories."""
    if not offline:
        try:
            return mlxterp.InterpretableModel(MODEL), LAYER, CONFIG, []
        except (mlxterp.MlxterpError, OSError) as error:
            print(f"{MODEL} cannot be loaded ({error}): the embedded model is used instead.")
    demo = mlxterp.load_demo()
    return demo.model, DEMO_LAYER, DEMO_CONFIG, [story[:700] for story in demo.texts[:160]]


def load_texts() -> list[str]:
    """Texts of the data sets that can be loaded; what cannot is named, and without any the texts below are used."""
    found: list[str] = []
    for kind, source in SOURCES.items():
        try:
            rows = islice(source.load(), N_EACH)
            new = [str(row[source.text_field]) for row in rows]
        except Exception as error:  # whatever a data set's own code raises, the others can still be used
            why = (str(error) or repr(error)).splitlines()[0]
            print(f"Skipped {kind} ({source.name}): {why}")
            continue
        print(f"{len(new)} texts of {kind} ({source.name})")
        found += [text for text in new if text.strip()]
    if not found:
        print("No data set could be loaded: 96 short texts of 12 kinds are used. Clear patterns take 1000.")
        found = [text for texts in FALLBACK.values() for text in texts]
    return found


def hub_in_reach(seconds: float = 3.0) -> bool:
    """Whether the Hugging Face hub answers, within `seconds`; never asked where HF_HUB_OFFLINE is set."""
    if "--offline" in sys.argv or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answered = threading.Event()

    def ask() -> None:
        hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=seconds).close()
            answered.set()
        except urllib.error.HTTPError:  # it answered
            answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)  # looking a name up can take long, and has no limit
    thread.start()
    thread.join(seconds + 1)
    return answered.is_set()


def choose(index: mlxterp.FeatureIndex, sae: mlxterp.SAE, n: int = N_FEATURES) -> list[int]:
    """Diverse features that fire in some texts, but on few tokens: those say something."""
    stats = [index.stats(int(feature)) for feature in index.live]
    few = [s for s in stats if s.n_texts >= 5 and s.density < 0.01] or stats
    few.sort(key=lambda s: (-s.n_texts, s.feature_id))
    return sae.select_diverse(n, MAX_COS, among=[s.feature_id for s in few])


def cosine(sae: mlxterp.SAE, a: int, b: int) -> float:
    """Of two decoder rows."""
    x, y = sae.W_dec[a], sae.W_dec[b]
    return float(x @ y / (x @ x) ** 0.5 / (y @ y) ** 0.5)


FALLBACK = {
    "programming": [
        "The function returns a list, but the caller expects a dictionary, so the test fails.",
        "She fixed the memory leak by closing every file as soon as it had been read.",
        "Python looks up a name in the local scope first and in the built-in scope last.",
        "A binary search halves the range at every step until one element is left.",
        "The compiler warned about an unused variable in the parser.",
        "Push the branch, open a pull request, and wait for somebody to review the code.",
        "His script downloads the table every night and writes it to a database.",
        "An exception was raised because the index lay outside the array.",
    ],
    "emotions": [
        "He laughed until tears ran down his face.",
        "She felt a sudden fear when the lights went out in the corridor.",
        "The news filled the whole family with joy.",
        "I was so angry that I could not say a single word.",
        "After the funeral an empty sadness stayed in the house.",
        "They were proud of their daughter and told everyone about her.",
        "Waiting for the letter made him more nervous every day.",
        "A feeling of calm came over her as the rain began to fall.",
    ],
    "science": [
        "Water boils at a lower temperature on a high mountain, where the pressure is lower.",
        "The cell copies its DNA before it divides.",
        "Light from that galaxy has travelled for two billion years.",
        "An acid and a base react to form a salt and water.",
        "The experiment was repeated twenty times with the same result.",
        "Electrons move through the metal when a voltage is applied.",
        "Continents drift a few centimetres every year.",
        "A falling body gains speed at a constant rate, whatever its mass.",
    ],
    "food": [
        "Fry the onions in butter until they are golden, then add the garlic.",
        "The soup needs more salt and a little lemon juice.",
        "We ate fresh bread with olives and goat cheese.",
        "Knead the dough for ten minutes and let it rise in a warm place.",
        "Her grandmother's apple cake smelled of cinnamon.",
        "The curry was so hot that he drank three glasses of milk.",
        "Ripe tomatoes should never be kept in the fridge.",
        "He ordered noodles, she had the grilled fish with rice.",
    ],
    "sports": [
        "The striker scored in the last minute and the stadium roared.",
        "She won the hundred metres by the width of a hand.",
        "Our goalkeeper saved two penalties in the final.",
        "The tennis match went to a fifth set.",
        "He trained for a year before his first marathon.",
        "The coach changed the defence after half-time.",
        "They lost every game of the season but one.",
        "The swimmer touched the wall first and broke the record.",
    ],
    "nature": [
        "A fox crossed the frozen river at dawn.",
        "The old oak had stood at the edge of the forest for three hundred years.",
        "In spring the meadow is full of bees and yellow flowers.",
        "Waves beat against the cliffs while gulls circled above.",
        "Salmon swim upstream to the place where they were born.",
        "Thick fog lay in the valley until noon.",
        "The desert blooms for a few days after the rain.",
        "An owl called somewhere in the dark trees.",
    ],
    "technology": [
        "The new phone charges in half an hour and lasts two days.",
        "Engineers tested the battery of the electric car in the cold.",
        "A satellite sends pictures of the storm every ten minutes.",
        "The robot picks up a box and places it on the belt.",
        "Her old laptop was too slow for the video call.",
        "Chips with smaller transistors need less power.",
        "The printer is out of paper and blinks red.",
        "Self-driving buses will be tried out in the city centre.",
    ],
    "history": [
        "The king signed the treaty in the spring of that year.",
        "Roman soldiers built the road across the hills.",
        "The revolution began with a protest over the price of bread.",
        "After the war the city lay in ruins.",
        "Traders carried silk and spices along this route for centuries.",
        "The empire fell when its provinces stopped paying taxes.",
        "She was the first woman elected to the parliament.",
        "Monks copied the manuscript by hand in the twelfth century.",
    ],
    "medicine": [
        "The doctor listened to his lungs and prescribed an antibiotic.",
        "The vaccine protects most children against the disease.",
        "Her blood pressure fell after two weeks of treatment.",
        "The surgeon closed the wound with five stitches.",
        "Patients with diabetes must watch their sugar.",
        "He broke his wrist and wore a cast until June.",
        "The nurse measured a fever of thirty-nine degrees.",
        "A healthy heart beats about seventy times a minute at rest.",
    ],
    "business": [
        "The company doubled its profit in the third quarter.",
        "Investors sold their shares when the director resigned.",
        "Rising interest rates make loans more expensive.",
        "She opened a small shop for second-hand books.",
        "The two banks agreed on a merger after long negotiations.",
        "Customers complained about late deliveries.",
        "The budget for advertising was cut by ten percent.",
        "He negotiated a better price with the supplier.",
    ],
    "education": [
        "The teacher wrote the equation on the board.",
        "Students have to hand in the essay by Friday.",
        "She learned to read when she was four.",
        "The university offers evening courses for adults.",
        "He failed the exam because he had not studied.",
        "The children visited a museum with their class.",
        "Her thesis compares three methods of teaching grammar.",
        "A good question in the first lesson wakes everybody up.",
    ],
    "music and art": [
        "The pianist played the slow movement almost without pedal.",
        "A portrait of an unknown woman hangs in the second room.",
        "The choir rehearses every Thursday in the church.",
        "He painted the harbour in thin layers of blue and grey.",
        "The band tuned their guitars while the hall filled.",
        "She danced the leading part in the new ballet.",
        "The sculptor works in marble and old iron.",
        "The film ends with a song that nobody forgets.",
    ],
}
"""Eight short texts of each of twelve kinds."""
