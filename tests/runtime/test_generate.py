"""`generate` on a stock model with a method attached, each row against the same row worked out by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.reference import reference_generate, reference_logits
from support.tiny import Tiny, build_model, image, video
from torch.testing import assert_close
from transformers import DynamicCache

from holitom import HoliTom, Method
from holitom.methods import HoliTomPlus

STEPS = 6
OUTER = EveryOther()
INNER = EveryOther(layers=(2,))
STAGED = EveryOther(layers=(1, 3))
HOLITOM = HoliTom(retain_ratio=0.25, similarity_threshold=0.8)
OWN = HoliTom(retain_ratio=0.25, similarity_threshold=0.8, positions="own")
PLUS = HoliTomPlus(retain_ratio=0.3)
METHODS = [OUTER, INNER, STAGED, HOLITOM, OWN, PLUS]
NAMES = ["outer", "inner", "staged", "holitom", "own positions", "holitom plus"]

each_method = pytest.mark.parametrize("method", METHODS, ids=NAMES)


def generated(model: Any, inputs: Any, method: Method | None, **settings: Any) -> Any:
    """Ids and the logits of every step."""
    settings = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True} | settings
    if method is None:
        return model.generate(**inputs, return_dict_in_generate=True, **settings)
    with method(model):
        return model.generate(**inputs, return_dict_in_generate=True, **settings)


def answers(out: Any, inputs: Any) -> list[list[int]]:
    return out.sequences[:, inputs["input_ids"].shape[1] :].tolist()


def check_row(tiny: Tiny, out: Any, row: int, inputs: Any, alone: Any, method: Method) -> None:
    """Row `row` of `out` has the logits of the hand-worked reference for `alone`, step by step."""
    answer = answers(out, inputs)[row]
    wanted = reference_logits(tiny.model, alone, method, answer[:-1])
    assert_close(torch.stack(out.logits)[:, row], wanted, atol=2e-4, rtol=1e-4)


@each_method
def test_greedy(tiny_both: Tiny, method: Method) -> None:
    inputs = tiny_both.inputs("w1 <video> w2 w3", videos=[video()])
    out = generated(tiny_both.model, inputs, method)
    check_row(tiny_both, out, 0, inputs, inputs, method)
    assert answers(out, inputs) == [reference_generate(tiny_both.model, inputs, method, STEPS)]
    assert torch.equal(out.sequences[:, :-STEPS], inputs["input_ids"])  # the prompt is returned as it was


def test_the_merged_answer_is_not_the_full_one(tiny: Tiny) -> None:
    """The tests below would pass with nothing attached if it were."""
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    full = generated(tiny.model, inputs, None)
    for method in METHODS:
        assert not torch.allclose(full.logits[0], generated(tiny.model, inputs, method).logits[0], atol=1e-2)


@each_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_of_different_rows(tiny_both: Tiny, method: Method, side: str) -> None:
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6 w5 w4", "w11 w12", "w5 w6 <video> w7 <video>"]
    videos = [video(seed=1), video(seed=2), video(seed=3), video(seed=4)]
    own = [videos[:1], videos[1:2], None, videos[2:]]
    inputs = tiny_both.inputs(*prompts, videos=videos, side=side)
    out = generated(tiny_both.model, inputs, method)
    for row, (prompt, its) in enumerate(zip(prompts, own, strict=True)):
        check_row(tiny_both, out, row, inputs, tiny_both.inputs(prompt, videos=its), method)


@each_method
def test_two_videos_in_one_prompt(tiny: Tiny, method: Method) -> None:
    inputs = tiny.inputs("w1 <video> w2 <video> w3", videos=[video(seed=1), video(seed=2)])
    check_row(tiny, generated(tiny.model, inputs, method), 0, inputs, inputs, method)


@each_method
def test_adjacent_videos(tiny: Tiny, method: Method) -> None:
    inputs = tiny.inputs("w1 <video><video> w3".replace("><", "> <"), videos=[video(seed=1), video(seed=2)])
    check_row(tiny, generated(tiny.model, inputs, method), 0, inputs, inputs, method)


@each_method
def test_images_stay_whole(tiny: Tiny, method: Method) -> None:
    prompt = "w1 <image> w2 <video> w3"
    inputs = tiny.inputs(prompt, videos=[video()], images=[image()])
    out = generated(tiny.model, inputs, method)
    check_row(tiny, out, 0, inputs, inputs, method)


@pytest.mark.parametrize("prompt", ["w1 <image> w2", "w1 w2 w3"])
def test_without_video_nothing_changes(tiny: Tiny, prompt: str) -> None:
    inputs = tiny.inputs(prompt, images=[image()] if "image" in prompt else None)
    full, attached = generated(tiny.model, inputs, None), generated(tiny.model, inputs, HOLITOM)
    assert torch.equal(full.sequences, attached.sequences)
    assert torch.equal(torch.stack(full.logits), torch.stack(attached.logits))


@each_method
def test_beams(tiny: Tiny, method: Method) -> None:
    """Beams of a batch are those of each row alone, and of beams without a cache."""
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 <video> w5 w4"]
    videos = [video(seed=1), video(seed=2), video(seed=3)]
    settings = {"num_beams": 3, "num_return_sequences": 2, "output_logits": False}
    # Without cache a placeholder that the model says would ask for a video of its own.
    settings["suppress_tokens"] = [tiny.model.config.image_token_id, tiny.model.config.video_token_id]
    inputs = tiny.inputs(*prompts, videos=videos)
    out = generated(tiny.model, inputs, method, **settings)
    plain = generated(tiny.model, inputs, method, use_cache=False, **settings)
    assert torch.equal(out.sequences, plain.sequences)
    for row, its in enumerate([videos[:1], videos[1:]]):
        alone = tiny.inputs(prompts[row], videos=its)
        wanted = answers(generated(tiny.model, alone, method, **settings), alone)
        assert answers(out, inputs)[2 * row : 2 * row + 2] == wanted


@each_method
def test_sampling(tiny: Tiny, method: Method) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    torch.manual_seed(3)
    out = generated(tiny.model, inputs, method, do_sample=True, num_return_sequences=3)
    for row in range(3):
        check_row(tiny, out, row, inputs, inputs, method)
    torch.manual_seed(3)
    again = generated(tiny.model, inputs, method, do_sample=True, num_return_sequences=3)
    assert torch.equal(out.sequences, again.sequences)


@each_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_without_cache(tiny: Tiny, method: Method, side: str) -> None:
    """Every step merges anew, but asks the question's last token, not the answer's."""
    videos = [video(seed=1), video(seed=2)]
    inputs = tiny.inputs("w1 <video> w2 w3", "<video> w5 w6 w7 w8 w9", videos=videos, side=side)
    cached = generated(tiny.model, inputs, method)
    plain = generated(tiny.model, inputs, method, use_cache=False)
    assert torch.equal(cached.sequences, plain.sequences)
    assert_close(torch.stack(plain.logits), torch.stack(cached.logits), atol=2e-4, rtol=1e-4)


@each_method
def test_turns_over_one_cache(tiny: Tiny, method: Method) -> None:
    """A video turn, a text turn, a second video; the caller always sends the whole conversation."""
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    settings = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    first = tiny.inputs("w1 <video> w2 w3", videos=[video(seed=1)])
    second = tiny.inputs("w4 <video> w5", videos=[video(seed=2)])
    with method(model) as run:
        ids = model.generate(**first, past_key_values=cache, max_new_tokens=3, do_sample=False)
        assert cache.get_seq_length() == ids.shape[1] - 1
        more = torch.cat([ids, torch.tensor([[12, 13, 14]])], dim=1)
        out = model.generate(
            input_ids=more,
            attention_mask=torch.ones_like(more),
            past_key_values=cache,
            max_new_tokens=3,
            **settings,
        )
        assert run.last is not None
        assert len(run.last.videos) == 1
        text = out.sequences[0, first["input_ids"].shape[1] :].tolist()
        wanted = reference_logits(model, first, method, text[:-1])
        assert_close(torch.stack(out.logits)[:, 0], wanted[-3:], atol=2e-4, rtol=1e-4)

        longer = torch.cat([out.sequences, second["input_ids"]], dim=1)
        out = model.generate(
            input_ids=longer,
            attention_mask=torch.ones_like(longer),
            pixel_values_videos=second["pixel_values_videos"],
            past_key_values=cache,
            max_new_tokens=4,
            **settings,
        )
        assert cache.get_seq_length() == longer.shape[1] + 3
    both = {
        "input_ids": longer,
        "pixel_values_videos": torch.cat([first["pixel_values_videos"], second["pixel_values_videos"]]),
    }
    answer = out.sequences[0, longer.shape[1] :].tolist()
    turns = [first["input_ids"].shape[1], longer.shape[1]]
    wanted = reference_logits(model, both, method, answer[:-1], turns)
    assert_close(torch.stack(out.logits)[:, 0], wanted, atol=2e-4, rtol=1e-4)


@each_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_conversations(tiny_both: Tiny, method: Method, side: str) -> None:
    """Rows of different lengths with a video in both turns, padded between the turns as well."""
    model = tiny_both.model
    cache = DynamicCache(config=model.config)
    prompts = [["w1 <video> w2 w3", "<video> w9 w8 w7 w6"], ["w4 <video> w5", "w6 w7 w8 <video> w9"]]
    videos = [[video(seed=1), video(seed=2)], [video(seed=3), video(seed=4)]]
    turns = [
        tiny_both.inputs(*texts, videos=its, side=side) for texts, its in zip(prompts, videos, strict=True)
    ]
    ids = torch.cat([turn["input_ids"] for turn in turns], dim=1)
    mask = torch.cat([turn["attention_mask"] for turn in turns], dim=1)
    with method(model), torch.no_grad():
        model(**turns[0], past_key_values=cache, use_cache=True)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values_videos=turns[1]["pixel_values_videos"],
            past_key_values=cache,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for row in range(2):
        alone = {
            "input_ids": ids[row][mask[row] == 1][None],
            "pixel_values_videos": torch.stack([turn["pixel_values_videos"][row] for turn in turns]),
        }
        ends = [int(turns[0]["attention_mask"][row].sum()), int(mask[row].sum())]
        answer = out.sequences[row, ids.shape[1] :].tolist()
        wanted = reference_logits(model, alone, method, answer[:-1], ends)
        assert_close(torch.stack(out.logits)[:, row], wanted, atol=2e-4, rtol=1e-4)


def test_second_video_over_a_cache_equals_one_prompt(tiny: Tiny) -> None:
    """Outer merging does not depend on the question, so two turns are one prompt."""
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    videos = [video(seed=1), video(seed=2)]
    whole = tiny.inputs("w1 <video> w2 w3 <video> w4", videos=videos)
    first = tiny.inputs("w1 <video> w2 w3", videos=videos[:1])
    for method in (OUTER, HoliTom(0.25, inner_drop=None)):
        cache = DynamicCache(config=model.config)
        with method(model), torch.no_grad():
            model(**first, past_key_values=cache, use_cache=True)
            out = model.generate(
                input_ids=whole["input_ids"],
                attention_mask=whole["attention_mask"],
                pixel_values_videos=whole["pixel_values_videos"][1:],
                past_key_values=cache,
                max_new_tokens=4,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        check_row(tiny, out, 0, whole, whole, method)


@each_method
def test_padded_second_turn(tiny: Tiny, method: Method) -> None:
    """Rows whose second questions differ in length, padded on the left in the middle of the ids."""
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    prompts = ["w1 <video> w2 w3", "<video> w9 w8 w7 w6 w5"]
    videos = [video(seed=1), video(seed=2)]
    questions = [[12, 13], [14, 15, 16, 17]]
    inputs = tiny.inputs(*prompts, videos=videos)
    with method(model), torch.no_grad():
        model(**inputs, past_key_values=cache, use_cache=True)
        added = torch.tensor([[0, 0, *questions[0]], questions[1]])
        real = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        ids = torch.cat([inputs["input_ids"], added], dim=1)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.cat([inputs["attention_mask"], real], dim=1),
            past_key_values=cache,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for row in range(2):
        alone = tiny.inputs(prompts[row], videos=[videos[row]])
        answer = out.sequences[row, ids.shape[1] :].tolist()
        wanted = reference_logits(model, alone, method, questions[row] + answer[:-1])
        assert_close(torch.stack(out.logits)[:, row], wanted[-4:], atol=2e-4, rtol=1e-4)


@each_method
def test_video_after_a_plain_text_turn(tiny: Tiny, method: Method) -> None:
    """A padded text turn fills a stock cache; the video of the next turn is merged into it."""
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    talk = tiny.inputs("w1 w2 w3", "w4 w5 w6 w7 w8")
    ask = tiny.inputs("w9 <video> w10", "<video> w11 w12", videos=[video(seed=1), video(seed=2)])
    ids = torch.cat([talk["input_ids"], ask["input_ids"]], dim=1)
    mask = torch.cat([talk["attention_mask"], ask["attention_mask"]], dim=1)
    pixels = ask["pixel_values_videos"]
    with method(model), torch.no_grad():
        model.generate(**talk, past_key_values=cache, max_new_tokens=1, do_sample=False)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values_videos=pixels,
            past_key_values=cache,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for row in range(2):
        alone = {"input_ids": ids[row][mask[row] == 1][None], "pixel_values_videos": pixels[row : row + 1]}
        answer = out.sequences[row, ids.shape[1] :].tolist()
        wanted = reference_logits(model, alone, method, answer[:-1])
        assert_close(torch.stack(out.logits)[:, row], wanted, atol=2e-4, rtol=1e-4)


@each_method
def test_a_copied_cache_goes_on_by_itself(tiny: Tiny, method: Method) -> None:
    """Prompt caching: a copy of the cache answers one question, the original another."""
    model, cache = tiny.model, DynamicCache(config=tiny.model.config)
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with method(model), torch.no_grad():
        model(**inputs, past_key_values=cache, use_cache=True)
        for question in ([12, 13], [14]):
            ids = torch.cat([inputs["input_ids"], torch.tensor([question])], dim=1)
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=copy.deepcopy(cache),
                max_new_tokens=3,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            answer = out.sequences[0, ids.shape[1] :].tolist()
            wanted = reference_logits(model, inputs, method, question + answer[:-1])
            assert_close(torch.stack(out.logits)[:, 0], wanted[-3:], atol=2e-4, rtol=1e-4)
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]


def test_bfloat16(processor: Any) -> None:
    tiny = Tiny(build_model(dtype=torch.bfloat16), processor)
    inputs = tiny.inputs("w1 <video> w2 w3", "<video> w4", videos=[video(seed=1), video(seed=2)])
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(torch.bfloat16)
    for method in METHODS:
        out = generated(tiny.model, inputs, method)
        assert out.logits[0].isfinite().all()
        alone = tiny.inputs("<video> w4", videos=[video(seed=2)])
        alone["pixel_values_videos"] = alone["pixel_values_videos"].to(torch.bfloat16)
        own = generated(tiny.model, alone, method)
        assert_close(out.logits[0][1], own.logits[0][0], atol=0.15, rtol=0.05)


@each_method
def test_encoded_once_asked_twice(tiny: Tiny, method: Method) -> None:
    """Features kept from one `get_video_features` serve two questions, each merged by its own last token."""
    with method(tiny.model) as run, torch.no_grad():
        first = tiny.inputs("w1 <video> w2", videos=[video()])
        features = tiny.model.get_video_features(first["pixel_values_videos"], return_dict=True)
        for prompt in ("w1 <video> w2", "w1 <video> w2 w3 w4", "w5 <video> w6"):
            inputs = tiny.inputs(prompt, videos=[video()])
            out = tiny.model(input_ids=inputs["input_ids"], mm_encoder_outputs={"video": features})
            wanted = reference_logits(tiny.model, inputs, method, [])
            assert_close(out.logits[0, -1:], wanted, atol=2e-4, rtol=1e-4)
            assert run.last is not None
            assert run.last.prompt_tokens[0] == inputs["input_ids"].shape[1]


@each_method
def test_rows_with_images_videos_both_and_none(tiny: Tiny, method: Method) -> None:
    prompts = ["w1 <image> w2", "<video> w3 <image> w4", "w5", "<video> w6 w7"]
    videos, images = [video(seed=1), video(seed=2)], [image(1), image(2)]
    own: list[dict[str, Any]] = [
        {"images": images[:1]},
        {"videos": videos[:1], "images": images[1:]},
        {},
        {"videos": videos[1:]},
    ]
    inputs = tiny.inputs(*prompts, videos=videos, images=images)
    out = generated(tiny.model, inputs, method)
    for row, (prompt, its) in enumerate(zip(prompts, own, strict=True)):
        check_row(tiny, out, row, inputs, tiny.inputs(prompt, **its), method)


@each_method
def test_what_is_merged_does_not_depend_on_the_batch(tiny: Tiny, method: Method) -> None:
    videos = [video(seed=seed) for seed in range(3)]
    with method(tiny.model) as run, torch.no_grad():
        together = []
        for order in ([0, 1, 2], [2, 0, 1]):
            tiny.model(**tiny.inputs(*["<video> w1"] * 3, videos=[videos[i] for i in order]))
            assert run.last is not None
            together.append({i: run.last.videos[at] for at, i in enumerate(order)})
        for index, one in enumerate(videos):
            tiny.model(**tiny.inputs("<video> w1", videos=[one]))
            (alone,) = run.last.videos
            for batch in together:
                for part in ("frame", "position", "size"):
                    assert torch.equal(getattr(batch[index], part), getattr(alone, part))
                assert batch[index].stages == alone.stages


def test_hidden_states_and_attentions_can_be_asked_for(processor: Any) -> None:
    """They come as the layers saw them: fewer tokens than the prompt, fewer still after inner merging."""
    tiny = Tiny(build_model("eager"), processor)
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with INNER(tiny.model), torch.no_grad():
        out = tiny.model(**inputs, output_hidden_states=True, output_attentions=True)
    lengths = [attention.shape[-1] for attention in out.attentions]
    assert lengths == [35, 35, 19, 19]
    assert out.logits.shape[1] == inputs["input_ids"].shape[1]
