"""Inside the engine: what leaves the model's vision side, and the positions that the merged tokens keep."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from published_names import rename
from safetensors.torch import save_file
from support import tiny_qwen
from support.families import internvl, llava_next_video, ready
from support.serving import FRAMES, Transformers, decode, environment, squares
from torch import Tensor
from torch.testing import assert_close

from holitom import HoliTom, Method, Reuse, VideoTokens, load_video, prompt
from holitom.ask import load_model
from holitom.bundled import BUNDLED_MODEL, DEMO_QUESTION, DEMO_VIDEO, checkpoint
from holitom.methods import get_method
from holitom.models import adapter_for
from holitom.prompts import asking, rendered
from holitom.tower import ReusedTower

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

EXACT: dict[str, Any] = {"budget": "exact", "inner_drop": None}
METHODS = {
    "holitom": HoliTom(0.1, **EXACT),
    "holitom with contextual tokens": HoliTom(0.3, contextual_ratio=0.4, **EXACT),
    **{
        name: get_method(name, retain_ratio=0.4)
        for name in ("visionzip", "fastvid", "vidcom2", "evs", "dycoke")
    },
}


@contextmanager
def engine(model: Path | str, holitom: object, **settings: Any) -> Iterator[Any]:
    """An engine in this process, so that its model can be asked directly."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment(), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}.items():
            patch.setenv(name, value)
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        overrides = {} if holitom is None else {"holitom": holitom}
        defaults: dict[str, Any] = {
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 2048,
            "max_num_seqs": 4,
            "block_size": 32,
            "seed": 0,
            "limit_mm_per_prompt": {"video": 2, "image": 1},
        }
        made = LLM(str(model), hf_overrides=overrides, **{**defaults, **settings})
        try:
            yield made
        finally:
            del made
            gc.collect()
            cleanup_dist_env_and_memory()


def model_of(made: Any) -> Any:
    """The model inside an in-process engine."""
    return made.llm_engine.model_executor.driver_worker.worker.model_runner.model


def same(output: Any, expected: tuple[list[int], list[float], int]) -> None:
    """Whether an answer is that of the transformers path, see `generated`."""
    ids, scores, length = expected
    assert len(output.prompt_token_ids) == length
    assert list(output.outputs[0].token_ids) == ids
    assert logprobs_of(output) == pytest.approx(scores, abs=2e-3)


def logprobs_of(output: Any) -> list[float]:
    made = output.outputs[0]
    return [at[token].logprob for at, token in zip(made.logprobs, made.token_ids, strict=True)]


@pytest.fixture(scope="module")
def llava() -> Iterator[Any]:
    with engine(BUNDLED_MODEL, {"retain_ratio": 0.1, "reuse": True}) as made:
        yield model_of(made)


@contextmanager
def run_by(model: Any, method: Method) -> Iterator[None]:
    """Have the model of an engine that was started with reuse run by `method`, with reuse or without."""
    own = model._method, model._reuse
    model._method = model._last_attention._method = method
    if not method.reuse:
        model._reuse = None
    yield
    model._method, model._reuse = own
    model._last_attention._method = model._method


def on_transformers(path: Transformers, pixels: Tensor, reuse: bool) -> VideoTokens:
    """One video's tokens as the transformers adapter reads them."""
    adapter = adapter_for(path.model)
    tower = ReusedTower(adapter)
    seen: list[Tensor] = []
    hook = adapter.vision_attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("hidden_states", *args[:1])), with_kwargs=True
    )
    arguments = {"pixel_values_videos": pixels}
    with torch.inference_mode(), tower.call(Reuse(reach=8 if reuse else 1), arguments) as report:
        encoded = path.model.get_video_features(**arguments)
        given = {"hidden_states": seen[0]}
        read = {"importance": adapter.importance(given), "keys": adapter.keys(given)}
    hook.remove()
    tower.detach()
    assert (report.computed_share < 0.5) == reuse
    return adapter.videos(encoded, arguments, read)[0]


# What is reused is equal to the last bit, so EVS and DyCoke, which rank by change alone, rank it by rounding.
RANK_BY_CHANGE = ("evs", "dycoke")


@pytest.mark.parametrize(
    ("name", "reuse"),
    [(name, False) for name in METHODS] + [(name, True) for name in METHODS if name not in RANK_BY_CHANGE],
)
def test_embeddings_are_those_of_the_transformers_path(
    llava: Any, transformers_path: Transformers, demo: bytes, name: str, reuse: bool
) -> None:
    method: Method = replace(METHODS[name], reuse=reuse)
    video = decode(demo)
    pixels = transformers_path.processor(text=["<video>"], videos=[video], return_tensors="pt")
    pixels = pixels["pixel_values_videos"]
    tokens = on_transformers(transformers_path, pixels, reuse)
    expected = adapter_for(transformers_path.model).send(tokens, method.merge(tokens)).features
    with torch.inference_mode(), run_by(llava, method):
        (embeddings,) = llava.embed_multimodal(pixel_values_videos=pixels)
    assert len(embeddings) == method.merged_count(FRAMES, 49) + 1
    assert_close(embeddings, expected, atol=2e-4, rtol=1e-3)


def test_without_a_method_the_class_is_vllms_own(llava: Any, transformers_path: Transformers) -> None:
    from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration

    videos = [squares(1), squares(2)]
    pixels = transformers_path.processor(text=["<video>"] * 2, videos=videos, return_tensors="pt")
    llava._method = None
    with torch.inference_mode():
        ours = llava.embed_multimodal(pixel_values_videos=pixels["pixel_values_videos"])
        stock = LlavaOnevisionForConditionalGeneration.embed_multimodal(
            llava, pixel_values_videos=pixels["pixel_values_videos"]
        )
    assert [len(one) for one in ours] == [FRAMES * 49 + 1] * 2
    assert all(torch.equal(one, other) for one, other in zip(ours, stock, strict=True))


def quiet(frames: Any) -> Any:
    """The first frame all along, but for its upper left corner."""
    still = np.repeat(frames[:1], len(frames), axis=0)
    still[:, :28, :28] = frames[:, :28, :28]
    return still


def afresh(made: Any, method: Method, request: Any, sampling: Any) -> Any:
    """An answer by `method` of an engine that remembers nothing, where it was started with reuse."""
    made.reset_prefix_cache()
    made.reset_mm_cache()
    made.llm_engine.reset_encoder_cache()
    with run_by(model_of(made), method):
        (output,) = made.generate(request, sampling, use_tqdm=False)
    return output


def generated(model: Any, method: Method, inputs: Any, steps: int) -> tuple[list[int], list[float], int]:
    """Greedy ids on the transformers path, their log-probabilities, and the merged prompt's length."""
    length = inputs["input_ids"].shape[1]
    with method(model) as run:
        made = model.generate(
            **inputs, max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    scores = [logits[0].log_softmax(-1).max().item() for logits in made.logits]
    merged = sum(video.tokens - video.sent for video in run.last.videos)
    assert not method.reuse or run.last.reuse.computed_share < 0.5
    return made.sequences[0, length:].tolist(), scores, length - merged


@pytest.fixture(scope="module")
def llava_next(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-NeXT-Video, random weights, with heads as wide as vLLM's CPU attention wants them."""
    folder = tmp_path_factory.mktemp("llava-next")
    model = ready(llava_next_video.build("sdpa", torch.float32, heads=2))
    model.lm_head.weight.data[: len(llava_next_video.SPECIAL) + 3] = 0  # greedy answers are words
    model.save_pretrained(folder)
    rename(folder / "model.safetensors")
    llava_next_video.processor().save_pretrained(folder)
    return folder


@torch.no_grad()
def test_llava_next_video_answers_as_the_transformers_path(llava_next: Path) -> None:
    from transformers import AutoProcessor, LlavaNextVideoForConditionalGeneration
    from vllm import SamplingParams

    method, steps = HoliTom(0.3, **EXACT), 8
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(llava_next).eval()
    model.generation_config.eos_token_id = None
    video = squares(1, frames=12, side=64)
    prompt = "w1 <video> w2 w3"
    processor = AutoProcessor.from_pretrained(llava_next)
    inputs, still = (
        processor(text=[prompt], videos=[shown], return_tensors="pt") for shown in (video, quiet(video))
    )
    expected = [
        generated(model, method, inputs, steps),
        generated(model, replace(method, reuse=True), still, steps),
    ]
    sampling = SamplingParams(temperature=0, max_tokens=steps, logprobs=0, ignore_eos=True)
    limits = {"limit_mm_per_prompt": {"video": 1}}
    entry = {"retain_ratio": 0.3, "reuse": True}
    with engine(llava_next, entry, long_prefill_token_threshold=8, **limits) as made:
        outputs = [
            afresh(
                made,
                replace(method, reuse=reuse),
                {"prompt": prompt, "multi_modal_data": {"video": [shown]}},
                sampling,
            )
            for shown, reuse in ((video, False), (quiet(video), True))
        ]
        # Methods that read keys, which the class token has too.
        with run_by(model_of(made), get_method("visionzip")):
            (embeddings,) = model_of(made).embed_multimodal(pixel_values_videos=inputs["pixel_values_videos"])
    assert len(embeddings) == get_method("visionzip").merged_count(12, 16)
    for output, wanted in zip(outputs, expected, strict=True):
        same(output, wanted)


@pytest.fixture(scope="module")
def intern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("internvl")
    model = ready(internvl.build("sdpa", torch.float32, heads=2))
    model.lm_head.weight.data[: len(internvl.SPECIAL) + 2] = 0  # greedy answers are text
    model.save_pretrained(folder)
    internvl.processor().save_pretrained(folder)
    return folder


@torch.no_grad()
@pytest.mark.parametrize(("name", "reuse"), [("holitom", False), ("visionzip", True)])
def test_internvl_answers_as_the_transformers_path(intern: Path, name: str, reuse: bool) -> None:
    """Two videos and an image; the text between frames stays, each "Frame" before what is left of its own."""
    from transformers import AutoProcessor, InternVLForConditionalGeneration
    from vllm import SamplingParams

    method, steps = get_method(name, retain_ratio=0.3, **(EXACT if name == "holitom" else {})), 8
    model = InternVLForConditionalGeneration.from_pretrained(intern).eval()
    model.generation_config.eos_token_id = None
    method = replace(method, reuse=reuse)
    videos, image = [squares(1, frames=8, side=48), squares(2, frames=8, side=48)], squares(3, 1, side=48)[0]
    videos = [quiet(video) for video in videos] if reuse else videos
    prompt = "a <video> b <IMG_CONTEXT> c <video> d"
    given = {"videos": videos, "images": [image], "do_sample_frames": False, "return_tensors": "pt"}
    inputs = AutoProcessor.from_pretrained(intern)(text=[prompt], **given)
    ids, scores, length = generated(model, method, inputs, steps)
    sampling = SamplingParams(temperature=0, max_tokens=steps, logprobs=0, ignore_eos=True)
    data = {"video": videos, "image": [Image.fromarray(image)]}
    entry = {"method": name, "retain_ratio": 0.3, "reuse": reuse}
    with engine(intern, entry, long_prefill_token_threshold=8) as made:
        request = {"prompt": prompt, "multi_modal_data": data}
        (output,) = made.generate(request, sampling, use_tqdm=False)
    same(output, (ids, scores, length))


# Qwen's families: random weights, and the transformers path at the same budget.

PROMPT = f"w1 {tiny_qwen.VIDEO} w2 {tiny_qwen.IMAGE} w3 {tiny_qwen.VIDEO} w4 w5"


def on_transformers_path(
    folder: Path,
    family: str,
    method: Method,
    videos: list[Any],
    image: Any,
    steps: int,
    change: Callable[[Any], None] = lambda model: None,
) -> tuple[list[int], list[float], int]:
    """Greedy ids, their log-probabilities, and the merged prompt's length; `change`: of the loaded model."""
    import transformers

    model = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained(folder).eval()
    model.generation_config.eos_token_id = None
    change(model)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    shown = [{k: v for k, v in meta.items() if k != "do_sample_frames"} for _, meta in videos]
    inputs = processor(
        text=[PROMPT],
        videos=[frames for frames, _ in videos],
        video_metadata=shown,
        images=[image],
        do_sample_frames=False,
        return_tensors="pt",
    )
    return generated(model, method, inputs, steps)


def low_rank_adapter(folder: Path) -> Callable[[Any], None]:
    """Write a LoRA adapter of one linear of the language model; what is returned adds it to the model."""
    folder.mkdir()
    random = torch.Generator().manual_seed(7)
    down, up = torch.randn(4, 128, generator=random), torch.randn(128, 4, generator=random)
    linear = "model.language_model.layers.1.self_attn.o_proj"
    weights = {f"base_model.model.{linear}.lora_{name}.weight": w for name, w in (("A", down), ("B", up))}
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))

    def add(model: Any) -> None:
        model.get_submodule(linear).weight.data += up @ down

    return add


@pytest.fixture(scope="module", params=[name for name in tiny_qwen.FAMILIES if "3_5" not in name])
def qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("qwen")
    tiny_qwen.save(folder, request.param)
    return request.param, folder


def clip(seed: int, frames: int) -> tuple[Any, dict[str, Any]]:
    """Frames of 80 x 112 (5 x 7 tokens) at eight a second, as vLLM takes them."""
    pictures = np.stack([np.asarray(Image.fromarray(f).resize((112, 80))) for f in squares(seed, frames)])
    metadata = {
        "fps": 8.0,
        "duration": frames / 8,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }
    return pictures, metadata


def shown(family: str, videos: list[Any]) -> list[Any]:
    """Qwen2-VL is not told when frames are shown."""
    return [frames for frames, _ in videos] if family == "Qwen2VL" else videos


def the_gpu_runner_is_told_the_same_positions(model: Any) -> None:
    """vLLM's GPU runner asks for positions a chunk at a time; here for 3 + 2 tokens of a video of 5.

    A video of 2 frames of 2 x 300 tokens, two positions apart, of which 5 are kept: text, opening token, the
    video from position 2, closing token, text.
    """
    config = model.config
    ids = [8, config.vision_start_token_id, *[config.video_token_id] * 5, config.vision_end_token_id, 9]
    own = torch.tensor([[0, 0, 0], [0, 0, 299], [0, 1, 7], [2, 0, 256], [2, 1, 299]])
    features = torch.randn(5, model.visual.out_hidden_size).bfloat16()
    sent = torch.cat([features, torch.cat([own // 256, own % 256], dim=1).bfloat16()], dim=1)
    text = torch.tensor([0, 1, 2, 2, 2, 2, 2, 302, 303]).expand(3, -1)
    first, positions, _ = model.recompute_mrope_positions(ids, [sent[:3]], text, 0)
    second, positions, delta = model.recompute_mrope_positions(ids, [sent[3:]], positions, 5)
    assert torch.equal(torch.cat([*first, *second]), features)
    assert torch.equal(positions[:, 2:7], 2 + own.T)
    assert positions[:, [0, 1, 7, 8]].tolist() == [[0, 1, 302, 303]] * 3
    assert delta == 304 - len(ids)
    # A request that was preempted comes again, over positions that are filled in already.
    _, again, _ = model.recompute_mrope_positions(ids, [sent], positions, 0)
    assert torch.equal(again, positions)


@torch.no_grad()
def test_qwen_answers_as_the_transformers_path(qwen: tuple[str, Path], tmp_path: Path) -> None:
    """Two videos and an image, prefilled 8 tokens at a time; then again, from the prefix cache. One family
    is compiled, and one has a LoRA adapter for some requests."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    family, folder = qwen
    steps = 8
    videos, image = [clip(1, 12), clip(2, 8)], Image.fromarray(clip(3, 1)[0][0])
    method = HoliTom(0.3, **EXACT)
    expected = on_transformers_path(folder, family, method, videos, image, steps)
    reusing = replace(method, reuse=True)
    still = [(quiet(frames), meta) for frames, meta in videos]
    expected_still = on_transformers_path(folder, family, reusing, still, image, steps)
    sampling = SamplingParams(temperature=0, max_tokens=steps, logprobs=0, ignore_eos=True)
    request = {"prompt": PROMPT, "multi_modal_data": {"video": shown(family, videos), "image": [image]}}
    small: dict[str, Any] = {"max_num_batched_tokens": 64, "long_prefill_token_threshold": 8}
    of_still = {"prompt": PROMPT, "multi_modal_data": {"video": shown(family, still), "image": [image]}}
    settings = {"retain_ratio": 0.3, "reuse": True}
    adapted = family == "Qwen2_5_VL"
    if adapted:
        small["enable_lora"] = True
        change = low_rank_adapter(tmp_path / "adapter")
        expected_adapted = on_transformers_path(folder, family, method, videos, image, steps, change)
        assert expected_adapted[1] != pytest.approx(expected[1], abs=2e-3)
    with engine(folder, settings, enforce_eager=family != "Qwen3VL", **small) as made:
        the_gpu_runner_is_told_the_same_positions(model_of(made))
        reused = made.generate(of_still, sampling, use_tqdm=False)[0]
        first = afresh(made, method, request, sampling)
        # A neighbour whose positions run ahead, in the same batch.
        other = {
            "prompt": f"w7 w7 w7 {tiny_qwen.VIDEO} w8",
            "multi_modal_data": {"video": shown(family, [clip(4, 12)])},
        }
        with run_by(model_of(made), method):
            again = made.generate(request, sampling, use_tqdm=False)[0]
            beside, _ = made.generate([request, other], sampling, use_tqdm=False)
            if adapted:
                adapter = LoRARequest("adapter", 1, str(tmp_path / "adapter"))
                of_adapter, _ = made.generate(
                    [request, request], sampling, use_tqdm=False, lora_request=[adapter, None]
                )
                same(of_adapter, expected_adapted)
    assert again.num_cached_tokens >= 32
    same(reused, expected_still)
    for output in (first, again, beside):
        same(output, expected)


@torch.no_grad()
@pytest.mark.parametrize("reuse", [False, True])
def test_the_bundled_qwen_answers_as_the_transformers_path(reuse: bool) -> None:
    """A trained Qwen3-VL, its processor, time stamps and DeepStack: three questions about the demo."""
    from vllm import SamplingParams

    method, steps = HoliTom(0.1, reuse=reuse, **EXACT), 3
    model, processor = load_model("moving-digits-qwen", "float32", "cpu")
    model.generation_config.eos_token_id = None
    video = load_video(DEMO_VIDEO, 16)
    questions = [DEMO_QUESTION, "How many digits are in the first scene?", "Which color comes first?"]
    expected = [generated(model, method, prompt(processor, video, one), steps) for one in questions]
    shown = {"video": [(video.frames, {**video.metadata, "do_sample_frames": False})]}
    texts = rendered(processor, [asking(processor, one) for one in questions])
    requests = [{"prompt": text, "multi_modal_data": shown} for text in texts]
    sampling = SamplingParams(temperature=0, max_tokens=steps, logprobs=0, ignore_eos=True)
    with engine(checkpoint("moving-digits-qwen"), {"retain_ratio": 0.1, "reuse": reuse}) as made:
        outputs = made.generate(requests, sampling, use_tqdm=False)
    for output, of_one in zip(outputs, expected, strict=True):
        same(output, of_one)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "name", "reuse"), [("Qwen2VL", "visionzip", True), ("Qwen3VL", "holitom", False)]
)
def test_qwen_on_two_ranks(tmp_path: Path, family: str, name: str, reuse: bool) -> None:
    """Each rank has half of the tower's heads; attention and keys (VisionZip reads both) are those of all.

    Under reuse too, of a still video beside one that is computed whole.
    """
    from vllm import SamplingParams

    steps = 4
    tiny_qwen.save(tmp_path, family)
    method = get_method(name, retain_ratio=0.3, **(EXACT if name == "holitom" else {}))
    method = replace(method, reuse=reuse)
    videos, image = [clip(1, 12), clip(2, 2)], Image.fromarray(clip(3, 1)[0][0])
    if reuse:
        videos[0] = quiet(videos[0][0]), videos[0][1]
    expected = on_transformers_path(tmp_path, family, method, videos, image, steps)
    sampling = SamplingParams(temperature=0, max_tokens=steps, logprobs=0, ignore_eos=True)
    request = {"prompt": PROMPT, "multi_modal_data": {"video": shown(family, videos), "image": [image]}}
    entry = {"method": name, "retain_ratio": 0.3, "reuse": reuse}
    with engine(tmp_path, entry, tensor_parallel_size=2) as made:
        (output,) = made.generate(request, sampling, use_tqdm=False)
    same(output, expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["Qwen3_5", "Qwen3_5Moe"])
def test_qwen3_5_keeping_every_token_answers_as_vllm_alone(tmp_path: Path, family: str) -> None:
    """vLLM runs state layers on CPUs in bfloat16 only, too coarse for two engines: it is its own measure."""
    from vllm import SamplingParams

    tiny_qwen.save(tmp_path, family)
    videos, image = [clip(1, 12), clip(2, 8)], Image.fromarray(clip(3, 1)[0][0])
    sampling = SamplingParams(temperature=0, max_tokens=8, logprobs=0, ignore_eos=True)
    request = {"prompt": PROMPT, "multi_modal_data": {"video": videos, "image": [image]}}

    def answered(entry: object) -> Any:
        with engine(tmp_path, entry, dtype="bfloat16") as made:
            return made.generate(request, sampling, use_tqdm=False)[0]

    alone, kept, merged = map(answered, (None, {"retain_ratio": 1}, {"retain_ratio": 0.3}))
    assert list(kept.outputs[0].token_ids) == list(alone.outputs[0].token_ids)
    assert logprobs_of(kept) == logprobs_of(alone)
    full = len(alone.prompt_token_ids)
    assert len(kept.prompt_token_ids) == full
    assert full - len(merged.prompt_token_ids) == sum(n * 35 - round(0.3 * n * 35) for n in (6, 4))
