"""A session as it is written for the existing mlxterp (its guides and tutorials), but for the folder of the model.

`test_mlxterp` runs it with `from mlxterp import` made `from mlxterp.compat.mlxterp import`, and nothing else changed.
`FOLDER` and `TEXTS` are given; `found` is what the test looks at.
"""

# ruff: noqa
# pyright: basic, reportUndefinedVariable=false, reportAttributeAccessIssue=false, reportCallIssue=false

from mlxterp import (
    InterpretableModel,
    InterventionComposer,
    SAEConfig,
    SAETrainer,
    batch_get_activations,
    collect_activations,
    get_activations,
    interventions as iv,
)
from mlxterp.visualization import (
    AttentionPatternDetector,
    attention_from_trace,
    attention_heatmap,
    detect_head_types,
    detect_induction_heads,
    get_attention_patterns,
    save_interactive_attention,
)

found = {}
model = InterpretableModel(FOLDER)
text = "Lily lost her red ball. Tom found the red ball."

# tokens
ids = model.encode(text)
found["round trip"] = model.decode(ids[1:])
found["batch"] = model.encode_batch([text, "Tom was sad."])
found["token"] = model.token_to_str(ids[1])
tokens = model.to_str_tokens(text)
found["vocab"] = model.vocab_size

# tracing
with model.trace(text) as trace:
    attn_3 = model.layers[3].self_attn.output.save()
    mlp_1 = model.layers[1].mlp.output.save()
    logits = model.output.save()
found["shapes"] = [tuple(attn_3.shape), tuple(mlp_1.shape), tuple(logits.shape)]
found["get"] = trace.get("layers.3.self_attn") is not None and trace.get_activation("layers.99.mlp") is None
found["saved"] = sorted(trace.saved_values)

# interventions
changes = {"layers.2": iv.scale(0.5), "layers.1.mlp": iv.zero_out}
with model.trace("Hello", interventions=changes):
    modified = model.output.save()
combined = InterventionComposer().add(iv.scale(0.5)).add(iv.clamp(min_val=-1, max_val=1)).build()
with model.trace(text, interventions={"layers.1.mlp": combined}) as limited:
    pass
found["largest"] = float(abs(limited.activations["layers.1.mlp"]).max())
with model.trace(text, interventions={"layers.0": iv.noise(std=0.1)}):
    pass

# activations
acts = get_activations(model, ["Lily lost", "Tom found the ball"], layers=[1, 3], positions=-1)
found["last"] = tuple(acts["layer_3"].shape)
many = batch_get_activations(model, [text] * 5, layers=[2], positions=[0, -1], batch_size=2)
found["many"] = tuple(many["layer_2"].shape)
cache = collect_activations(model, text, layers=["layers.1", "layers.3.self_attn"])
found["cache"] = (sorted(cache.keys()), "layers.1" in cache, tuple(cache.get("model.model.layers.1").shape))

# predictions
hidden = trace.activations["layers.3"][0, -1]
found["predicted"] = model.get_token_predictions(hidden, top_k=3, return_scores=True)
lens = model.logit_lens(text, top_k=2, layers=[0, 3])
found["lens"] = lens[3][-1][0]
recovery = model.activation_patching(
    text, "Lily lost her red doll. Tom found the red doll.", component="mlp", layers=[0, 1]
)
found["recovery"] = recovery

# attention
patterns = get_attention_patterns(trace, layers=[1, 2])
found["patterns"] = {layer: pattern.shape for layer, pattern in patterns.items()}
attention_heatmap(patterns[1], tokens, head_idx=3, title="Layer 1, Head 3")
attention_from_trace(trace, tokens, layers=[1])
save_interactive_attention(patterns, tokens, "attention.html")
detector = AttentionPatternDetector()
found["types"] = detector.classify_head(patterns[1][0, 3])
found["head types"] = detect_head_types(model, text, threshold=0.4)["previous_token"]
for head in detect_induction_heads(model, n_random_tokens=10, threshold=0.9)[:5]:
    print(f"L{head.layer}H{head.head}: {head.score:.3f}")

# sparse autoencoders
config = SAEConfig(expansion_factor=1, k=4, num_epochs=1, batch_size=64)
sae = model.train_sae(
    layer=1, dataset=TEXTS, component="mlp", config=config, save_path="sae.mlx", verbose=False
)
found["compatible"] = sae.is_compatible(model, layer=1, component="mlp")
found["features"] = len(model.get_top_features_for_text(text, sae, layer=1, component="mlp", top_k=5))
other = SAETrainer(config).train(model, 2, TEXTS, verbose=False)
transcoder = model.train_transcoder(1, 2, TEXTS, config=config.to_train_config(), verbose=False)
found["transcoder"] = transcoder.is_transcoder
names = [name for name, module in model.named_modules()]
found["modules"] = len(names) > 20 and bool(model.parameters()) and bool(model.trainable_parameters())
