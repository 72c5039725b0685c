"""The names of vLLM that the plugin derives from, overrides, calls and reads, and releases that have them.

`CONTRACT` is checked against the installed vLLM's sources whenever the plugin merges (`check`), and by the
tests against any release whose wheel was unpacked (docs/serving.md says how a new release is read).
"""

from __future__ import annotations

from functools import cache

from holitom.errors import InterfaceError, UnsupportedUsageError
from holitom.integrations.interfaces import broken, installed

TESTED = ("0.32",)
"""vLLM releases that the tests ran on, with a real engine on the CPU."""

READ = ("0.33",)
"""vLLM releases whose sources have all names of the contract, and that the tests did not run on."""

CONTRACT = """
vllm.plugins
    DEFAULT_PLUGINS_GROUP
    load_general_plugins()

vllm.model_executor.models
    ModelRegistry

vllm.model_executor.models.registry
    _ModelRegistry.register_model(model_arch, model_cls)
    _ModelRegistry.get_supported_archs()

vllm.model_executor.models.config
    MODELS_CONFIG_MAP
    VerifyAndUpdateConfig.verify_and_update_model_config(model_config)

vllm.config.model
    calls verify_and_update_model_config
    ModelConfig.hf_config
    ModelConfig.architecture
    ModelConfig.multimodal_config

vllm.config.multimodal
    MultiModalConfig.is_multimodal_pruning_enabled()
    MultiModalConfig.video_pruning_rate
    MultiModalConfig.mm_encoder_tp_mode
    MultiModalConfig.mm_encoder_attn_dtype

vllm.config.vllm
    VllmConfig.model_config
    VllmConfig.compilation_config
    VllmConfig.speculative_config
    VllmConfig.lora_config
    VllmConfig.parallel_config

vllm.config.lora
    LoRAConfig.enable_tower_connector_lora

vllm.config.parallel
    ParallelConfig.pipeline_parallel_size

vllm.config.compilation
    CompilationConfig.compile_mm_encoder
    CompilationConfig.cudagraph_mm_encoder

vllm.distributed
    get_tensor_model_parallel_world_size()
    tensor_model_parallel_all_gather(input_)
    tensor_model_parallel_all_reduce(input_)

vllm.tokenizers
    cached_tokenizer_from_config(model_config)

vllm.model_executor.layers.linear
    QKVParallelLinear

vllm.model_executor.layers.attention.mm_encoder_attention
    MMEncoderAttention.num_heads
    MMEncoderAttention.head_size
    MMEncoderAttention.scale
    MMEncoderAttention.forward_native(query, key, value)

# The engine without a server (offline.py).

vllm.entrypoints.llm
    LLM(model)
    LLM.llm_engine

vllm.sampling_params
    SamplingParams.temperature
    SamplingParams.max_tokens

vllm.v1.engine.llm_engine
    LLMEngine.add_request(request_id, prompt, params)
    LLMEngine.step()
    LLMEngine.abort_request(request_ids)

# Processors: counts, and keys of the caches.

vllm.multimodal
    MULTIMODAL_REGISTRY

vllm.multimodal.registry
    MultiModalRegistry.register_processor(processor, info, dummy_inputs)

vllm.multimodal.inputs
    PlaceholderRange(offset, length)
    MultiModalFeatureSpec.data
    MultiModalFeatureSpec.modality
    MultiModalFeatureSpec.mm_position
    MultiModalFieldElem.data

vllm.multimodal.processing
    PromptReplacement.modality
    PromptReplacement.target
    PromptReplacement.replacement
    BaseProcessingInfo.get_hf_config()
    BaseProcessingInfo.get_tokenizer()
    BaseProcessingInfo.get_hf_processor()
    BaseMultiModalProcessor.info
    BaseDummyInputsBuilder.info
    BaseDummyInputsBuilder._get_dummy_videos(width, height, num_frames, num_videos)

vllm.multimodal.processing.processor
    calls _get_mm_hashes
    calls _get_prompt_updates
    BaseMultiModalProcessor._get_mm_hashes(inputs)
    BaseMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)

# The LLaVAs.

vllm.model_executor.models.llava_onevision
    _MAX_FRAMES_PER_VIDEO
    calls get_num_video_tokens
    calls _process_video_pixels
    LlavaOnevisionProcessingInfo.get_num_video_tokens(image_width, image_height, num_frames)
    LlavaOnevisionProcessingInfo._get_num_frame_tokens(image_width, image_height)
    LlavaOnevisionProcessingInfo.get_num_frames_with_most_features(seq_len, mm_counts)
    LlavaOnevisionProcessingInfo.get_image_size_with_most_features()
    LlavaOnevisionMultiModalProcessor
    LlavaOnevisionDummyInputsBuilder
    LlavaOnevisionForConditionalGeneration(vllm_config, prefix)
    LlavaOnevisionForConditionalGeneration.config
    LlavaOnevisionForConditionalGeneration.vision_tower
    LlavaOnevisionForConditionalGeneration.image_newline
    LlavaOnevisionForConditionalGeneration._process_video_pixels(inputs)
    LlavaOnevisionForConditionalGeneration._video_pixels_to_features(vision_tower, pixel_values)
    LlavaOnevisionForConditionalGeneration.apply_pooling(image_features)

vllm.model_executor.models.llava_next_video
    calls get_num_video_tokens
    calls _process_video_pixels
    LlavaNextVideoProcessingInfo.get_num_video_tokens(image_width, image_height, num_frames)
    LlavaNextVideoProcessingInfo._get_num_frame_tokens(image_width, image_height)
    LlavaNextVideoProcessingInfo.get_num_frames_with_most_features(seq_len, mm_counts)
    LlavaNextVideoProcessingInfo.get_image_size_with_most_features()
    LlavaNextVideoMultiModalProcessor
    LlavaNextVideoDummyInputsBuilder
    LlavaNextVideoForConditionalGeneration(vllm_config, prefix)
    LlavaNextVideoForConditionalGeneration.config
    LlavaNextVideoForConditionalGeneration.vision_tower
    LlavaNextVideoForConditionalGeneration.vision_resampler
    LlavaNextVideoForConditionalGeneration._process_video_pixels(inputs)
    LlavaNextVideoForConditionalGeneration._video_pixels_to_features(vision_tower, pixel_values)

vllm.model_executor.models.siglip
    SiglipVisionModel.vision_model
    SiglipVisionTransformer.encoder
    SiglipEncoder.layers
    SiglipEncoderLayer.forward(hidden_states)
    SiglipEncoderLayer.self_attn
    SiglipAttention.attn

vllm.model_executor.models.clip
    CLIPVisionModel.vision_model
    CLIPVisionTransformer.encoder
    CLIPEncoder.layers
    CLIPEncoderLayer.forward(hidden_states)
    CLIPEncoderLayer.self_attn
    CLIPAttention.attn

# InternVL.

vllm.model_executor.models.interns1
    calls _process_vision_input
    InternS1ProcessingInfo
    InternS1DummyInputsBuilder
    InternS1MultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    InternS1ForConditionalGeneration(vllm_config, prefix)
    InternS1ForConditionalGeneration.config
    InternS1ForConditionalGeneration.vision_tower
    InternS1ForConditionalGeneration.language_model
    InternS1ForConditionalGeneration.video_context_token_id
    InternS1ForConditionalGeneration.downsample_ratio
    InternS1ForConditionalGeneration._process_vision_input(image_input)
    InternS1ForConditionalGeneration.extract_feature(pixel_values)
    InternS1ForConditionalGeneration.pixel_shuffle(x, scale_factor)

vllm.model_executor.models.interns1_vit
    InternS1VisionModel.encoder
    InternS1VisionEncoder.layer
    InternS1VisionLayer.forward(hidden_states)
    InternS1VisionLayer.attention
    InternSdpaAttention.attn

# Qwen's.

vllm.v1.worker.gpu_model_runner
    calls recompute_mrope_positions
    calls get_mrope_input_positions
    calls is_multimodal_pruning_enabled
    calls supports_multimodal_pruning

vllm.model_executor.models.interfaces
    supports_multimodal_pruning(model)
    SupportsMultiModalPruning.recompute_mrope_positions(input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens)
    SupportsMultiModal.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)

vllm.model_executor.models.qwen2_vl
    calls _process_video_input
    Qwen2VLProcessingInfo
    Qwen2VLDummyInputsBuilder
    Qwen2VLMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    Qwen2VLForConditionalGeneration(vllm_config, prefix)
    Qwen2VLForConditionalGeneration.config
    Qwen2VLForConditionalGeneration.visual
    Qwen2VLForConditionalGeneration.language_model
    Qwen2VLForConditionalGeneration._process_video_input(video_input)
    Qwen2VLForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
    Qwen2VLForConditionalGeneration.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)
    Qwen2VLForConditionalGeneration.forward(input_ids, positions)
    Qwen2VisionTransformer.blocks
    Qwen2VisionTransformer.spatial_merge_size
    Qwen2VisionTransformer.out_hidden_size
    Qwen2VisionTransformer.forward(x, grid_thw)
    Qwen2VisionBlock.forward(x, cu_seqlens, rotary_pos_emb_cos, rotary_pos_emb_sin)
    Qwen2VisionBlock.attn
    Qwen2VisionAttention.attn
    Qwen2VisionAttention.qkv

vllm.model_executor.models.qwen2_5_vl
    calls _process_video_input
    Qwen2_5_VLProcessingInfo
    Qwen2_5_VLDummyInputsBuilder
    Qwen2_5_VLMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    Qwen2_5_VLForConditionalGeneration(vllm_config, prefix)
    Qwen2_5_VLForConditionalGeneration.config
    Qwen2_5_VLForConditionalGeneration.visual
    Qwen2_5_VLForConditionalGeneration.language_model
    Qwen2_5_VLForConditionalGeneration.is_multimodal_pruning_enabled
    Qwen2_5_VLForConditionalGeneration._process_video_input(video_input)
    Qwen2_5_VLForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
    Qwen2_5_VLForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens)
    Qwen2_5_VLForConditionalGeneration.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)
    Qwen2_5_VLForConditionalGeneration.forward(input_ids, positions)
    Qwen2_5_VisionTransformer.blocks
    Qwen2_5_VisionTransformer.spatial_merge_size
    Qwen2_5_VisionTransformer.out_hidden_size
    Qwen2_5_VisionTransformer.forward(x, grid_thw)
    Qwen2_5_VisionTransformer.get_rope_by_thw(t, h, w)
    Qwen2_5_VisionTransformer.fullatt_block_indexes
    Qwen2_5_VisionBlock.forward(x, cu_seqlens, rotary_pos_emb_cos, rotary_pos_emb_sin, max_seqlen)
    Qwen2_5_VisionBlock.attn
    Qwen2_5_VisionAttention.attn
    Qwen2_5_VisionAttention.qkv

vllm.model_executor.models.qwen3_vl
    calls _process_video_input
    Qwen3VLProcessingInfo
    Qwen3VLDummyInputsBuilder
    Qwen3VLMultiModalProcessor._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
    Qwen3VLMultiModalProcessor.get_video_repl(tokens_per_frame, timestamps, tokenizer, vision_start_token_id, vision_end_token_id, video_token_id)
    Qwen3VLForConditionalGeneration(vllm_config, prefix)
    Qwen3VLForConditionalGeneration._tokenizer
    Qwen3VLForConditionalGeneration.config
    Qwen3VLForConditionalGeneration.visual
    Qwen3VLForConditionalGeneration.language_model
    Qwen3VLForConditionalGeneration.is_multimodal_pruning_enabled
    Qwen3VLForConditionalGeneration._process_video_input(video_input)
    Qwen3VLForConditionalGeneration.get_mrope_input_positions(input_tokens, mm_features)
    Qwen3VLForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens)
    Qwen3VLForConditionalGeneration.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal)
    Qwen3VLForConditionalGeneration.forward(input_ids, positions)
    Qwen3_VisionTransformer.blocks
    Qwen3_VisionTransformer.spatial_merge_size
    Qwen3_VisionTransformer.out_hidden_size
    Qwen3_VisionTransformer.forward(x, grid_thw)
    Qwen3_VisionTransformer.deepstack_visual_indexes
    Qwen3_VisionBlock.forward(x, cu_seqlens, rotary_pos_emb_cos, rotary_pos_emb_sin, max_seqlen, sequence_lengths)
    Qwen3_VisionBlock.attn

vllm.multimodal.processing
    PromptUpdateDetails.full

vllm.model_executor.models.qwen3_vl_moe
    Qwen3VLMoeProcessingInfo
    Qwen3VLMoeForConditionalGeneration(vllm_config, prefix)
    Qwen3VLMoeForConditionalGeneration._process_video_input(video_input)

vllm.model_executor.models.qwen3_5
    Qwen3_5ProcessingInfo
    Qwen3_5MoeProcessingInfo
    Qwen3_5ForConditionalGeneration(vllm_config, prefix)
    Qwen3_5ForConditionalGeneration._process_video_input(video_input)
    Qwen3_5ForConditionalGeneration.visual
    Qwen3_5ForConditionalGeneration.recompute_mrope_positions(input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens)
    Qwen3_5MoeForConditionalGeneration(vllm_config, prefix)
    Qwen3_5MoeForConditionalGeneration._process_video_input(video_input)
    Qwen3_5MoeForConditionalGeneration.visual
"""  # noqa: E501


def known(version: str) -> bool:
    """Whether vLLM `version` ("0.32.1", "0.33.0rc1+cpu") is one of those tested or read."""
    from packaging.version import InvalidVersion, Version

    try:
        release = Version(version).release
    except InvalidVersion:
        return False
    return ".".join(map(str, release[:2])) in TESTED + READ


def check_version(version: str) -> None:
    """Raise `UnsupportedUsageError` unless vLLM `version` was tested or read."""
    if not known(version):
        raise UnsupportedUsageError(
            f"holitom does not know the interfaces of vLLM {version}: it was tested with "
            f"{' and '.join(TESTED)}, and the sources of {' and '.join(READ)} were read; install one of "
            f"these (pip install 'vllm~={TESTED[-1]}.0'), or hold CONTRACT against the sources of {version} "
            "and add it to READ in holitom/integrations/vllm/contract.py"
        )


@cache
def check_interfaces() -> None:
    """Look over the sources of the installed vLLM: a second or two, once a process.

    Raises:
        InterfaceError: something of `CONTRACT` is not there.
    """
    sources = installed("vllm")
    gone = ["the package cannot be found"] if sources is None else broken(sources, CONTRACT)
    if gone:
        raise InterfaceError.of("vllm", " and ".join(TESTED), "; ".join(gone))
