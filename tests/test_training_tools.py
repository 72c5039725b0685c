"""The training tools show the bundled models what the stock processor and classes would show them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_llava
import tiny_qwen
import torch
from tiny import Tiny, tiny, words_of
from train_density import make_sparse_batch, rectangles
from train_language import SLOT, Student, make_batch
from train_vision import NONE, joined, labels

from holitom.bench import moving_digits as md
from holitom.prompts import as_video, prompt

NAMES = ("llava", "qwen")


@pytest.fixture(scope="module", params=NAMES)
def built(request: Any) -> tuple[str, Tiny, Any, Any]:
    name = request.param
    module = {"llava": tiny_llava, "qwen": tiny_qwen}[name]
    return name, tiny(name), module.build().eval(), module.processor()


@pytest.mark.parametrize(("frames", "fps"), [(1, 2.0), (2, 24.0), (5, 0.3), (16, 1.0)])
def test_a_layout_is_the_processors_prompt(built: Any, frames: int, fps: float) -> None:
    name, module, model, processor = built
    video = as_video(md.sample("train", 3, frames).frames, fps=fps)
    inputs = prompt(processor, video, "Which shape flashes?")
    layout = module.layout(words_of(name), video.times)
    ids = torch.tensor(layout.ids)
    if name == "llava":
        count = len(layout.ids)
    else:
        positions, _ = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
        )
        count = len(layout.ids)
        assert torch.equal(layout.positions, positions[:, 0, :count])
    assert torch.equal(inputs["input_ids"][0, :count], ids)
    visual = torch.tensor(layout.shown) >= 0
    assert torch.equal(visual, ids == model.config.video_token_id)
    assert torch.equal(torch.tensor(layout.shown)[visual], torch.arange(int(visual.sum())))


@pytest.mark.parametrize("frames", [3, 4])
def test_what_training_sees_is_what_the_stock_tower_makes(built: Any, frames: int) -> None:
    _name, module, model, processor = built
    videos = [md.sample("train", i, frames).frames for i in (0, 1)]
    quick = module.build().eval()
    module.fast(quick)
    with torch.no_grad():
        seen = module.see(quick, torch.from_numpy(np.stack(videos)))
        for i, frames_of in enumerate(videos):
            inputs = prompt(processor, frames_of, "?")
            taken = {k: v for k, v in inputs.items() if k in ("pixel_values_videos", "video_grid_thw")}
            stock = model.get_video_features(**taken, return_dict=True)
            torch.testing.assert_close(seen.tokens[i], stock.pooler_output[0], atol=1e-4, rtol=1e-4)
            for mine, theirs in zip(seen.deep, getattr(stock, "deepstack_features", ()), strict=True):
                torch.testing.assert_close(mine[i], theirs[0], atol=1e-4, rtol=1e-4)


def test_packed_questions_get_the_answers_of_single_prompts(built: Any) -> None:
    name, _module, model, processor = built
    student = Student(name).eval()
    batch = make_batch(name, "train", 5, 5, 2, 3, [1.0] * len(md.TASKS))
    with torch.no_grad():
        logits = student.float()(batch).split(_lengths(batch))
        for row in range(2):
            for slot in range(3):
                own = slice(slot * SLOT, (slot + 1) * SLOT)
                labels_of = batch.labels[row, own]
                ids = torch.cat([batch.prefix[row], batch.ids[row, own]])[None]
                out = model(**_inputs(name, processor, batch.frames[row], ids)).logits[0, -SLOT:]
                expected = out[labels_of >= 0]
                torch.testing.assert_close(logits[row * 3 + slot], expected, atol=1e-3, rtol=1e-3)


def _lengths(batch: Any) -> list[int]:
    return (batch.labels.unflatten(1, (-1, SLOT)) >= 0).sum(-1).flatten().tolist()


def _inputs(name: str, processor: Any, frames: torch.Tensor, ids: torch.Tensor) -> dict[str, Any]:
    made = prompt(processor, frames.numpy(), "?")
    seen = {k: made[k] for k in ("pixel_values_videos", "video_grid_thw") if k in made}
    if name == "qwen":
        video = words_of(name).convert_tokens_to_ids("<|video_pad|>")
        seen["mm_token_type_ids"] = 2 * (ids == video).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen}


@pytest.mark.parametrize("per_step", [1, 2])
def test_rectangles_show_what_is_asked(per_step: int) -> None:
    for index in range(30):
        video = md.sample("train", index, 7 + index % 4)
        keep = rectangles(video, per_step, np.random.default_rng(index)).view(-1, md.GRID, md.GRID)
        assert len(keep) == -(-len(video.frames) // per_step)
        for digit in video.digits:
            for t, (x, y) in (
                (digit.start, digit.cells[0]),
                (digit.start + len(digit.cells) - 1, digit.cells[-1]),
            ):
                assert keep[t // per_step, y, x]
        for flash in video.flashes:
            assert all(
                keep[t // per_step, flash.cell[1], flash.cell[0]] for t in range(flash.start, flash.stop)
            )


@pytest.mark.parametrize("name", NAMES)
def test_a_sparse_row_leaves_visual_tokens_out_and_nothing_else(name: str) -> None:
    whole = make_batch(name, "train", 2, 7, 2, 4, [1.0] * len(md.TASKS))
    sparse, is_whole = make_sparse_batch(name, 2, 7, [1.0] * len(md.TASKS), 2)
    assert not is_whole
    for row in range(2):
        stands, shown = sparse.stands[row], sparse.shown[row]
        assert not stands[: int((~stands).sum())].any()  # holes come first
        assert (shown < 0).sum() - (~stands).sum() == (whole.shown[row] < 0).sum()
        kept = shown[stands]
        among = torch.isin(whole.shown[row], kept[kept >= 0]) | (whole.shown[row] < 0)
        assert torch.equal(sparse.prefix[row, stands], whole.prefix[row, among])
        expected = whole.positions[:, row, among] if name == "qwen" else torch.arange(int(stands.sum()))[None]
        assert torch.equal(sparse.positions[:, row, stands], expected)
        assert torch.equal(sparse.scene[row, stands], whole.scene[row, among])


def test_labels_of_two_frames_are_joined() -> None:
    video = md.sample("train", 6, 9)
    told, one = labels(video), joined(labels(video), 1)
    assert all(torch.equal(told[k], one[k]) for k in NONE)
    two = joined(told, 2)
    for step in range(5):
        pair = [told["digit"][min(t, 8)] for t in (2 * step, 2 * step + 1)]
        for cell in range(md.GRID**2):
            held = {int(p[cell]) for p in pair} - {NONE["digit"]}
            found = int(two["digit"][step, cell])
            assert found == (NONE["digit"] if not held else held.pop() if len(held) == 1 else -100)
    assert two["when"].shape == two["background"].shape == (5, md.GRID**2, 2)
