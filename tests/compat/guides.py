"""The code of Mi-Crow's two guides, line by line as it stands there, with its indentation; and an SAE in its layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mlxterp import SAE, SAETrainConfig, train_sae

CORE = [
    """\
from mi_crow.language_model import LanguageModel
from mi_crow.store import LocalStore
import torch
store = LocalStore(base_path="./store")
# Use GPU when available
device = "cuda" if torch.cuda.is_available() else "cpu"
lm = LanguageModel.from_huggingface(
    "gpt2", # Or any HuggingFace model
    store=store,
    device=device,
)
""",
    """\
from mi_crow.mechanistic.sae import TopKSae
sae = TopKSae(
    n_latents=4096, # Number of SAE neurons (overcomplete)
    n_inputs=768, # Size of input activations
    k=32, # Top-K sparsity (only 32 neurons active at once)
    device="cuda"
)
""",
    """\
# Enable text tracking during inference
sae.concepts.enable_text_tracking(top_k=10)
# Run inference on a dataset
outputs, encodings = lm.inference.execute_inference(dataset_texts)
# Get top activating texts for each neuron
top_texts = sae.concepts.get_top_texts()
""",
    """\
# Amplify a concept (neuron 42)
sae.concepts.manipulate_concept(neuron_idx=42, scale=1.5)
# Suppress a concept
sae.concepts.manipulate_concept(neuron_idx=42, scale=0.5)
# Run inference with modified behavior
outputs, encodings = lm.inference.execute_inference(["Your prompt here"])
""",
    """\
from mi_crow.store import LocalStore
store = LocalStore(base_path="./store")
""",
    """\
from mi_crow.datasets import TextDataset
dataset = TextDataset(texts=["Text 1", "Text 2", "Text 3"])
""",
    """\
from mi_crow.datasets import HuggingFaceDataset
dataset = HuggingFaceDataset(
    name="wikitext",
    split="train",
    text_field="text"
)
""",
]
"""Of "Core Concepts", in order."""

DISCOVERY = [
    """\
from mi_crow.mechanistic.sae import TopKSae
import torch
# Load trained SAE
sae = TopKSae(n_latents=4096, n_inputs=768, k=32, device="cuda")
sae.load_state_dict(torch.load("sae_model.pt"))
sae.eval()
# Attach to model
lm.attach_sae(sae, layer_signature="transformer.h.0.attn.c_attn")
""",
    """\
# Enable automatic text tracking
sae.concepts.enable_text_tracking(top_k=10)
""",
    """\
from mi_crow.datasets import TextDataset
# Prepare dataset
texts = [
    "The cat sat on the mat.",
    "Dogs are loyal companions.",
    "Science requires careful observation.",
    # ... more texts
] * 100 # Repeat for more examples
dataset = TextDataset(texts=texts)
# Run inference - text tracking happens automatically
outputs, encodings = lm.inference.execute_inference(dataset.texts)
""",
    """\
# Get top activating texts for all neurons
top_texts = sae.concepts.get_top_texts()
# Access texts for a specific neuron
neuron_42_texts = top_texts.get(42, [])
print(f"Neuron 42 top texts:")
for text, activation in neuron_42_texts:
    print(f" Activation: {activation:.4f} - {text}")
""",
    """\
# Export top texts to JSON
import json
with open("top_texts.json", "w") as f:
    json.dump(top_texts, f, indent=2)
# Or export in a more readable format
export_data = []
for neuron_idx, texts in top_texts.items():
    for text, activation in texts:
        export_data.append({
            "neuron": neuron_idx,
            "text": text,
            "activation": activation
        })
with open("top_texts_flat.json", "w") as f:
    json.dump(export_data, f, indent=2)
""",
    """\
import pandas as pd
# Load curated concepts
concepts_df = pd.read_csv("curated_concepts.csv")
# Create concept dictionary
concepts = {}
for _, row in concepts_df.iterrows():
    neuron_idx = int(row['neuron_idx'])
    concept_name = row['concept_name']
    confidence = float(row['confidence'])
    if neuron_idx not in concepts:
        concepts[neuron_idx] = []
    concepts[neuron_idx].append({
        'name': concept_name,
        'confidence': confidence
    })
# Save to SAE
sae.concepts.load_concepts(concepts)
""",
    """\
# Find neurons with highest average activation
neuron_activity = {}
for neuron_idx, texts in top_texts.items():
    if texts:
        avg_activation = sum(act for _, act in texts) / len(texts)
        neuron_activity[neuron_idx] = avg_activation
# Sort by activity
sorted_neurons = sorted(neuron_activity.items(), key=lambda x: x[1], reverse=True)
print("Most active neurons:")
for neuron_idx, activity in sorted_neurons[:10]:
    print(f" Neuron {neuron_idx}: {activity:.4f}")
""",
    """\
# Analyze concept coverage
concept_counts = {}
for neuron_idx, concepts_list in concepts.items():
    for concept in concepts_list:
        name = concept['name']
        concept_counts[name] = concept_counts.get(name, 0) + 1
print("Concept distribution:")
for concept, count in sorted(concept_counts.items(), key=lambda x: x[1], reverse=True):
    print(f" {concept}: {count} neurons")
""",
    """\
# Verify concepts make sense
for neuron_idx in [0, 1, 2]: # Check first few
    texts = top_texts.get(neuron_idx, [])
    concepts_list = concepts.get(neuron_idx, [])
    print(f"\\nNeuron {neuron_idx}:")
    print(f" Concepts: {[c['name'] for c in concepts_list]}")
    print(f" Top texts:")
    for text, act in texts[:3]:
        print(f" {act:.4f}: {text[:50]}...")
""",
    """\
# Run inference on new texts and check if concepts activate
test_texts = [
    "My family loves to travel together.",
    "The scientist conducted experiments.",
    "Dogs are friendly animals."
]
outputs, encodings = lm.inference.execute_inference(test_texts)
# Check which concepts activated
# (Implementation depends on SAE concept API)
""",
    """\
# Only consider texts above threshold
threshold = 0.5
filtered_texts = {}
for neuron_idx, texts in top_texts.items():
    filtered = [(text, act) for text, act in texts if act > threshold]
    if filtered:
        filtered_texts[neuron_idx] = filtered
""",
    """\
# Group neurons with similar activation patterns
from sklearn.cluster import KMeans
import numpy as np
# Create activation matrix (neurons x samples)
# Then cluster neurons
# (Implementation depends on your data structure)
""",
    """\
# Solution: Ensure text tracking is enabled
sae.concepts.enable_text_tracking(top_k=10)
# And run inference
outputs, encodings = lm.inference.execute_inference(dataset.texts)
""",
    """\
# Adjust top_k
sae.concepts.enable_text_tracking(top_k=20) # More examples
# or
sae.concepts.enable_text_tracking(top_k=5) # Fewer examples
""",
    """\
# Solution: Use more diverse dataset
# Or check if SAE training was successful
# Or increase dataset size
""",
]
"""Of "Concept Discovery", in order."""

CSV = """\
neuron_idx,concept_name,confidence
0,family relationships,0.9
0,parent-child interactions,0.8
1,nature and outdoors,0.9
1,animals and wildlife,0.8
2,scientific terminology,0.95
2,academic language,0.85
"""
"""The curation table of "Concept Discovery"."""

_CODE = re.compile(
    r"^(from \w+|import \w+|for .+:|with .+:|if .+:|print\(|# |\d+,|neuron_idx,|\w[\w.\[\]', ]* = "
    r"|[\w.]+\(.*\)|[\])}]+,?$|[\"'].*[\"',]$|\w+=\S)"
)


def left_over(page: Path, blocks: list[str]) -> list[str]:
    """Lines of a guide that look like code and are not among the blocks, which must come there in this order.

    Raises:
        AssertionError: A line of the blocks does not come in the guide, in this order.
    """
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    at, taken = 0, set()
    for line in (line.strip() for block in blocks for line in block.splitlines()):
        assert line in lines[at:], f"{page.name} has no line {line!r} after its line {at}"
        at = lines.index(line, at) + 1
        taken.add(at - 1)
    return [line for number, line in enumerate(lines) if number not in taken and _CODE.match(line)]


def trained_sae(x: np.ndarray, n_latents: int, k: int) -> SAE:
    """An SAE of activations (n, width)."""
    config = SAETrainConfig(d_hidden=n_latents, k=k, epochs=2, batch_size=512, seed=0)
    return train_sae(x.astype(np.float32), config, progress=False)


def state_of(sae: SAE, signature: str) -> dict[str, Any]:
    """An SAE as Mi-Crow's `model.pt` holds it; the reconstruction's bias has no place there."""
    import torch

    def tensor(x: np.ndarray) -> Any:
        return torch.from_numpy(np.array(x, dtype=np.float32))

    bias = sae.b_enc - (sae.b_dec @ sae.W_enc if sae.subtract_b_dec else 0)
    return {
        "sae_state_dict": {
            "encoder.final_block.0.weight": tensor(sae.W_enc.T),
            "encoder.final_block.0.bias": tensor(bias),
            "dictionary._weights": tensor(sae.W_dec * 3.0),  # its rows are made unit vectors when they are read
            "dictionary.multiplier": torch.zeros(1),
        },
        "mi_crow_metadata": {
            "concepts_state": {
                "multiplication": torch.ones(sae.d_hidden),
                "bias": torch.ones(sae.d_hidden),
            },
            "n_latents": sae.d_hidden, "n_inputs": sae.d_model, "k": sae.k, "device": "cpu",
            "layer_signature": signature, "model_id": "tinystories",
        },
    }  # fmt: skip
