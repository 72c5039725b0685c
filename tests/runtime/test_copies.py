"""A copy of an attached model is a model of its own; detach gives back what was there; reports are data."""

from __future__ import annotations

import copy
import functools
import gc
import io
import json
import pickle
import weakref
from typing import Any

import pytest
import torch
from support.tiny import Tiny, build_model, video

from holitom import HoliTom, UnsupportedUsageError
from holitom.methods import METHODS, get_method

METHOD = HoliTom(retain_ratio=0.25, inner_layer=2)


def say(model: Any, inputs: Any) -> list[int]:
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture
def inputs(tiny: Tiny) -> Any:
    return tiny.inputs("w1 <video> w2 w3", videos=[video()])


def copied(model: Any) -> Any:
    return copy.deepcopy(model)


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", [copied, saved])
def test_a_copy_runs_its_own_weights(how: Any, inputs: Any) -> None:
    model = build_model()
    stock = say(build_model(), inputs)
    with METHOD(model):
        other = how(model)  # before its first forward, after which transformers' own hooks cannot be saved
        merged = say(model, inputs)
        assert say(other, inputs) == stock  # it comes without the method
        with torch.no_grad():
            for weight in other.parameters():
                weight.mul_(-1)
        assert say(model, inputs) == merged
    own = say(other, inputs)
    assert say(model, inputs) == stock
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(-1)
    assert say(other, inputs) == stock != own
    with METHOD(other) as run:
        assert say(other, inputs) == merged
    assert run.last is not None
    assert say(other, inputs) == stock


def averaged(model: Any) -> Any:
    ema = torch.optim.swa_utils.AveragedModel(model)
    ema.update_parameters(model)
    return ema.module


def quantised(model: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("how", [copied, averaged, quantised])
def test_a_copy_of_a_model_that_has_run_is_as_one_of_the_stock_model(how: Any, inputs: Any) -> None:
    model = build_model()
    say(model, inputs)
    wanted = say(how(model), inputs)
    with METHOD(model):
        say(model, inputs)
        other = how(model)
    assert say(other, inputs) == wanted
    with METHOD(how(model)):
        pass
    with METHOD(other) as run:
        say(other, inputs)
    assert run.last is not None
    assert say(other, inputs) == wanted


def test_what_holds_model_and_handle_can_be_copied(inputs: Any) -> None:
    """The copy's model is without the method, so its handle is detached; it keeps the latest report."""

    class Trainer:
        def __init__(self) -> None:
            self.model = build_model()
            self.handle = METHOD.attach(self.model)

    trainer = Trainer()
    merged = say(trainer.model, inputs)
    other = copy.deepcopy(trainer)
    other.handle.detach()
    assert say(trainer.model, inputs) == merged
    assert other.handle.last is not None
    assert str(other.handle.last.videos) == str(trainer.handle.last.videos)  # type: ignore[union-attr]
    trainer.handle.detach()
    assert say(other.model, inputs) == say(trainer.model, inputs)
    with METHOD(other.model) as run:
        assert say(other.model, inputs) == merged
    assert pickle.loads(pickle.dumps(run)).last.to_dict()["videos"] == run.last.to_dict()["videos"]  # type: ignore[union-attr]


def test_features_can_be_copied_and_saved(tiny: Tiny, inputs: Any) -> None:
    """Assisted decoding copies them; what was saved is as if it was encoded without a method."""
    model, ids = tiny.model, inputs["input_ids"]
    with METHOD(model), torch.no_grad():
        wanted = model(**inputs).logits
        features = model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
        for each in (features, copy.deepcopy(features), copy.copy(features)):
            assert torch.equal(model(input_ids=ids, mm_encoder_outputs={"video": each}).logits, wanted)
        loaded = saved(features)
        assert torch.equal(loaded.pooler_output, features.pooler_output)
        with pytest.raises(UnsupportedUsageError, match="before this method was attached"):
            model(input_ids=ids, mm_encoder_outputs={"video": loaded})


def test_an_assistant_changes_no_answer(inputs: Any) -> None:
    model, assistant = build_model(), build_model(layers=1)
    outer = HoliTom(retain_ratio=0.25, inner_drop=None)
    with outer(model), torch.no_grad():
        wanted = say(model, inputs)
        ids = model.generate(**inputs, max_new_tokens=4, do_sample=False, assistant_model=assistant)
    assert ids[0, -4:].tolist() == wanted


def test_a_copy_outlives_its_original(inputs: Any) -> None:
    model = build_model()
    stock = say(model, inputs)
    with METHOD(model):
        other = copy.deepcopy(model)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert say(other, inputs) == stock


@pytest.mark.parametrize("name", ["generate", "get_video_features"])
def test_what_was_set_on_the_model_comes_back(tiny: Tiny, inputs: Any, name: str) -> None:
    """transformers itself sets a `generate` on models of repositories with custom_generate."""
    model = build_model()
    owner = model if name == "generate" else model.model
    calls = []

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return getattr(type(owner), name)(owner, *args, **kwargs)

    setattr(owner, name, functools.wraps(getattr(owner, name))(own))
    before = owner.__dict__[name]
    with METHOD(model) as run:
        say(model, inputs)
    assert calls
    assert run.last is not None
    assert owner.__dict__[name] is before


@pytest.mark.parametrize("name", ["generate", "get_video_features"])
def test_what_was_wrapped_meanwhile_stays(inputs: Any, name: str) -> None:
    model = build_model()
    owner = model if name == "generate" else model.model
    stock = say(model, inputs)
    handle = METHOD.attach(model)
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def timed(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    setattr(owner, name, timed)
    merged = say(model, inputs)
    handle.detach()
    assert owner.__dict__[name] is timed
    assert say(model, inputs) == stock
    with METHOD(model):
        assert say(model, inputs) == merged
    assert owner.__dict__[name] is timed


def test_a_run_does_not_keep_its_model(inputs: Any) -> None:
    model = build_model()
    alive = weakref.ref(model)
    with METHOD(model) as run:
        say(model, inputs)
    report = run.last
    del model
    gc.collect()
    assert alive() is None
    assert report is run.last is not None


def test_an_interrupted_run_does_not_keep_its_model(inputs: Any) -> None:
    model = build_model()
    alive = weakref.ref(model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
    with METHOD(model) as run, pytest.raises(KeyboardInterrupt):
        model(**inputs)
    del model
    gc.collect()
    assert alive() is None
    assert run.last is not None


@pytest.mark.parametrize("name", METHODS)
def test_a_report_is_data(tiny: Tiny, inputs: Any, name: str) -> None:
    method = get_method(name) if name == "pdrop" else get_method(name, retain_ratio=0.5)
    with method(tiny.model) as run:
        say(tiny.model, inputs)
    report = run.last
    assert report is not None
    figures = report.to_dict()
    assert json.loads(json.dumps(figures)) == figures
    for other in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert other.to_dict()["videos"] == figures["videos"]
        assert other.seconds == pytest.approx(report.seconds)
        one, two = report.videos[0], other.videos[0]
        assert torch.equal(one.place, two.place)
        assert (one.origins is None) == (two.origins is None)
        if one.origins is not None and two.origins is not None:
            assert torch.equal(one.origins().into, two.origins().into)


def test_arguments_that_are_rebuilt(tiny: Tiny, inputs: Any) -> None:
    """A wrapper of the forward that takes arguments apart and builds them anew, as accelerate and FSDP do."""
    from torch.utils import _pytree

    model = build_model()
    with METHOD(model):
        wanted = say(model, inputs)
    forward = model.forward

    @functools.wraps(forward)
    def rebuilt(*args: Any, **kwargs: Any) -> Any:
        encoded = kwargs.get("mm_encoder_outputs")
        if encoded:
            kwargs["mm_encoder_outputs"] = _pytree.tree_map(lambda leaf: leaf, encoded)
        return forward(*args, **kwargs)

    model.forward = rebuilt
    with METHOD(model) as run:
        assert say(model, inputs) == wanted
    assert run.last is not None


@pytest.mark.parametrize("where", ["everything", "language model on disk"])
def test_models_that_accelerate_dispatches(tiny: Tiny, inputs: Any, where: str, tmp_path: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build_model()
    with METHOD(model):
        wanted = say(model, inputs)
    if where == "everything":
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    else:
        places = {name: "cpu" for name, _ in model.model.named_children() if name != "language_model"}
        places = {f"model.{name}": "cpu" for name in places} | {
            "model.image_newline": "cpu",
            "lm_head": "cpu",
        }
        model.save_pretrained(tmp_path / "model")
        model = (
            type(model)
            .from_pretrained(
                tmp_path / "model",
                device_map=places | {"model.language_model": "disk"},
                offload_folder=tmp_path / "offload",
            )
            .eval()
        )
        model.generation_config.eos_token_id = None
    with METHOD(model) as run, torch.no_grad():
        assert say(model, inputs) == wanted
        embedded = dict(inputs) | {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
        del embedded["input_ids"]
        assert torch.equal(model(**embedded).logits[:, -1], model(**inputs).logits[:, -1])
    assert run.last is not None
    assert run.last.videos[0].visual < run.last.videos[0].tokens
