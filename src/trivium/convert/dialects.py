"""The fields of Axolotl, TRL (its command line and the alignment handbook), LLaMA-Factory and torchtune: what each means here.

A row is a pattern of the field's path (lists without their numbers: `datasets[].path`) and a meaning of `values.MEANINGS`, a part
of the model, the data or the method that `build` reads (`@...`), or the reason why there is no place for it (`!...`).
"""

# ruff: noqa: E501  tables of names

from __future__ import annotations

import re

STORE = "!artifacts lie in the store, under the fingerprint of what made them"
KERNELS = "!how a product is computed: the fastest way there is here is taken, and nothing has to be said"
TRACK = "!the tracker's own setting: it reads it from its environment"
RUNNER = "!how processes are started: `train.launch` and `train.parallel`"
FIXED = "!always so here: "
MODEL = "!it is read from the checkpoint itself"
WORKERS = "!processes that prepare data: the stage's `workers`, one a core"
PICTURES = "!pictures and sound are not trained on"
EMPTY = "empty: nothing to carry"

COMMON = (
    ("learning_rate", "lr"),
    ("num_(train_)?epochs", "epochs"),
    ("max_steps", "steps"),
    ("(per_device_train_batch_size|micro_batch_size)", "micro_batch"),
    ("gradient_accumulation_steps", "accumulation"),
    ("lr_scheduler(_type)?", "schedule"),
    (r"lr_scheduler_kwargs\.min_lr_rate|cosine_min_lr_ratio", "lr_end"),
    ("warmup_ratio", "warmup"),
    ("warmup_steps", "warmup_steps"),
    ("weight_decay", "weight_decay"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("adam_eps(ilon2?)?", "!AdamW's epsilon is 1e-8 here"),
    ("max_grad_norm", "max_grad_norm"),
    ("optim(izer)?", "optimizer"),
    ("bf16|bfloat16|pure_bf16|torch_dtype|dtype|mixed_precision|model_dtype", "precision"),
    ("fp8", "float8"),
    ("fp16|float16", "precision"),
    ("tf32", "!float32 products are what torch's default makes them"),
    ("(use_)?gradient_checkpointing", "recompute"),
    ("disable_gradient_checkpointing", "!nothing is recomputed unless `recompute: blocks` says so"),
    (r"gradient_checkpointing_kwargs\..*|activation_offloading", "!how blocks are recomputed is fixed"),
    ("torch_compile", "compile"),
    ("logging_steps", "log_every"),
    ("eval_steps", "validate_every"),
    ("save_steps", "checkpoint_steps"),
    ("save_total_limit", "keep_last"),
    ("early_stopping_patience", "patience"),
    ("(data_)?seed", "seed"),
    ("val_set(_size)?|val_size", "heldout"),
    ("lora_r(ank)?", "rank"),
    ("lora_alpha", "alpha"),
    ("lora_dropout", "dropout"),
    ("lora_target(_modules)?", "targets"),
    ("(peft_)?use_dora", "dora"),
    ("(peft_)?use_rslora", "rslora"),
    ("load_in_8bit", "int8"),
    ("load_in_4bit", "int4"),
    ("quantization_bit", "int4_bits"),
    ("(base_model|model_name_or_path|model)", "@model"),
    ("(adapter|finetuning_type|use_peft)", "@adapter"),
    ("(lora_model_dir|adapter_name_or_path)", "@lora"),
    ("(dataset_prepared_path|output_dir|overwrite_output_dir|hub_.*|push_to_hub|save_only_model|resume_from_checkpoint)", STORE),
    ("(save_strategy|saves_per_epoch|save_safetensors|save_first_step|auto_resume_from_checkpoints)", "!`checkpoint_every`, by time"),
    ("(do_train|do_eval|eval_strategy|evals_per_epoch|evaluation_strategy|per_device_eval_batch_size|eval_batch_size|eval_on_start)",
     "!looks at the held-out set: before and after, and each `validate_every` steps; a stage `evaluate` measures the result"),
    ("(eval_sample_packing|eval_table_size|eval_max_new_tokens|eval_causal_lm_metrics|do_bench_eval|compute_accuracy|metric.*)",
     "!what is measured is said in a stage `evaluate`"),
    ("(sample_packing|packing|padding_free|packing_strategy|pad_to_sequence_len|group_by_length|neat_packing|sample_packing_.*|batching_strategy|"
     "pad_to_multiple_of|flex_attn_compile_kwargs|length_column_name|batch_flattening|max_packed_sequence_len)", FIXED + "rows are packed and attention stays inside a document"),
    ("(attn_implementation|flash_attn|flash_attention|xformers_attention|sdp_attention|flex_attention|s2_attention|flash_attn_.*|eager_attention)", KERNELS),
    ("(liger_.*|use_liger_kernel|lora_.*_kernel|enable_liger_kernel|use_unsloth.*|unsloth_.*|cut_cross_entropy|use_kernels|kernel_config.*|use_v1_kernels|"
     "use_scattermoe|use_sonicmoe|experts_implementation|tiled_mlp.*|chunked_cross_entropy.*|torch_compile_.*|use_kt|kt_.*|fused_.*|use_fp8_.*|fp8_.*)", KERNELS),
    ("(fsdp_config.*|deepspeed_config.*|parallelism_config.*|fsdp_final_state_dict_type|fsdp_transformer_layer_cls_to_wrap)",
     "!its details: `train.parallel` names axes and ranks, and nothing more is asked"),
    ("(fsdp|deepspeed|fsdp_version)", "sharded"),
    ("dp_shard_size", "shard"),
    ("dp_replicate_size", "replicas"),
    ("(tensor_parallel_size|tensor_model_parallel_size)", "tensor"),
    ("(context_parallel_size|sequence_parallel_degree|cp_size)", "cp"),
    ("pipeline_model_parallel_size", "pipeline"),
    ("expert_model_parallel_size|expert_parallel_size", "expert"),
    ("(ddp_.*|local_rank|world_size|ray_.*|use_ray|resources_per_worker|num_processes|num_machines|machine_rank|main_process_.*|rdzv_backend|"
     "distributed_type|compute_environment|same_network|tpu_.*|use_cpu|downcast_bf16|main_training_function|gpu_ids|enable_cpu_affinity|dist_config.*|"
     "init_config.*|torchdistx_path|placement_strategy|cp_mode|heads_k_stride|ring_attn_func|sequence_parallel|use_distributed_optimizer|"
     "overlap_.*|apply_rope_fusion|bias_activation_fusion|moe_grouped_gemm|moe_token_dispatcher_type|recompute_.*)", RUNNER),
    ("(wandb_project|use_wandb)", "@wandb"),
    ("(wandb_.*|mlflow_.*|comet_.*|trackio_.*|swanlab_.*|run_name|project|trackio|use_tensorboard|use_mlflow|use_comet)", TRACK),
    ("report_to", "tracker"),
    ("(log_level|logging_strategy|logging_first_step|include_tokens_per_second|include_num_input_tokens_seen|debug|plot_loss|average_tokens_across_devices|"
     "logging_dir|profiler_.*|disable_tqdm)", "!what is logged is fixed: events.jsonl holds it all"),
    ("(preprocessing_num_workers|dataset_num_proc|dataset_processes|dataloader_.*|data_num_workers|overwrite_cache|remove_unused_columns|skip_prepare_dataset|"
     "preprocessing_batch_size|dataset_keep_in_memory|shuffle_merged_datasets|tokenized_path|streaming|buffer_size|dispatch_batches|split_batches)", WORKERS),
    ("(trust_remote_code|trust_remote_code_model|load_best_model_at_end)", "!no code of a checkpoint is ever run"),
    ("(model_type|tokenizer_type|tokenizer_config|tokenizer_use_.*|is_.*_derived_model|base_model_config|model_revision|revision_of_model|base_model_ignore_patterns|"
     "model_class|model_config.*|overrides_of_model_config.*|rope_theta|rope_scaling.*|resize_token_embeddings.*|strict|model_name|attn_logit_softcapping|low_cpu_mem_usage|"
     "experimental_skip_move_to_device|device_map|max_memory|llama4_linearized_experts|reinit_weights|tokenizer_save_jinja_files|unsloth|init_.*)", MODEL),
    ("(processor_type|image_.*|video_.*|freeze_vision_tower|freeze_multi_modal_projector|freeze_language_model|freeze_mm_modules|audio_.*|vision_.*|mm_.*)", PICTURES),
    ("chat_template|template|default_system.*|chat_template_jinja|chat_template_kwargs.*|chat_template_path", "@template"),
    (r"special_tokens\.eos_token|eos_token", "eos"),
    (r"special_tokens\..*|tokens(\..*)?|tokenizer_legacy|added_tokens_overrides.*|pad_token|eot_tokens|special_tokens|new_special_tokens.*|add_tokens|add_special_tokens|skip_special_tokens",
     "!they are read from the checkpoint's tokenizer; `start.add_tokens` adds those that it lacks"),
    ("(strict|gptq.*|quantization_method|double_quantization|quantization_type|bnb_.*|quantize_moe_experts|gptq_.*|qat.*|quant_config.*|quantization)",
     "!a frozen base is float or int8 (`adapter.quantize`); what is released is made smaller by a stage `quantize`"),
    ("(lora_fan_in_fan_out|peft_init_lora_weights|peft.*|lora_modules_to_save|modules_to_save|lora_target_parameters|lora_layers_to_transform|loraplus_.*|lora_on_cpu|"
     "pissa_.*|use_pissa|oft_.*|qlora_.*|additional_target|freeze_trainable_.*|relora.*|lora_bias|create_new_adapter|merge_lora|lisa_.*|lora_mlp_.*)",
     "!of adapters there are LoRA, DoRA and rsLoRA on the layers of a block, embeddings and head (`adapter.targets`)"),
    ("(unfrozen_parameters|freeze_.*)", "!either all weights are trained, or an adapter is"),
    ("(loss_watchdog_threshold|loss_watchdog_patience)", "!`train.guard` is what watches the loss: by deviations from its median"),
    ("(neftune_noise_alpha|noisy_embedding_alpha|mixout.*|use_dft_loss|use_asft_loss|asft_.*|use_eaft_loss|eaft_.*|use_eaft|label_smoothing_factor|"
     "mod_.*|mixture_of_depths|dft.*|chunk_.*|entropy_.*)", "!there is no such term in the loss here"),
    ("(galore_.*|use_galore|apollo_.*|use_apollo|badam_.*|use_badam|use_adam_mini|optim_args.*|optim_target_modules|use_muon|lr_groups|embedding_lr.*|"
     "cosine_constant_lr_ratio|lr_scheduler_kwargs.*|lr_quadratic_warmup|optim_config.*|optimizer_config.*)", "!of optimizers there are adamw and muon, with one schedule for all weights"),
    ("plugins(\\[\\])?", "!plug-ins are Python packages with an entry point, found without being named"),
    ("(train_on_inputs|assistant_only_loss|completion_only_loss|train_on_prompt|mask_history|roles_to_train|train_on_eos|train_on_eot)",
     FIXED + "the loss is on the assistant's tokens (`learn: last` takes only the last turn's)"),
    ("(dataset_kwargs.*|dataset_text_field|dataset_exact_deduplication|dataset_shuffle_.*|seed_of_data)", "!how rows are read follows from their columns, and duplicates are dropped"),
    ("(ebft.*|gdpo.*|diffusion.*)", "!there is no such method here"),
    (r"(vllm.*|use_vllm|trl\.use_vllm|trl\.vllm.*)", "!`train.rollout_server` names a server that writes the replies"),
    ("(infer_.*|sample_backend|top_k|do_sample|num_return_sequences|predict_with_generate|gen_.*|generation_.*)", "!how replies are drawn: `train.generation`"),
    ("(beta|rl_beta|pref_beta|orpo_alpha|dpo_beta|kto_beta)", "beta"),
    ("(simpo_gamma|cpo_simpo_.*)", "gamma"),
    ("(dpo_label_smoothing|label_smoothing)", "label_smoothing"),
    ("(rpo_alpha|dpo_use_weighting|pref_ftx|dpo_norm_loss)", "nll"),
    ("(loss_type|pref_loss)", "dpo_loss"),
    ("(kto_desirable_weight|kto_chosen_weight)", "desirable"),
    ("(kto_undesirable_weight|kto_rejected_weight)", "undesirable"),
    ("max_new_tokens|max_completion_length|response_length", "max_new_tokens"),
    ("num_generations", "group"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("(max_prompt_length|max_target_length|reserved_label_len|excess_length_strategy|truncation_mode)", "!`context` bounds the whole row"),
    ("(precompute_ref_log_probs|dpo_.*|ref_model.*|sync_ref_model|reference_model)", FIXED + "the reference is the checkpoint that the stage starts from, and computed once"),
)  # fmt: skip

AXOLOTL = (
    ("sequence_len", "context"),
    ("lora_target_linear", "all_targets"),
    ("(rl|reward_model|process_reward_model|pretraining_dataset.*)", "@method"),
    (r"datasets\[\]\.(path|name|split|type|data_files|ds_type)|test_datasets.*", "@data"),
    (r"(pretraining_)?datasets(\[\]\..*|$)", "!columns are found by their names (ShareGPT, Alpaca, messages): rename those that are called otherwise"),
    (r"trl\.max_completion_length", "max_new_tokens"),
    (r"trl\.num_generations", "group"),
    (r"trl\.temperature", "temperature"),
    (r"trl\.beta", "kl"),
    (r"trl\.loss_type", "grpo_loss"),
    (r"trl\.(reward_funcs|reward_weights|scale_rewards).*", "!rewards are Python functions there: name a verifier in `train.reward`"),
    (r"trl\..*", "!of GRPO's settings there are `group`, `kl`, `loss`, `clip_epsilon`, `temperature`, `max_new_tokens`"),
    (r"(dataset_.*|push_dataset_to_hub|s2s_.*|min_sample_len)", WORKERS),
)  # fmt: skip

TRL = (
    ("(max_seq_length|max_length)", "context"),
    (r"(dataset_name|dataset_config|dataset_train_split|dataset_mixture\.datasets\[\]\.(id|config|split|weight)|dataset_splits|dataset_mixer\..*|dataset_configs)", "@data"),
    (r"dataset_mixture\.datasets\[\]\.columns|columns_to_keep", "!columns that are not needed are left alone"),
    (r"(dataset_mixture\.(seed|test_split_size)|dataset_test_split|dataset_mixture)", "!what is held out is a share by the hash of the item: `data.heldout`"),
    ("(dataset_streaming|auto_insert_empty_system_msg|text_column|use_ema|task|config_name)", "!how rows are read follows from their columns"),
)  # fmt: skip

LLAMAFACTORY = (
    ("cutoff_len", "context"),
    ("stage", "@method"),
    ("(dataset|train_dataset|eval_dataset|dataset_dir)", "@data"),
    ("max_samples", "size"),
    (r"peft_config\.r", "rank"),
    (r"peft_config\.lora_alpha", "alpha"),
    (r"peft_config\.lora_dropout", "dropout"),
    (r"peft_config\.target_modules", "targets"),
    (r"peft_config\.name", "@adapter"),
    ("reward_model.*", "@reward"),
    (r"optim_config\.lr|lr", "lr"),
    ("(export_.*|merge_.*)", "!a stage `export` or `release` writes what was trained"),
)  # fmt: skip

TORCHTUNE = (
    ("batch_size", "micro_batch"),
    ("epochs", "epochs"),
    ("max_steps_per_epoch", "!`steps` counts the whole training: write it instead of `epochs`"),
    ("num_steps", "steps"),
    (r"tokenizer\.max_seq_len", "context"),
    (r"optimizer\.lr", "lr"),
    (r"optimizer\.weight_decay", "weight_decay"),
    (r"optimizer\._component_", "optimizer"),
    (r"optimizer\.betas|optimizer\.(fused|eps|foreach).*|optimizer_in_bwd|optimizer_cpu_offload.*|optim_cpu_offload.*", KERNELS),
    (r"lr_scheduler\._component_", "schedule"),
    (r"lr_scheduler\.num_warmup_steps|warmup_steps", "warmup_steps"),
    ("clip_grad_norm", "max_grad_norm"),
    ("enable_activation_checkpointing|ac_mode|ac_option", "recompute"),
    ("enable_activation_offloading|enable_kv_cache|custom_sharded_layers|fsdp_reshard_after_forward|low_cpu_ram|collate_fn", KERNELS),
    ("compile(\\..*)?", "compile"),
    (r"(checkpointer|ref_checkpointer)\.checkpoint_dir", "@model"),
    (r"model\._component_", "@component"),
    (r"model\.lora_rank", "rank"),
    (r"model\.lora_alpha", "alpha"),
    (r"model\.lora_dropout", "dropout"),
    (r"model\.lora_attn_modules", "targets"),
    (r"model\.apply_lora_to_mlp", "mlp_targets"),
    (r"model\.apply_lora_to_output", "head_target"),
    (r"model\.use_dora", "dora"),
    (r"model\.quantize_base", "int8"),
    (r"model\.(image_size|decoder_trainable|encoder_trainable|fusion_trainable)|tokenizer\.(image_size|max_num_tiles)", PICTURES),
    (r"(policy_)?model\..*|model", MODEL),
    (r"dataset\._component_|dataset\.(source|data_files|split|subset|name)", "@data"),
    (r"dataset\.packed", FIXED + "rows are packed and attention stays inside a document"),
    (r"dataset\.(train_on_input|column_map|column|conversation_column|conversation_style|new_system_prompt|partition|prompt|add_eos|shuffle).*|dataset(\[\].*)?",
     "!columns are found by their names (ShareGPT, Alpaca, messages); the loss is on the assistant's tokens"),
    (r"dataset_val.*|batch_size_val|run_val_every_n_steps", "!what is held out is a share by the hash of the item: `data.heldout`, `validate_every`"),
    (r"loss\._component_", "@loss"),
    (r"loss\.beta", "beta"),
    (r"loss\.label_smoothing", "label_smoothing"),
    (r"loss\.kl_coeff|kl_loss_coeff", "kl"),
    (r"loss\.epsilon", "clip"),
    (r"loss\.(value_coeff|value_clip_range|num_output_chunks|ignore_index).*", "!the loss's own constant: `value_weight`, `value_clip` in ppo"),
    ("kd_ratio", "share"),
    (r"kd_loss.*", "!`divergence` names it: forward, reverse or js"),
    (r"teacher_checkpointer\.checkpoint_dir", "@teacher"),
    (r"reward_checkpointer\.checkpoint_dir", "@reward"),
    (r"(teacher_checkpointer|teacher_model|ref_checkpointer|reward_checkpointer|value_checkpointer|reward_and_value_model|checkpointer|tokenizer|policy_checkpointer)(\..*)?", MODEL),
    ("grpo_samples", "group"),
    ("max_generated_tokens", "max_new_tokens"),
    ("ppo_epochs", "updates"),
    ("lmbda", "gae_lambda"),
    ("gamma", "gamma"),
    ("kl_coeff", "kl"),
    (r"(whiten_rewards|penalise_no_eos|reward_penalty|min_response_length|forward_batch_size|ppo_batch_size|stop_token_ids|reward_functions.*|.*_batch_size|num_replay_buffer.*)",
     "!of the settings for rewards there are `reward`, `reward_model` and `unfinished`"),
    ("tensor_parallel_dim", "tensor"),
    ("data_parallel_shard_dim", "shard"),
    ("data_parallel_replicate_dim", "replicas"),
    ("context_parallel_dim", "cp"),
    (r"(tensor_parallel_plan.*|fsdp.*|device|use_distributed_state_dict|enable_async_checkpointing|use_loss_parallel_ctx_manager|load_dataset.*)", RUNNER),
    (r"(metric_logger.*|profiler.*|log_.*|logger.*)", "!what is logged is fixed: events.jsonl holds it all"),
    (r"(save_.*|adapter_.*|keep_last_n_checkpoints|resume_from_checkpoint|base_model_path|base_dir|name|.*_dir|base_path)", STORE),
    ("shuffle", FIXED + "rows come in an order that the seed gives"),
    (r"quantizer.*", "!a frozen base is float or int8 (`adapter.quantize`); what is released is made smaller by a stage `quantize`"),
    ("log_every_n_steps", "log_every"),
)  # fmt: skip

DIALECTS: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    name: tuple((re.compile(pattern), meaning) for pattern, meaning in (*own, *COMMON))
    for name, own in {
        "axolotl": AXOLOTL,
        "trl": TRL,
        "llamafactory": LLAMAFACTORY,
        "torchtune": TORCHTUNE,
    }.items()
}


def meaning_of(dialect: str, path: str) -> str | None:
    """What a field means here: the first row whose pattern is the whole path. None: nothing is known of it."""
    return next((meaning for pattern, meaning in DIALECTS[dialect] if pattern.fullmatch(path)), None)


def dialect_of(raw: dict[str, object]) -> str | None:
    """Which project a configuration is of, by the fields that only it has."""
    if any(isinstance(value, dict) and "_component_" in value for value in raw.values()):
        return "torchtune" if {"optimizer", "epochs", "num_steps"} & set(raw) else None
    if "base_model" in raw:
        return "axolotl"
    if ("stage" in raw and raw.get("do_train")) or {"train_dataset", "model"} <= set(raw):
        return "llamafactory"
    if "model_name_or_path" in raw and {
        "learning_rate",
        "dataset_name",
        "num_train_epochs",
        "dataset_mixture",
    } & set(raw):
        return "trl"
    return None
