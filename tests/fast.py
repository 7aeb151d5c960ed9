"""Which tests are `fast`: the main ways through every room, in both wings, in under two minutes on two cores.

    python -m pytest -m fast

The files were chosen by the processor time of their tests; what trains for long, starts other processes or opens
every architecture is left to the whole run. A new test of such a file is fast: keep it under a second.
"""

from __future__ import annotations

FILES = {
    "activations/test_exclusions.py",
    "anatomy/test_names.py", "anatomy/test_residual.py",
    "attention/test_pictures.py", "attention/test_scores.py",
    "autointerp/test_answers.py",
    "backends/test_encoding.py", "backends/test_torch_arrays.py",
    "circuits/test_graph.py", "circuits/test_influence.py",
    "cli/test_cli.py",
    "compat/test_mi_crow.py",
    "concepts/test_names.py", "concepts/test_registry.py", "concepts/test_scales.py", "concepts/test_tracking.py",
    "core/test_array_keys.py", "core/test_csv_cells.py", "core/test_feature_ids.py", "core/test_json.py",
    "core/test_options.py",
    "core/test_sparse.py", "core/test_top_n.py",
    "data/test_contexts.py", "data/test_corpus.py", "data/test_text.py",
    "edits/test_edits.py", "edits/test_messages.py",
    "evaluation/test_evaluation.py",
    "explorer/test_model_thread.py",
    "features/test_search.py",
    "hooks/test_hooks.py",
    "house/test_fast.py", "house/test_house.py", "house/test_public_names.py", "house/test_public_snapshot.py",
    "geometry/test_probes.py",
    "index/test_answers.py",
    "lens/test_logit_lens.py",
    "model/test_completion.py",
    "neuronpedia/test_labels.py",
    "patching/test_activation.py",
    "patchscopes/test_placeholders.py",
    "sae/test_formats.py", "sae/test_sae.py",
    "steering/test_vector_files.py",
    "study/test_evidence.py",
    "tracing/test_generation.py", "tracing/test_interventions.py", "tracing/test_trace.py",
    "training/test_run.py",
    "viz/test_card.py", "viz/test_grid.py", "viz/test_token_view.py",
}  # fmt: skip
"""Paths below `tests`."""

LONG = {
    "test_a_model_in_this_process_judges_from_the_command_line",
    "test_a_prompt_longer_than_the_prefill_chunk_is_edited_throughout",
    "test_a_training_that_was_interrupted_is_saved_and_told",
    "test_an_index_of_every_token_answers_as_brute_force",
    "test_an_sae_is_trained_and_checked",
    "test_both_backends_end_with_the_same_loss_after_200_steps",
    "test_both_wings_show_the_same_tokens_of_a_generation_however_it_ends",
    "test_c8_the_demo_takes_any_text",
    "test_direct_answers_with_exclude_are_those_of_an_index_with_it",
    "test_e3_texts_are_those_of_the_python_call",
    "test_edits_in_generation_equal_a_full_recompute",
    "test_features_are_explained_and_their_explanations_scored",
    "test_generation_equals_recomputing_everything_without_a_cache",
    "test_lines_keep_to_the_width_of_a_terminal",
    "test_python_runs_the_package_as_the_command",
    "test_quantiles_are_tenths_of_the_ranks_and_together_are_all_texts",
    "test_sixteen_bit_weights_give_the_same_rules",
    "test_the_demo_chooses_features_that_are_strong_here_and_rare_elsewhere",
    "test_a_server_that_is_not_there_or_silent_is_named",
    "test_thirty_megabytes_are_read",
    "test_the_program_starts_without_an_array_library_and_ends_quietly_with_its_reader",
    "test_top_texts_of_every_feature_equal_brute_force",
}
"""Tests of those files that are not fast."""


def is_fast(file: str, test: str) -> bool:
    """Whether a test (its function's name) of a file is fast."""
    return file in FILES and test not in LONG
