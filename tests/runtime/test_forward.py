"""Plain `forward`: logits in the caller's columns, losses, gradients, hand-written decoding loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.methods import EveryOther
from support.reference import reference_logits
from support.tiny import Tiny, build_model, video
from torch.testing import assert_close
from transformers import DynamicCache, LlavaOnevisionForConditionalGeneration

from holitom import HoliTom, Method, UnsupportedUsageError

OUTER = EveryOther()
INNER = EveryOther(layers=(2,))
HOLITOM = HoliTom(retain_ratio=0.25, similarity_threshold=0.8)
OWN = HoliTom(retain_ratio=0.25, similarity_threshold=0.8, positions="own")
each_method = pytest.mark.parametrize(
    "method", [OUTER, INNER, HOLITOM, OWN], ids=["outer", "inner", "holitom", "own positions"]
)


@each_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_stand_in_the_callers_columns(tiny: Tiny, method: Method, side: str) -> None:
    prompts = ["w1 <video> w2 w3 w4", "<video> w9 w8 w7 w6 w5 w4 w3"]
    videos = [video(seed=1), video(seed=2)]
    inputs = tiny.inputs(*prompts, videos=videos, side=side)
    with method(tiny.model), torch.no_grad():
        out = tiny.model(**inputs).logits
        last = tiny.model(**inputs, logits_to_keep=1).logits
        three = tiny.model(**inputs, logits_to_keep=3).logits
        some = tiny.model(**inputs, logits_to_keep=torch.tensor([5, 0])).logits
    assert out.shape[:2] == inputs["input_ids"].shape
    assert_close(three, out[:, -3:])
    assert_close(last, out[:, -1:])
    assert_close(some, out[:, [5, 0]])
    for row in range(2):
        alone = tiny.inputs(prompts[row], videos=[videos[row]])
        real = inputs["attention_mask"][row].nonzero()[-1]
        wanted = reference_logits(tiny.model, alone, method, [])
        assert_close(out[row, real], wanted, atol=2e-4, rtol=1e-4)
        # To the right of a row's text, its last token is repeated: generate reads the last column.
        assert_close(last[row], wanted, atol=2e-4, rtol=1e-4)


def test_text_after_the_video_is_predicted_at_its_own_columns(tiny: Tiny) -> None:
    """Outer merging: every text token's logits are those of a teacher-forced answer."""
    inputs = tiny.inputs("w1 <video> w2 w3 w4 w5", videos=[video()])
    question = tiny.inputs("w1 <video> w2", videos=[video()])
    answer = inputs["input_ids"][0, -3:].tolist()
    with OUTER(tiny.model), torch.no_grad():
        out = tiny.model(**inputs).logits[0, -4:]
    assert_close(out, reference_logits(tiny.model, question, OUTER, answer), atol=2e-4, rtol=1e-4)


def test_columns_of_merged_tokens_hold_zeros(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with OUTER(tiny.model), torch.no_grad():
        out = tiny.model(**inputs).logits[0]
    places = (inputs["input_ids"][0] == tiny.model.config.video_token_id).nonzero().squeeze(1)
    gone, kept = places[1:-1:2], places[:-1:2]
    assert not out[gone].any()
    assert out[kept].any(dim=1).all()


@each_method
def test_loss_is_that_of_the_merged_sequence(tiny: Tiny, method: Method) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3 w4 w5", videos=[video()])
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    with method(tiny.model), torch.no_grad():
        out = tiny.model(**inputs, labels=labels)
    wanted = torch.nn.functional.cross_entropy(out.logits[0, -4:-1], labels[0, -3:])
    assert_close(out.loss, wanted)


def test_a_label_that_no_token_predicts_is_an_error(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2", videos=[video()])
    with OUTER(tiny.model), pytest.raises(UnsupportedUsageError, match="-100"):
        tiny.model(**inputs, labels=inputs["input_ids"])


@each_method
def test_the_models_forward_called_by_its_name(tiny: Tiny, method: Method) -> None:
    """It passes by the hooks of the model; labels are looked over all the same."""
    inputs = tiny.inputs("w1 <video> w2 w3 w4 w5", videos=[video()])
    labels = inputs["input_ids"].clone()
    with method(tiny.model), torch.no_grad():
        for given in ({"labels": labels}, {"labels": labels, "shift_labels": labels}):
            with pytest.raises(UnsupportedUsageError, match="-100"):
                tiny.model.forward(**inputs, **given)
        labels[:, :-3] = -100
        out, wanted = tiny.model.forward(**inputs, labels=labels), tiny.model(**inputs, labels=labels)
    assert torch.equal(out.logits, wanted.logits)
    assert torch.equal(out.loss, wanted.loss)


def test_the_forward_of_the_model_inside_called_by_its_name_is_refused(tiny: Tiny) -> None:
    """No hook would see its videos, and full tokens would run without a word."""
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    text = {"input_ids": torch.tensor([[12, 13, 14]])}
    trunk = tiny.model.model
    with torch.no_grad():
        stock = trunk(**text).last_hidden_state
        with INNER(tiny.model):
            with pytest.raises(UnsupportedUsageError, match=r"call the module itself, model\.model"):
                trunk.forward(**inputs)
            assert torch.equal(trunk.forward(**text).last_hidden_state, stock)
            cache = tiny.model(**inputs, use_cache=True).past_key_values
            with pytest.raises(UnsupportedUsageError, match=r"call the module itself, model\.model"):
                trunk.forward(**inputs | {"attention_mask": None}, past_key_values=cache)
            wanted = tiny.model(**inputs).logits
            assert torch.equal(tiny.model.lm_head(trunk(**inputs).last_hidden_state), wanted)


def test_a_class_of_ones_own_that_calls_the_model_inside_by_its_name_is_refused(processor: Any) -> None:
    class Own(LlavaOnevisionForConditionalGeneration):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.model.forward(*args, **kwargs)

    model = build_model()
    model.__class__ = Own
    tiny = Tiny(model, processor)
    with INNER(model), torch.no_grad():
        with pytest.raises(UnsupportedUsageError, match=r"call the module itself, model\.model"):
            model(**tiny.inputs("w1 <video> w2 w3", videos=[video()]))
        assert model(**tiny.inputs("w1 w2")).last_hidden_state is not None


def test_gradients_flow_through_merging(processor: Any) -> None:
    tiny = Tiny(build_model().train(), processor)
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    labels = inputs["input_ids"].clone()
    labels[:, :-1] = -100
    with HOLITOM(tiny.model):
        tiny.model(**inputs, labels=labels).loss.backward()
    projector = tiny.model.model.multi_modal_projector.linear_1.weight.grad
    assert projector is not None
    assert projector.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing(processor: Any) -> None:
    """Outer merging trains with it as without; inner merging cannot be recomputed and says so."""
    tiny = Tiny(build_model().train(), processor)
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    labels = inputs["input_ids"].clone()
    labels[:, :-1] = -100
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            tiny.model.gradient_checkpointing_enable({"use_reentrant": False})
        tiny.model.zero_grad()
        with OUTER(tiny.model):
            tiny.model(**inputs, labels=labels).loss.backward()
        grads.append(tiny.model.model.multi_modal_projector.linear_1.weight.grad.clone())
    assert_close(grads[0], grads[1])
    with INNER(tiny.model), pytest.raises(UnsupportedUsageError, match="gradient checkpointing"):
        tiny.model(**inputs, labels=labels)


@each_method
def test_hand_written_decoding_loop(tiny: Tiny, method: Method) -> None:
    """No position ids, no mask: what `forward` works out for itself."""
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    steps = []
    with method(tiny.model), torch.no_grad():
        out = tiny.model(
            input_ids=inputs["input_ids"], pixel_values_videos=inputs["pixel_values_videos"], use_cache=True
        )
        for _ in range(3):
            steps.append(out.logits[0, -1])
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = tiny.model(input_ids=token, past_key_values=out.past_key_values)
        steps.append(out.logits[0, -1])
    answer = [int(step.argmax()) for step in steps[:-1]]
    wanted = reference_logits(tiny.model, inputs, method, answer)
    assert_close(torch.stack(steps), wanted, atol=2e-4, rtol=1e-4)


@each_method
def test_cropping_takes_back_what_came_after_the_video(tiny: Tiny, method: Method) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    cache = DynamicCache(config=tiny.model.config)
    with method(tiny.model), torch.no_grad():
        tiny.model(**inputs, past_key_values=cache)
        wanted = tiny.model(input_ids=torch.tensor([[12]]), past_key_values=cache).logits
        tiny.model(input_ids=torch.tensor([[13, 14]]), past_key_values=cache)
        cache.crop(-3)
        again = tiny.model(input_ids=torch.tensor([[12]]), past_key_values=cache).logits
        with pytest.raises(UnsupportedUsageError, match="cropping a cache"):
            cache.crop(-60)
    assert_close(again, wanted)


def test_a_reset_cache_is_a_new_one(tiny: Tiny) -> None:
    inputs = tiny.inputs("w1 <video> w2 w3", videos=[video()])
    cache = DynamicCache(config=tiny.model.config)
    with INNER(tiny.model), torch.no_grad():
        wanted = tiny.model(**inputs, past_key_values=cache).logits
        cache.reset()
        assert cache.get_seq_length() == 0
        assert torch.equal(tiny.model(**inputs, past_key_values=cache).logits, wanted)


def test_rows_of_a_cache_can_be_picked(tiny: Tiny) -> None:
    """Continue only the second row of a batch whose rows hold different numbers of tokens."""
    inputs = tiny.inputs("w1 <video> w2", "<video> w9 <video> w7", videos=[video(seed=s) for s in range(3)])
    alone = tiny.inputs("<video> w9 <video> w7", videos=[video(seed=1), video(seed=2)])
    with INNER(tiny.model), torch.no_grad():
        cache = tiny.model(**inputs, use_cache=True).past_key_values
        cache.batch_select_indices(torch.tensor([1]))
        got = tiny.model(input_ids=torch.tensor([[12]]), past_key_values=cache).logits[0]
        cache.batch_repeat_interleave(2)
        twice = tiny.model(input_ids=torch.tensor([[13], [14]]), past_key_values=cache).logits[:, -1]
    assert_close(got, reference_logits(tiny.model, alone, INNER, [12])[-1:], atol=2e-4, rtol=1e-4)
    for row, token in enumerate([13, 14]):
        wanted = reference_logits(tiny.model, alone, INNER, [12, token])[-1]
        assert_close(twice[row], wanted, atol=2e-4, rtol=1e-4)
