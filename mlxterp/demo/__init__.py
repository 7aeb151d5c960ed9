"""The model, SAE, transcoders and stories that come with the package, so that everything works without a network.

A 2.6-million-parameter Llama trained on TinyStories, an SAE on its residual stream and a transcoder for each of its
MLPs; how they were made, and under which licences, is in `model/MODEL_CARD.md` and `README.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..model.interpretable import InterpretableModel
    from ..sae import SAE, SAECollection

FOLDER = Path(__file__).parent


class Demo(NamedTuple):
    """What `load_demo` returns; also unpacks as `model, sae, texts`.

    Attributes:
        model: The language model, with its tokenizer.
        sae: An SAE of the model's residual stream after layer 1.
        texts: Stories that neither the model nor the SAE was trained on.
    """

    model: InterpretableModel
    sae: SAE
    texts: list[str]

    def __repr__(self) -> str:
        return f"Demo({self.model!r}, {self.sae!r}, {len(self.texts)} texts)"

    @property
    def transcoders(self) -> SAECollection:
        """A transcoder for the MLP of each layer, as `model.attribution_graph` takes them; opened anew each time."""
        from ..sae import SAECollection

        return SAECollection.load(FOLDER / "transcoders", backend=self.model.language_model.backend.name)

    @property
    def place(self) -> tuple[int, str]:
        """Layer and component that the SAE belongs to, as the model's methods take them."""
        _, layer, component = str(self.sae.component).split(".", 2)
        return int(layer), component


def load_demo(backend: str | None = None) -> Demo:
    """The embedded model with its tokenizer, its SAE (`sae.metadata` says where it belongs), and stories.

    Examples:
        >>> model, sae, stories = mlxterp.load_demo()
        >>> model.n_layers, model.d_model, sae.component, sae.d_hidden
        (4, 192, 'layers.1.resid_post', 2048)
    """
    from ..model.interpretable import InterpretableModel
    from ..sae import SAE

    model = InterpretableModel(FOLDER / "model", backend=backend)
    sae = SAE.load(FOLDER / "sae", backend=model.language_model.backend.name)
    texts = (FOLDER / "stories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    return Demo(model, sae, [text.strip() for text in texts if text.strip()])
