"""Encoding one video on the meta device, by the kind of vision tower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers  # imports its processors on first use
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from holitom.errors import UnsupportedModelError
from holitom.models.base import Adapter

Arguments = dict[str, Any]


class Probe:
    """Encodes one video on the meta device; here for a tower whose videos are `[1, F, C, H, W]`."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.tower = adapter.tower
        self.vision = adapter.config.vision_config

    def arguments(self, frames: int, width: int, height: int) -> Arguments:
        """Make the encoder's arguments for one video, with pixels on the meta device.

        Args:
            frames: frames of the video.
            width: width of a frame in pixels, before the family's processor resizes it.
            height: height of a frame in pixels, likewise.
        """
        return {self.adapter.pixels_name: torch.empty(1, frames, *self.image(), device="meta")}

    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of one frame's pixels."""
        size = self.vision.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.vision.num_channels, height, width

    def part(self, arguments: Arguments, frames: int) -> tuple[Arguments, int]:
        """Cut the arguments to one of several equal parts, so that counting one part is enough.

        Args:
            arguments: the encoder's arguments for a whole video.
            frames: frames of the video.

        Returns:
            The arguments for one part, and the number of parts.
        """
        return arguments, 1

    def encode(self, arguments: Arguments) -> Any:
        """Encode `arguments` and return the encoder's result."""
        return getattr(self.adapter.trunk, self.adapter.encoder)(**arguments, return_dict=True)


class Images(Probe):
    """A tower whose frames are images `[F, C, H, W]`."""

    def arguments(self, frames: int, width: int, height: int) -> Arguments:
        return {"pixel_values": torch.empty(frames, *self.image(), device="meta")}


class PaddedImages(Probe):
    """SmolVLM2's tower, encoded without the checks for padding, which read values."""

    def encode(self, arguments: Arguments) -> Any:
        tower, pixels = self.tower, arguments["pixel_values"].flatten(0, 1)
        shape = (len(pixels), *2 * (pixels.shape[-1] // tower.patch_size,))
        hidden = tower.embeddings(pixels, torch.ones(shape, dtype=torch.bool, device=pixels.device))
        hidden = tower.post_layernorm(tower.encoder(hidden).last_hidden_state)
        return BaseModelOutputWithPooling(pooler_output=self.adapter.trunk.connector(hidden))


class Packed(Probe):
    """A packed tower, whose videos come with `video_grid_thw`."""

    def __init__(self, adapter: Adapter, processor: Callable[[], Any]) -> None:
        super().__init__(adapter)
        self.processor = processor

    def arguments(self, frames: int, width: int, height: int) -> Arguments:
        video = torch.empty(frames, 3, height, width, dtype=torch.uint8, device="meta")
        settings = self.settings()
        inputs = self.processor()(videos=[video], do_sample_frames=False, return_tensors="pt", **settings)
        return {name: inputs[name] for name in ("pixel_values_videos", *self.adapter.encoder_arguments)}

    def settings(self) -> Arguments:
        """Further arguments of the processor."""
        vision = self.vision
        return {
            "patch_size": vision.patch_size,
            "merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        }

    def part(self, arguments: Arguments, frames: int) -> tuple[Arguments, int]:
        """Cut the arguments to one temporal patch row."""
        ((rows, height, width),) = arguments["video_grid_thw"].tolist()
        one = torch.tensor([[1, height, width]])
        pixels: Tensor = arguments["pixel_values_videos"]
        return {**arguments, "pixel_values_videos": pixels[: height * width], "video_grid_thw": one}, rows

    def encode(self, arguments: Arguments) -> Any:
        with _following(self.tower.children()):
            return super().encode(arguments)


class Interpolated(Packed):
    """Qwen3-VL's and derived towers, which interpolate position embeddings at places computed from values."""

    def encode(self, arguments: Arguments) -> Any:
        tower = self.tower
        at, weights = get_vision_interpolation_indices_and_weights(
            arguments["video_grid_thw"],
            tower.num_grid_per_side,
            tower.interpolation_mode,
            tower.interpolation_align_corners,
            self.vision.spatial_merge_size,
        )
        places = {"video_interp_indices": at.to("meta"), "video_interp_weights": weights.to("meta")}
        return super().encode({**arguments, **places})


class Uncompressed(Packed):
    """VideoLLaMA3's tower, with the processor set to drop no token."""

    def settings(self) -> Arguments:
        return {"patch_size": self.vision.patch_size, "use_token_compression": False}


class Crops(Packed):
    """MiniCPM-V's tower, whose frames are crops of several sizes."""

    def settings(self) -> Arguments:
        mode = self.adapter.config.downsample_mode
        return {"patch_size": self.vision.patch_size, "downsample_mode": mode}

    def part(self, arguments: Arguments, frames: int) -> tuple[Arguments, int]:
        """Cut the arguments to one frame."""
        sizes = arguments["target_sizes_videos"]
        one = sizes[: len(sizes) // frames]
        pixels = arguments["pixel_values_videos"][..., : int(one.prod(1).sum()) * self.vision.patch_size]
        return {"pixel_values_videos": pixels, "target_sizes_videos": one}, frames

    def encode(self, arguments: Arguments) -> Any:
        with _bounds_on_the_host(self.tower, arguments["target_sizes_videos"]):
            return Probe.encode(self, arguments)


def _packed(kind: type[Packed], processor: Callable[[], Any]) -> Callable[[Adapter], Probe]:
    return lambda adapter: kind(adapter, processor)


_QWEN2 = _packed(Packed, lambda: transformers.Qwen2VLVideoProcessor())
# Sizes in the checkpoints' own settings; the class's defaults would give 36 tokens per frame.
_QWEN3_SIZE = {"shortest_edge": 4096, "longest_edge": 25165824}
_QWEN3 = _packed(Interpolated, lambda: transformers.Qwen3VLVideoProcessor(size=_QWEN3_SIZE))
_GLM = _packed(Packed, lambda: transformers.Glm4vVideoProcessor())
_MINICPM = _packed(Crops, lambda: transformers.MiniCPMV4_6VideoProcessor())


def _omni(processor: Any) -> Any:
    """Qwen2-VL's video processor with the settings of an Omni processor."""
    return transformers.Qwen2VLVideoProcessor(**processor.videos_kwargs)


PROBES: dict[str, Callable[[Adapter], Probe]] = {
    "siglip_vision_model": Probe,
    "siglip": Probe,
    "clip_vision_model": Probe,
    "internvl_vision": Images,
    "smolvlm_vision": PaddedImages,
    "video_llama_3_vision": _packed(Uncompressed, lambda: transformers.VideoLlama3VideoProcessor()),
    "minicpmv4_6_vision": _MINICPM,
    "minicpmv4_7_vision": _MINICPM,
    "qwen2_vl_vision": _QWEN2,
    "qwen2_5_vl_vision": _QWEN2,
    "qwen2_5_omni_vision_encoder": _packed(Packed, lambda: _omni(transformers.Qwen2_5OmniProcessor)),
    "qwen3_omni_moe_vision_encoder": _packed(Interpolated, lambda: _omni(transformers.Qwen3OmniMoeProcessor)),
    "qwen3_vl_vision": _QWEN3,
    "qwen3_vl_moe_vision": _QWEN3,
    "qwen3_5_vision": _QWEN3,
    "qwen3_5_moe_vision": _QWEN3,
    "glm4v_vision": _GLM,
    "glm4v_moe_vision": _GLM,
    "glm_ocr_vision": _GLM,
}


def probe_of(adapter: Adapter) -> Probe:
    """Make the probe for the vision tower of `adapter`'s model.

    Raises:
        UnsupportedModelError: there is no probe for this type of tower.
    """
    kind = adapter.config.vision_config.model_type
    if kind not in PROBES:
        raise UnsupportedModelError(
            f"counting costs is not supported for a tower of type {kind!r}; supported: "
            f"{', '.join(sorted(PROBES))}"
        )
    return PROBES[kind](adapter)


@contextmanager
def _following(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Move tensors to the meta device as they enter `modules`.

    Grids of patches are on the host, where the tower reads their values; tensors that it computes from them
    must be on the meta device with the pixels.
    """

    def follow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(each.to("meta") if isinstance(each, Tensor) else each for each in args)

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(follow))
        yield


@contextmanager
def _bounds_on_the_host(tower: Any, target_sizes: Tensor) -> Iterator[None]:
    """Give MiniCPM-V's attention its `cu_seqlens` on the host, since it reads their values."""

    def bounds(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> Any:
        patches = kwargs["hidden_states"].shape[1]
        stretches = len(kwargs["cu_seqlens"]) - 1
        areas = target_sizes.prod(1)
        # Stretches are crops, of which the tower keeps a part from its merger on, or windows of one size.
        lengths = areas * patches // int(areas.sum())
        if stretches != len(areas):
            lengths = torch.full((stretches,), patches // stretches)
        at = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        return args, {**kwargs, "cu_seqlens": at}

    attentions = [layer.self_attn for layer in tower.encoder.layers] + [tower.vit_merger.self_attn]
    with ExitStack() as hooks:
        for each in attentions:
            hooks.enter_context(each.register_forward_pre_hook(bounds, with_kwargs=True, prepend=True))
        yield
