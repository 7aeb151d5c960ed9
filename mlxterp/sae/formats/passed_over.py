"""What readers pass over, by format: settings and arrays that cannot change what an SAE encodes or decodes.

They say how it was trained, what it is called and where it comes from. Names are those of the libraries' own
configuration classes, of all versions that published SAEs were written with. A name stands for all that is in it
("metadata": also "metadata.x"), and "*" for any end or beginning. What is neither read nor here is named in a warning
(settings) or refused (arrays), by `formats.read`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase


def passed_over(format: str, name: str) -> bool:
    """Whether a setting or array of that format (nested names are joined by dots) cannot change a number."""
    parts = name.split(".")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(part, known) for part in names for known in _KNOWN.get(format, ()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_RUN = _words("""
    device seed dataset dataset_path dataset_name dataset_trust_remote_code tokenizer tokenizer_name model_name
    wandb* log_* logger verbose run_name checkpoint* n_checkpoints save_* resume* output_path
    batch_size lr lr_* adam_* betas optimizer* training_tokens steps epochs autocast* dead_feature_*
    compile_* *_compilation_mode neuronpedia* license description author* url* version created* name
""")
"""Of every library's training run."""

_SAELENS = (*_RUN, *_words("""
    sae_lens_version sae_lens_training_version metadata model_from_pretrained_kwargs model_kwargs model_class_name
    hook_name hook_layer hook_name_out hook_layer_out hook_head_index hook_head_index_out hook_eval hook_point_eval
    hook_point hook_point_layer hook_point_head_index layer neuronpedia_id hf_hook_name hf_hook_name_out
    context_size prepend_bos seqpos_slice exclude_special_tokens disable_concat_sequences sequence_separator_token
    begin_batch_token begin_sequence_token streaming is_dataset_tokenized dataset_column_name
    use_cached_activations cached_activations_path new_cached_activations_path activations_mixing_fraction
    from_pretrained_path n_batches_in_buffer buffer_size_gb buffer_size model_batch_size act_store_device
    store_batch_size store_batch_size_prompts train_batch_size train_batch_size_tokens train_batch_size_samples
    tokens_per_buffer total_training_tokens total_training_samples total_training_steps training_samples
    expansion_factor d_sae d_in normalize_sae_decoder noise_scale mse_loss_normalization mse_loss_fn use_error_term
    b_dec_init_method decoder_init_norm decoder_orthogonal_init decoder_heuristic_init decoder_heuristic_init_norm
    init_encoder_as_decoder_transpose scale_sparsity_penalty_by_decoder_norm
    l1_coefficient l1_warm_up_steps lp_norm l0_coefficient l0_warm_up_steps sparsity_coefficient target_l0
    pre_act_loss_coefficient aux_loss_coefficient use_ghost_grads ghost_grad* k_aux use_sparse_activations
    jumprelu_init_threshold jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_tanh_scale jumprelu_ste_to_input
    topk_threshold_lr matryoshka_widths use_matryoshka_aux_loss n_restart_cycles warm_up_steps
    feature_sampling_window feature_sampling_method feature_reinit_scale resample_batches
    finetuning_tokens finetuning_method finetune* eval_* n_eval_* use_wandb train_data* hf_* shuffle* n_shuffles*
    split data_dir data_files column_name num_proc pretokenize_batch_size bottleneck_factor sparsity sparsity_path
    mean_l0 l0 training_architecture training_architecture_details
"""))  # fmt: skip

_OPENMOSS = (*_RUN, *_words("""
    expansion_factor d_sae hook_point_in hook_point_out strict_loading sae_pretrained_name_or_path
    sae_from_pretrained_path bias_init_method decoder_bias_init_method init_encoder_norm init_decoder_norm
    init_encoder_with_decoder_transpose init_encoder_with_decoder_transpose_factor init_log_jumprelu_threshold_value
    init_search decoder_exactly_fixed_norm decoder_exactly_unit_norm force_unit_decoder_norm
    remove_gradient_parallel_to_decoder_directions encoder_uniform_bound decoder_uniform_bound
    lp lp_coefficient l1_coefficient l1_coefficient_warmup_steps initial_k k_warmup_steps k_cold_booting_steps
    k_schedule_type k_exponential_factor use_batch_norm_mse use_ghost_grads tp_size ddp_size exp_name exp_series
    exp_result_path exp_result_dir jumprelu_threshold_window jumprelu_lr_factor sparsity_loss_type
    tanh_stretch_coefficient use_triton_kernel sparsity_threshold_for_triton_spmm_kernel sparsity_threshold_for_csr
    decode_with_csr promote_act_fn_dtype circuit_tracing_mode offload clip_grad_norm feature_sampling_window
    use_ddp context_size prepend_bos total_training_tokens train_batch_size
"""))  # fmt: skip

_DICTIONARY = (*_words("""
    buffer buffer.* submodule_name layer trainer.trainer_class trainer.wandb* trainer.device trainer.seed trainer.lr
    trainer.steps trainer.layer trainer.lm_name trainer.submodule_name trainer.dataset* trainer.auxk_alpha
    trainer.warmup_steps trainer.lambda_warm_steps trainer.decay_start trainer.threshold_beta
    trainer.threshold_start_step trainer.top_k_aux trainer.bandwidth trainer.sparsity_* trainer.target_l0
    trainer.l1_penalty trainer.lp_norm trainer.resample_steps trainer.steps_before_annealing trainer.p_start
    trainer.p_end trainer.anneal_start trainer.n_sparsity_updates trainer.group_fractions trainer.group_weights
    trainer.group_sizes trainer.weights_temperature trainer.k_anneal_steps trainer.norm_factor trainer.dtype
    trainer.ghost_threshold trainer.activation_queue_length trainer.dictionary_size
    trainer.initial_sparsity_penalty trainer.num_tokens norm_factor
"""), *_RUN, *(f"trainer.{name}" for name in _RUN))  # fmt: skip

_SPARSIFY = (
    *_RUN,
    *_words(
        "expansion_factor normalize_decoder multi_topk hookpoint hookpoints layers init_seeds auxk_alpha"
    ),
)

_GEMMA_2 = (*_RUN, *_words("""
    model_name hf_hook_point_in hf_hook_point_out layer l0 l0_* target_l0 width_name num_tokens training training.*
    d_in d_out d_sae d_model num_features release id site hf_repo* repo* sae_id
"""))  # fmt: skip

_CIRCUIT_TRACER = _words("""
    model_name feature_input_hook feature_output_hook scan transcoders repo_id revision subfolder backend n_layers
    d_model d_transcoder d_sae device neuronpedia* description license url* version name created* author*
""")

_TEMPORAL = (*_words("""
    llm data tag train* optim* scheduler* lr* wandb* log* save* eval* device* seed hydra name run* project deploy* id
    sae.exp_factor sae.bottleneck_factor sae.min_act_regularizer_batchtopk sae.name sae.gamma_reg sae.optimizer
"""),)  # fmt: skip

_KISSANE = _words("""
    seed batch_size buffer_mult lr num_tokens l1_coeff beta1 beta2 dict_mult seq_len contiguous enc_dtype model_name
    site layer device reinit head concat_heads per_head resample_scheme anthropic_neuron_resample_scale
    dead_direction_cutoff re_init_every anthropic_resample_last anthropic_resample_batches resample_factor
    num_resamples wandb_project_name wandb_entity save_state_dict_every b_dec_init sched_* eval_every test
    model_batch_size buffer_size buffer_batches name version anneal* dataset* remove_bos
""")

_MI_CROW = _words("""
    mi_crow_metadata.device mi_crow_metadata.layer_signature mi_crow_metadata.model_id mi_crow_metadata.concepts_state
""")

_OPENAI = _words("stats_last_nonzero latents_activation_frequency latents_mean_square version")

_KNOWN: dict[str, tuple[str, ...]] = {
    "mlxterp": (),
    "saelens": _SAELENS,
    "sparsify": _SPARSIFY,
    "mlxterp_upstream": (*_RUN, "metadata", "_training", "training_samples"),
    "gemma_scope_2": _GEMMA_2,
    "llama_scope": _OPENMOSS,
    "llama_scope_r1": _OPENMOSS,
    "llamascopium": (*_OPENMOSS, "dataset_average_activation_norm.*"),
    "dictionary_learning": _DICTIONARY,
    "dictionary_learning_unnormalized": _DICTIONARY,
    "circuit_tracer": _CIRCUIT_TRACER,
    "circuit_tracer_clt": _CIRCUIT_TRACER,
    "temporal": _TEMPORAL,
    "kissane": _KISSANE,
    "mi_crow": _MI_CROW,
    "openai": _OPENAI,
}
"""Formats that are not here (Gemma Scope 1, Qwen Scope, Goodfire, DeepSeek) store nothing to pass over."""
