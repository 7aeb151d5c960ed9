"""Method 1: which texts activate a feature? Its strongest texts, and how strongly it fires on them.

    python -m examples.sae_feature.max_activating_examples    # from the project's root; --offline without the hub

Offline on the embedded model about a minute; GPT-2 on a CPU takes 10 to 15.
"""

from collections import Counter

import mlxterp

try:
    from .dataset import Subject, prepare
except ImportError:  # run as a script, from any folder
    from dataset import Subject, prepare

TOP_K = 8
WEAK, STRONG = 1 / 3, 2 / 3
"""Shares of a feature's maximum. Raw activations of two SAEs cannot be compared, shares can."""


def main() -> None:
    """Trains an SAE and shows the strongest texts of some diverse features."""
    subject = prepare()
    for feature in subject.features:
        show(subject, feature)


def show(subject: Subject, feature: int) -> None:
    """Prints one feature: texts, bands, and what can be said of its meaning."""
    examples = subject.index.examples(feature, TOP_K, before=8, after=4)
    maximum = subject.index.stats(feature).maximum
    print(f"\nFeature #{feature} - Top Activating Texts:")
    for example in examples:
        share = example.activation / maximum
        print(f'  [{example.activation:.2f}, {share:4.0%}] "{example.to_str().strip()}"')
    print("Activation Strength (strongest token of each text, as a share of the feature's maximum):")
    for name, count in bands(subject.index, feature, len(subject.texts)).items():
        print(f"  {name:<28} {count} texts")
    print("Interpretation:")
    print(f"  {hypothesis(subject.index, feature, examples)}")


def bands(index: mlxterp.FeatureIndex, feature: int, n_texts: int) -> dict[str, int]:
    """How many texts activate a feature not at all, weakly, moderately, strongly."""
    best = [activation for _, activation, _ in index.top_texts(feature, n_texts)]
    top = max(best, default=0.0)
    return {
        "not present: 0": n_texts - len(best),
        "weak: under a third": sum(a < WEAK * top for a in best),
        "moderate: up to two thirds": sum(WEAK * top <= a < STRONG * top for a in best),
        "strong: over two thirds": sum(a >= STRONG * top for a in best),
    }


def hypothesis(index: mlxterp.FeatureIndex, feature: int, examples: list[mlxterp.FeatureExample]) -> str:
    """A first guess by the words it fires on, to be checked by reading the texts; cautious on purpose."""
    words = Counter(example.tokens[example.position - example.start].strip().lower() for example in examples)
    word, count = words.most_common(1)[0]
    fires = ", ".join(repr(token) for token, _ in index.stats(feature).top_tokens[:6])
    if count > len(examples) / 2:
        return f"fires on {word!r} in {count} of {len(examples)} texts; most often on {fires}."
    return (
        f"fires on {len(words)} different words in {len(examples)} texts, most often on {fires}. Look at the contexts:"
        " what they share may be the meaning; if nothing is shared, the feature may be polysemantic."
    )


if __name__ == "__main__":
    main()
