"""Load an SAE that SAELens could have written, see whether it fits, and what is said where it does not.

Runs offline on the model and SAE that come with the package. With a network, replace the folder by a
published SAE: `model.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")`.
"""

import tempfile
from pathlib import Path

import mlxterp

model, demo_sae, texts = mlxterp.load_demo()

with tempfile.TemporaryDirectory() as folder:
    path = demo_sae.save(Path(folder) / "exported", format="saelens")
    sae = model.load_sae(path)  # no format is named: it is found by looking
print(sae, "from a", sae.metadata["format"], "file")

assert sae.component is not None  # the file says where it was trained
x = model.trace(texts[0]).activations[sae.component]
reconstruction, features = sae(x)
print("a text's activations", tuple(x.shape), "become features", tuple(features.shape))

print()
print(sae.check(model, texts[:12]))

print()
print("The same SAE on another layer:")
for finding in model.check_sae(sae, texts[:12], component="layers.3.resid_post").findings:
    print(" ", finding)

print()
for entry in mlxterp.pretrained_saes("gpt2 resid_pre", limit=3):
    print("published:", entry.release, entry.sae_id)
