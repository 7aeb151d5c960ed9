"""Collect activations, train SAEs of two components at once, stop halfway, go on, and evaluate.

    python examples/train_and_resume.py

Runs offline on the embedded model, in about half a minute.
"""

import signal
import tempfile
from pathlib import Path

import mlxterp
from mlxterp import LocalStore, SAETrainConfig

model, _, texts = mlxterp.load_demo()
training, held_out = texts[:90], texts[-10:]

with tempfile.TemporaryDirectory() as folder:
    store = LocalStore(Path(folder) / "store")
    places = ["layers.1.resid_post", "layers.2.mlp"]
    activations = mlxterp.collect_activations(model, training, places, store.activations_path("stories"))
    print(activations, activations.meta["excluded"])

    # Stop like ctrl-C does, at step 20; the SAE is usable, and resume=True goes on as if nothing had happened.
    def stop_halfway(row):
        print(
            f"  step {row['step']:.0f}: explained variance {row['explained_variance']:.2f}, L0 {row['l0']:.1f}"
        )
        if row["step"] == 20:
            signal.raise_signal(signal.SIGINT)

    config = SAETrainConfig(d_hidden=768, k=16, batch_size=512, architecture="batchtopk")
    path = store.sae_path("layer2-mlp")
    mlxterp.train_sae(activations, config, component="layers.2.mlp", save_path=path, log=stop_halfway)
    sae = mlxterp.train_sae(activations, config, component="layers.2.mlp", save_path=path, resume=True)
    print(sae, sae.metadata["training"], sep="\n")

    # Two SAEs from one pass of the model; the second is a transcoder, across layers.
    transcoder = SAETrainConfig(d_hidden=768, k=16, batch_size=512, target="layers.2.mlp", skip=True)
    plain = SAETrainConfig(d_hidden=768, k=16, batch_size=512)
    saes = model.train_saes(
        {"residual": ("layers.1.resid_post", plain), "transcoder": ("layers.1.resid_post", transcoder)},
        training,
    )
    for name, one in saes.items():
        print(name, one.metadata["training"]["explained_variance"])

    print(saes["residual"].evaluate(model, held_out))
