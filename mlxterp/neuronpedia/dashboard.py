"""`display_dashboard`: a feature's card from an index; where there is none, where to find one."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import checks
from ..core.feature_ids import ANY, Feature, feature_id
from ..errors import InputError, warn
from ..index import FeatureIndex
from ..sae.pretrained import find_pretrained, is_release
from ..viz.escaping import attribute, escaped
from ..viz.page import Links, page
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .server import BASE_URL

_EMBED = "?embed=true&embedexplanation=true&embedplots=true&embedtest=true&height=300"


@dataclass(frozen=True, slots=True)
class Dashboard(View):
    """What there is of a feature without an index: a sentence and an address; or Neuronpedia's page in a frame.

    Attributes:
        title: What it is of.
        told: What to do.
        url: Address of Neuronpedia's page; None where it has none.
        embed: Whether the page is shown in a frame, which needs a network.
        width: Of the frame, in pixels.
        height: Of the frame, in pixels.
    """

    title: str
    told: str
    url: str | None
    embed: bool = False
    width: int = 800
    height: int = 600

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page; the address is text, and no link.

        Args:
            level: Of its heading.
            links: Not used.
            element_id: Id of the heading; "" gives it none.
        """
        del links
        anchor = f' id="{element_id}"' if element_id else ""
        parts = [
            f'<h{level} class="mxt-h2"{anchor}>{escaped(self.title)}</h{level}><p>{escaped(self.told)}</p>'
        ]
        if self.url is not None:
            parts.append(f"<p><code>{escaped(self.url)}</code></p>")
        if self.embed and self.url is not None:
            source = attribute(self.url + _EMBED)
            parts.append(f'<iframe src="{source}" width="{self.width}" height="{self.height}"></iframe>')
        return "".join(parts)

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: title, sentence, address.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        lines = [bold(self.title, wants_color(color)), self.told]
        return "\n".join([*lines, self.url] if self.url is not None else lines)

    def _title(self) -> str:
        return self.title

    def _page(self) -> str:
        return page(self.title, self._body(), frames=BASE_URL if self.embed else "")


def display_dashboard(
    sae_release: str,
    sae_id: str,
    latent_idx: Feature,
    *,
    index: FeatureIndex | None = None,
    embed: bool = False,
    width: int = 800,
    height: int = 600,
) -> View:
    """A feature's dashboard: its card from an index of the SAE.

    Without an index it says how to build one, with the address of Neuronpedia's page as text; nothing is asked of a
    network. A notebook shows what a cell ends with; elsewhere, `display(display_dashboard(…))`.

    Args:
        sae_release: As SAELens names it, such as "gpt2-small-res-jb".
        sae_id: As SAELens names it, such as "blocks.8.hook_resid_pre".
        latent_idx: The feature.
        index: Of that SAE, by `model.build_index`.
        embed: Shows Neuronpedia's page in a frame instead, which the browser fetches.
        width: Of the frame, in pixels.
        height: Of the frame, in pixels.

    Raises:
        SAEError: There is no such release or SAE.
        UnknownFeatureError: The index has no such feature.
        InputError: `index` is none.

    Examples:
        >>> mlxterp.display_dashboard("the demo", "layers.1.resid_post", ball, index=index).to_html("ball.html").name
        'ball.html'
        >>> told = mlxterp.display_dashboard("gpt2-small-res-jb", "blocks.8.hook_resid_pre", 741)
        >>> told.url
        'https://www.neuronpedia.org/gpt2-small/8-res-jb/741'
    """
    embed = checks.flag(embed, "embed")
    size = checks.count(width, "width"), checks.count(height, "height")
    if index is not None and not embed:
        return _card(sae_release, sae_id, latent_idx, index)
    entry = find_pretrained(sae_release, sae_id)
    number = feature_id(latent_idx, ANY)
    title = f"{entry.release}, {entry.sae_id}, feature {number}"
    if entry.neuronpedia_id is None:
        return Dashboard(title, f"{_NO_INDEX} Neuronpedia does not have this SAE.", None)
    url = f"{BASE_URL}/{entry.neuronpedia_id}/{number}"
    told = (
        "Neuronpedia's page, fetched by the browser:" if embed else f"{_NO_INDEX} Neuronpedia's page is at:"
    )
    return Dashboard(title, told, url, embed, *size)


_NO_INDEX = (
    "There is no index of this SAE here: model.build_index(sae, texts) makes one; then give index=index."
)


def _card(sae_release: str, sae_id: str, latent_idx: Feature, index: FeatureIndex) -> View:
    if not isinstance(index, FeatureIndex):
        raise InputError(f"index is {type(index).__name__}; expected a FeatureIndex (model.build_index).")
    said = {} if index.source is None else index.source.sae.metadata
    own = said.get("release"), said.get("sae_id")
    if is_release(sae_release) and None not in own and own != (sae_release, sae_id):
        warn(f"The index is of {own[0]}, {own[1]}; the card is not of {sae_release}, {sae_id}.")
    return index.feature(latent_idx)
