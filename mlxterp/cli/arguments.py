"""What the command line takes: one parser for each command, each with an example."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path

from ..core.places import expanded
from ..training.config import ARCHITECTURES, SAETrainConfig
from . import explorer_arguments

Parser = argparse.ArgumentParser


def parser() -> Parser:
    """The parser of `mlxterp`; `options.command` names the command."""
    made = Parser(
        prog="mlxterp",
        description="Interpretability of language models on your own machine. Without --model and --sae, every command"
        " works on a small model that comes with the package; begin with: mlxterp demo",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"mlxterp {version('mlxterp')}")
    commands = made.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, what: str, example: str, after_interruption: str = "Nothing was kept.") -> Parser:
        sub = commands.add_parser(
            name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example: {example}",
            allow_abbrev=False,
        )  # fmt: skip
        sub.set_defaults(after_interruption=after_interruption)
        return sub

    _demo(command("demo", "the main job in a minute: text, features, texts, what they do", "mlxterp demo"))
    _features(
        command(
            "features", "which features does this text activate", 'mlxterp features "The cat sat on the mat."'
        )
    )
    _texts(
        command(
            "texts",
            "which texts activate this feature",
            "mlxterp texts 682 --texts stories.txt --top-k 5",
        )
    )
    _index(
        command(
            "index",
            "run the model over texts once and keep which features are active where",
            "mlxterp index stories.txt --path stories.index",
            "What was done is kept; the same command goes on.",
        )
    )
    _show(
        command(
            "show",
            "everything about a feature on a card, or a text coloured by its features",
            "mlxterp show 682 --index stories.index --html card.html; mlxterp show ball;"
            ' mlxterp show --text "She looked sad."',
        )
    )
    _search(command("search", "which features are called so, or fire on these words", "mlxterp search ball"))
    _serve(
        command(
            "serve",
            "all features of an index in the browser: search, try texts, steer, name",
            "mlxterp serve --demo; mlxterp serve stories.index --model hub/model --sae my-sae",
            "Names that were given are kept.",
        )
    )
    _site(
        command(
            "site",
            "an index as a folder of files, for any browser",
            "mlxterp site stories.index --out stories-site",
            "What was done is kept; the same command goes on.",
        )
    )
    _train(
        command(
            "train",
            "train an SAE on what a component puts out over texts",
            "mlxterp train stories.txt --layer 1 --component residual --save-path my-sae --k 16",
            "The last checkpoint is kept; the same command with --resume goes on.",
        )
    )
    _check(
        command(
            "check",
            "how well an SAE fits a component, with the likely cause where it does not (exit status 1)",
            "mlxterp check my-sae --model hub/model --texts stories.txt",
        )
    )
    _explain(
        command(
            "explain",
            "say what features mean, by what they fire on",
            "mlxterp explain stories.index 682 741 --out told.json",
            "With --out what was done is kept; the same command goes on.",
        )
    )
    _score(
        command(
            "score",
            "judge whether explanations hold on other texts, beside chance and controls",
            "mlxterp score stories.index told.json --scorers detection,intruder --out scores.json",
            "With --out what was answered is kept; the same command goes on.",
        )
    )
    _graph(
        command(
            "graph",
            "which features of transcoders make a prediction, and out of what",
            'mlxterp graph "Lily lost her red" --html graph.html',
        )
    )
    _selftest(
        command(
            "selftest",
            "whether this machine computes what it should, and how fast (exit status 1 where it does not)",
            "mlxterp selftest --report selftest.json",
        )
    )
    return made


# -- one command ------------------------------------------------------------------------------


def _demo(p: Parser) -> None:
    p.add_argument("--text", help="the text whose features are shown")
    p.add_argument(
        "--report",
        type=_path,
        default=Path("mlxterp-demo.html"),
        metavar="FILE",
        help="HTML page to write (default: %(default)s)",
    )
    _overwrite(p)
    _backend(p)


def _features(p: Parser) -> None:
    p.add_argument("text", metavar="TEXT", help="the text; - reads it from standard input")
    _top_k(p, "features")
    _exclude(p, ("bos", "sinks"), ("bos", "sinks", "none"))
    _model(p)
    _place(p)
    _json(p)


def _texts(p: Parser) -> None:
    p.add_argument("feature", type=_number, metavar="FEATURE", help="its number")
    _corpus(p, "--texts")
    p.add_argument(
        "--index", metavar="PATH", help="answer from this index, without running the model over texts"
    )
    _top_k(p, "texts")
    _exclude(p, ("bos", "sinks"), ("bos", "sinks", "none"), settled=False)
    _model(p)
    _place(p)
    _json(p)


def _index(p: Parser) -> None:
    _corpus(p, "texts")
    p.add_argument(
        "--path", required=True, metavar="FOLDER", help="where the index is kept, or an fsspec URL"
    )
    p.add_argument(
        "--n-examples", type=int, default=20, help="examples shown of a feature (default: %(default)s)"
    )
    _exclude(p, ("bos", "sinks"), ("bos", "sinks", "none"))
    p.add_argument("--workers", type=int, help='processes, by Ray (pip install "mlxterp[ray]")')
    p.add_argument("--shard-tokens", type=int, help="tokens of a shard, at most")
    p.add_argument("--seed", type=int, default=0, help="which tokens co-activation is counted on")
    _model(p)
    _place(p)


def _show(p: Parser) -> None:
    p.add_argument(
        "features",
        type=_number_or_word,
        nargs="*",
        metavar="FEATURE",
        help="their numbers, or words: the feature that is most about it",
    )
    p.add_argument("--index", metavar="PATH", help="the index that knows them (mlxterp index makes one)")
    p.add_argument(
        "--text",
        help="colour this text by the features instead (by its strongest where none is named); - reads it from standard"
        " input",
    )
    p.add_argument("--top-k", type=int, help="features of a text, at most (default: 5)")
    p.add_argument("--html", type=_path, metavar="FILE", help="write a page that needs no network")
    p.add_argument("--open", action="store_true", help="show the page in the browser")
    _overwrite(p)
    _model(p)
    _place(p)
    _json(p)


def _number(given: str) -> int:
    """A feature's number."""
    try:
        return int(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given!r} is no feature's number") from None


def _number_or_word(given: str) -> str:
    """A feature's number, or a word, where a text could be meant too."""
    if len(given.split()) == 1:
        return given
    raise argparse.ArgumentTypeError(
        f"{given!r} is no feature's number, nor a word; a text is given by --text"
    )


def _search(p: Parser) -> None:
    explorer_arguments.search(p)
    _top_k(p, "features")
    _model(p)
    _place(p)
    _json(p)


def _serve(p: Parser) -> None:
    explorer_arguments.serve(p)
    _model(p)
    _place(p)


def _site(p: Parser) -> None:
    explorer_arguments.site(p)
    _model(p)
    _place(p)


def _train(p: Parser) -> None:
    defaults = SAETrainConfig()
    _corpus(p, "texts")
    p.add_argument("--layer", type=int, required=True, help="layer, from 0")
    p.add_argument("--component", default="mlp", help="name below the layer (default: %(default)s)")
    p.add_argument("--save-path", required=True, metavar="FOLDER", help="where the SAE is saved")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    _overwrite(p)
    _exclude(p, ("bos", "sinks"), ("bos", "first", "sinks", "none"))
    p.add_argument("--context-length", type=int, help="longer texts are cut (default: 128 at most)")
    p.add_argument("--device", help="where the SAE is trained (torch)")
    settings = p.add_argument_group("settings (SAETrainConfig has more, and says what they mean)")
    settings.add_argument("--architecture", choices=ARCHITECTURES, default=defaults.architecture)
    settings.add_argument(
        "--k", type=int, default=defaults.k, help="features active on a token (%(default)s)"
    )
    settings.add_argument("--d-hidden", type=int, help="number of features (default: 16 x d_model)")
    settings.add_argument("--expansion-factor", type=float, help="the same as a multiple of d_model")
    settings.add_argument("--tokens", type=int, help="use at most so many (default: all)")
    settings.add_argument("--epochs", type=int, help="passes over the text (default: by its length)")
    settings.add_argument("--batch-size", type=int, help="tokens in one step (default: by the text's length)")
    settings.add_argument("--lr", type=float, help="peak learning rate (default: by width and length)")
    settings.add_argument("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    settings.add_argument("--target", metavar="COMPONENT", help="train a transcoder that predicts this path")
    p.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)
    _backend(p)


def _check(p: Parser) -> None:
    p.add_argument("sae", nargs="?", metavar="SAE", help="a file, a folder, or a release")
    _corpus(p, "--texts")
    p.add_argument("--max-tokens", type=int, default=8192, help="tokens to run, about (default: %(default)s)")
    p.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)
    p.add_argument("--sae-id", help="which SAE of a release, or the file in a repository")
    _backend(p)
    _place(p)
    _json(p)


def _explain(p: Parser) -> None:
    p.add_argument(
        "index", metavar="INDEX", help="the index that knows the features (mlxterp index makes one)"
    )
    p.add_argument(
        "features",
        type=_number,
        nargs="*",
        metavar="FEATURE",
        help="their numbers (default: all that are active)",
    )
    p.add_argument("--words", type=int, default=5, help="words listed, at most (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="which windows explain (default: %(default)s)")
    p.add_argument("--out", type=_path, metavar="FILE", help="write the explanations there, as JSON")
    _overwrite(p)
    _model(p)
    _place(p)
    _json(p)


def _score(p: Parser) -> None:
    p.add_argument(
        "index", metavar="INDEX", help="the index that knows the features (mlxterp index makes one)"
    )
    p.add_argument("explanations", metavar="FILE", help="explanations, as mlxterp explain --out writes them")
    p.add_argument(
        "--scorers", type=_names, default=("detection", "intruder"), metavar="NAMES",
        help="some of detection, fuzzing, intruder, neighbour_precision, simulation, surprisal, and, of a judge that"
        " writes (a server, a model), generation, sensitivity (default: detection,intruder)",
    )  # fmt: skip
    p.add_argument(
        "--judge", default="words", metavar="JUDGE",
        help="words (looks for the words that are listed), the address of a server that speaks OpenAI's protocol, or a"
        " model: a hub repository or a folder (default: %(default)s)",
    )  # fmt: skip
    p.add_argument("--judge-model", metavar="NAME", help="a model that the server knows (default: its first)")
    p.add_argument("--cache", metavar="FOLDER", help="keep the server's answers there")
    p.add_argument(
        "--windows-per-prompt", type=int, metavar="N",
        help="ask the server of so many windows at once, for fewer tokens (default: 1)",
    )  # fmt: skip
    p.add_argument(
        "--controls", type=_names, default=True, metavar="NAMES",
        help="some of explanations, tokens; or none (default: both)",
    )  # fmt: skip
    p.add_argument("--out", type=_path, metavar="FILE", help="write the scores there, as JSON")
    p.add_argument("--html", type=_path, metavar="FILE", help="write a page that needs no network")
    _overwrite(p)
    _model(p)
    _place(p)
    _json(p)


def _names(given: str) -> tuple[str, ...]:
    """Names with commas between; none of them for "none"."""
    return () if given == "none" else tuple(given.split(","))


def _path(given: str) -> Path:
    """A file or folder; "" is none, though an unset variable of the shell gives it."""
    if not given:
        raise argparse.ArgumentTypeError("'' is no path")
    return expanded(given)


def _graph(p: Parser) -> None:
    p.add_argument("text", metavar="TEXT", help="the prompt; - reads it from standard input")
    p.add_argument(
        "--transcoders", metavar="FOLDER",
        help="one for each layer: a folder, or a release (default: those that come with mlxterp, of its model)",
    )  # fmt: skip
    p.add_argument(
        "--target", action="append", metavar="TOKEN",
        help="a token to explain, as text; may be given again (default: the likeliest)",
    )  # fmt: skip
    p.add_argument("--max-features", type=int, help="only so many features, those with the most influence")
    p.add_argument(
        "--node-threshold", type=float, default=0.8, help="of what is shown (default: %(default)s)"
    )
    p.add_argument(
        "--edge-threshold", type=float, default=0.98, help="of what is shown (default: %(default)s)"
    )
    p.add_argument("--html", type=_path, metavar="FILE", help="write a page that needs no network")
    p.add_argument(
        "--index", action="append", metavar="FOLDER",
        help="an index of a transcoder, for cards on the page; may be given again",
    )  # fmt: skip
    p.add_argument(
        "--save", type=_path, metavar="FILE", help="write what is shown as JSON, as Neuronpedia reads it"
    )
    p.add_argument("--open", action="store_true", help="show the page in the browser")
    _overwrite(p)
    p.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)
    _backend(p)


# -- what several commands take ---------------------------------------------------------------

_MODEL_HELP = "a hub repository or a folder (default: the small model that comes with mlxterp)"


def _selftest(p: Parser) -> None:
    p.add_argument("--backend", choices=("mlx", "torch"), help="default: every one that is installed")
    p.add_argument(
        "--report", type=_path, metavar="FILE", help="JSON with all figures, to be attached to an issue"
    )
    _overwrite(p)
    _json(p)


def _model(p: Parser) -> None:
    p.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)
    p.add_argument("--sae", metavar="SAE", help="a file, a folder, or a release (default: that model's)")
    p.add_argument("--sae-id", help="which SAE of a release, or the file in a repository")
    _backend(p)


def _backend(p: Parser) -> None:
    p.add_argument("--backend", choices=("mlx", "torch"), help="default: mlx where it is installed")


def _place(p: Parser) -> None:
    p.add_argument("--layer", type=int, help="layer, from 0 (default: where the SAE was trained)")
    p.add_argument(
        "--component",
        help="name below the layer (mlp, attn, residual; default with --layer: mlp), or without --layer a whole path"
        " (layers.3.mlp)",
    )


def _corpus(p: Parser, name: str) -> None:
    what = "text file, in UTF-8, its texts separated by empty lines or <|endoftext|>; - reads standard input (default:"
    what += " the stories that come with mlxterp)"
    if name.startswith("-"):
        p.add_argument(name, metavar="FILE", help=what)
    else:
        p.add_argument(name, nargs="?", metavar="TEXTS", help=what)


def _exclude(p: Parser, default: tuple[str, ...], choices: tuple[str, ...], settled: bool = True) -> None:
    """Adds --exclude; where it is not given, that is the default, or None where this is not `settled`."""

    def chosen(given: str) -> tuple[str, ...]:
        names = tuple(given.split(","))
        if unknown := [name for name in names if name not in choices]:
            raise argparse.ArgumentTypeError(f"no tokens are called {unknown[0]!r}: {', '.join(choices)}")
        return () if "none" in names else names

    p.add_argument(
        "--exclude",
        type=chosen,
        default=default if settled else None,
        metavar="TOKENS",
        help=f"tokens that do not count, as in {default[0]},sinks: {', '.join(choices)} (default: {','.join(default)})",
    )


def _top_k(p: Parser, what: str, default: int = 10) -> None:
    p.add_argument("--top-k", type=int, default=default, help=f"{what}, at most (default: %(default)s)")


def _overwrite(p: Parser) -> None:
    p.add_argument(
        "--overwrite", "--force", action="store_true", help="write over what is there without asking"
    )


def _json(p: Parser) -> None:
    p.add_argument("--json", action="store_true", help="for programs")
