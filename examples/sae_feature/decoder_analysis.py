"""Method 2: which words does a feature promote? Its decoder row through the model's final norm and head.

    python -m examples.sae_feature.decoder_analysis    # from the project's root; --offline without the hub

Offline on the embedded model about a minute; GPT-2 on a CPU takes 5 to 10.
"""

import mlxterp

try:
    from .dataset import Subject, prepare
except ImportError:  # run as a script, from any folder
    from dataset import Subject, prepare

TOP_K, N_RANDOM = 10, 200


def main() -> None:
    """Trains an SAE and shows what some diverse features promote, and whether a random direction would too."""
    subject = prepare()
    baseline = subject.model.random_direction_baseline(subject.sae, N_RANDOM)
    for feature in subject.model.feature_logits(subject.sae, subject.features, TOP_K):
        show(subject, feature, baseline)
    print(f"\nRandom directions to compare with\n{baseline}")


def show(subject: Subject, feature: mlxterp.FeatureLogits, baseline: mlxterp.RandomDirections) -> None:
    """Prints one feature."""
    print(f"\nFeature #{feature.feature_id} - Top Predicted Tokens:")
    for token, logit in feature.promoted:
        print(f"  [{logit:+.2f}] {token!r}")
    print("  suppressed: " + ", ".join(f"{token!r} {logit:+.2f}" for token, logit in feature.suppressed[:5]))
    print(f"Feature Direction Strength: {feature.relative_strength:.3f} (normalized: 1 is the SAE's mean)")
    print("Similar Features:")
    for other, cosine in subject.sae.similar(feature.feature_id, 3):
        fires = ", ".join(repr(token) for token, _ in subject.index.stats(other).top_tokens[:3])
        print(f"  Feature #{other}: {cosine:.2f} similarity (fires on {fires or 'nothing here'})")
    print("Random Baseline:")
    print(f"  {verdict(feature, baseline)}")


def verdict(feature: mlxterp.FeatureLogits, baseline: mlxterp.RandomDirections) -> str:
    """Whether the top tokens say more than a random direction's."""
    higher = baseline.share_with_higher_maximum(feature)
    heavier = baseline.share_with_higher_kurtosis(feature)
    said = (
        f"{higher:.0%} of {baseline.n} random directions reach a higher top logit, {heavier:.0%} a kurtosis"
        f" above {feature.kurtosis:.1f}."
    )
    if min(higher, heavier) > 0.05:
        return f"{said} The words above may be chance: go by its texts (method 1)."
    return f"{said} Its words stand out."


if __name__ == "__main__":
    main()
