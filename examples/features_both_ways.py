"""Which features does a text activate, and which texts activate a feature? Then train an SAE of your own.

    python examples/features_both_ways.py

Runs offline on the embedded model, in half a minute.
"""

import mlxterp
from mlxterp import SAETrainConfig

model, sae, texts = mlxterp.load_demo()
content = ("bos", "sinks")  # tokens that do not count: those that begin a text, and attention sinks
print(model, sae, sep="\n")

text = "The little dog ran to the park and barked at a cat."
print(f"\nFeatures of {text!r}")
for feature, activation in model.get_top_features_for_text(text, sae, top_k=5, exclude=content):
    print(f"  feature {feature}: {activation:.2f}")
    found = model.get_top_texts_for_feature(feature, sae, texts[:40], top_k=3, exclude=content)
    for story, strength, position in found:
        around = model.to_str_tokens(story)[max(0, position - 6) : position + 1]
        print(f"    [{strength:.2f}] …{''.join(around)}".replace("\n", " "))

print("\nAn SAE of your own, on the MLP of layer 2:")
config = SAETrainConfig(d_hidden=512, k=12, batch_size=512)
own = model.train_sae(2, [t[:800] for t in texts[:80]], "mlp", config, exclude=("first", "sinks"))
facts = own.metadata["training"]
print(f"  {own}: explained variance {facts['explained_variance']:.2f} after {facts['tokens']} tokens")
for feature, activation in model.get_top_features_for_text(text, own, top_k=3, exclude=content):
    print(f"  feature {feature}: {activation:.2f}")
