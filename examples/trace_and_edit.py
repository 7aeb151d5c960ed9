"""Trace a model, edit components by path, and see what changes. Runs offline on the embedded model.

python examples/trace_and_edit.py
"""

import mlxterp
from mlxterp import interventions

model = mlxterp.load_demo().model
prompt = "Tom was happy because he found a big red"
print(model)

# 1. Look: every component has a name.
names = model.components()
print(f"{len(names)} components, such as {list(names)[1:8]}")

# 2. Read and edit inside the block. Values are real arrays.
with model.trace(prompt) as clean:
    pass
with model.trace(prompt) as edited:
    model.layers[0].mlp.output[:, -1] *= 0  # no MLP at the last token of the first layer
    model.layers[1].attn.pattern[:, 0] = 0  # no attention of head 0 in layer 1
for name, run in (("as it is", clean), ("edited", edited)):
    print(f"{name:<9} next token: {model.decode(int(run.output[0, -1].argmax()))!r}")

# 3. Which layer's MLP matters most for the next token? One ablation each, on the last token.
token = int(clean.output[0, -1].argmax())
for layer in range(model.n_layers):
    change = {f"layers.{layer}.mlp": interventions.zero_out(positions=-1)}
    before, after = (float(run.output[0, -1, token]) for run in (clean, model.trace(prompt, change)))
    print(f"layer {layer}: logit of {model.decode(token)!r} {before:.2f} -> {after:.2f}")

# 4. The same question for all layers at once, by gradients.
other = int(model.tokenize("the")[-1])
paths = [f"layers.{layer}.mlp_out" for layer in range(model.n_layers)]
gradients = model.gradients(prompt, mlxterp.logit_difference(token, other), at=paths)
for path in paths:
    effect = float((clean.activations[path] * gradients[path])[0, -1].sum())
    print(f"{path}: gradient times activation {effect:+.2f}")

# 5. Generate with edits in force.
print("plain  :", model.generate(prompt, max_tokens=20))
weaker = {"layers.2.mlp": interventions.scale(0.2)}
print("edited :", model.generate(prompt, max_tokens=20, interventions=weaker, positions="generated"))
