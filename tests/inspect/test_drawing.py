"""The page, the picture and the clip: what is in them, read back from the files."""

from __future__ import annotations

import base64
import html as markup
import io
import json
import re
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.inspections import made_up

from holitom.inspect import Fate, embed, page, token_map, write_clip
from holitom.inspect.draw_html import element, element_script
from holitom.inspect.paint import COLORS, canvas, paint_fates, paint_kept


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def numbers(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_the_page_carries_what_it_draws() -> None:
    inspection = made_up()
    data = data_of(page(inspection))
    assert np.array_equal(numbers(data["into"], "<i4"), inspection.into.ravel())
    assert np.array_equal(numbers(data["via"], "<i4"), inspection.via.ravel())
    assert np.array_equal(numbers(data["fate"], "u1"), inspection.fate.ravel())
    assert inspection.survivors is not None
    assert np.array_equal(numbers(data["survivors"]["2"], "u1"), inspection.survivors[2].ravel())
    assert inspection.similarity is not None
    similar = numbers(data["similarity"], "u1") / 127.5 - 1
    np.testing.assert_allclose(similar, inspection.similarity.ravel(), atol=0.005)
    assert data["segments"] == [[0, 3, 4, 12], [4, 7, 4, 12]]
    assert data["title"] == inspection.title
    assert len(data["pictures"]) == 8
    picture = Image.open(io.BytesIO(base64.b64decode(data["pictures"][3])))
    assert picture.size == (90, 60)
    assert inspection.frames is not None
    assert abs(np.asarray(picture).astype(int) - inspection.frames[3]).mean() < 20  # as JPEG keeps it


def test_one_number_and_one_word_everywhere() -> None:
    """The page, the picture and the clip say what the inspection says; merging has no other name."""
    inspection = made_up()
    assert data_of(page(inspection))["headline"] == inspection.headline
    figure = token_map(inspection)
    assert inspection.headline in [text.get_text() for ax in figure.axes for text in ax.texts]
    words = " ".join(text.get_text() for ax in figure.axes for text in ax.texts) + page(inspection)
    assert not re.search(r"averag|prun", words, re.I)


def test_the_page_needs_nothing_else_and_hides_nothing() -> None:
    html = page(made_up())
    assert "default-src 'none'" in html
    outside = re.sub(r"http://www\.w3\.org/\S*", "", html)
    assert not re.search(r"https?://|//cdn|@import|<link[^>]+stylesheet", outside)
    assert html.count("<script") == html.count("</script>") == 2  # the title's is no script
    assert "alert(1)" not in re.sub(
        r'<script type="application/json".*?</script>', "", html, flags=re.S
    ).replace("&lt;script&gt;alert(1)", "")


def test_embedding_keeps_to_itself() -> None:
    element = embed(made_up(), height=500)
    assert element.startswith("<iframe ")
    assert 'height="500"' in element
    assert 'sandbox="allow-scripts"' in element
    assert element.count('"') % 2 == 0
    assert made_up()._repr_html_().startswith("<iframe ")


@pytest.mark.parametrize(("frames", "limit"), [(32, 5e6), (1000, 30e6)])
def test_pages_stay_small(frames: int, limit: float) -> None:
    """On noise of 10 pixels at 720p, finer than what a camera leaves in so small a frame."""
    inspection = made_up(frames, side=14, height=20, width=20)
    noise = made_up(1, height=720, width=1280).frames
    assert noise is not None
    assert len(page(replace(inspection, frames=np.broadcast_to(noise, (frames, *noise.shape[1:]))))) < limit


def test_one_frame_and_no_frames() -> None:
    one = made_up(frames=1)
    assert data_of(page(one))["frames"] == 1
    assert len(token_map(one).axes) > 3
    bare = replace(one, frames=None, similarity=None, seconds=None, survivors=None)
    assert data_of(page(bare))["pictures"] == []
    assert len(token_map(bare).axes) > 3


# --- pixels -----------------------------------------------------------------------------------------


def test_each_fate_looks_different_even_without_colour() -> None:
    """A third of the range apart in lightness somewhere, for every pair: shape tells, not hue."""
    ground = np.full((24, 24, 3), 128, dtype=np.uint8)
    gray = {
        fate: paint_fates(ground, np.array([fate], dtype=np.uint8), (1, 1)) @ np.array([0.299, 0.587, 0.114])
        for fate in Fate
    }
    for one in Fate:
        for other in Fate:
            if one != other:
                assert (abs(gray[one] - gray[other]) > 40).mean() > 0.04, (one.name, other.name)


SIMULATED = {  # Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("sight", SIMULATED)
def test_colours_are_told_apart_by_colour_blind_readers(sight: str) -> None:
    colors = np.array([COLORS[fate] for fate in Fate]) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = (linear @ np.array(SIMULATED[sight]).T).clip(0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    for i, one in enumerate(seen):
        for other in seen[i + 1 :]:
            assert np.linalg.norm(one - other) > 0.2, (sight, i)


def test_a_kept_token_shows_the_picture() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = canvas(frame, (2, 3), (20, 20))
    kept = np.array([True, False, False, False, False, True])
    shown = paint_kept(picture, kept, (2, 3))
    assert np.array_equal(shown[:20, :20], picture[:20, :20])
    assert np.array_equal(shown[20:, 40:], picture[20:, 40:])
    assert np.ptp(shown[:20, 20:], axis=(0, 1)).max() == 0
    fates = paint_fates(picture, np.array([Fate.KEPT, *[Fate.DROPPED] * 5], dtype=np.uint8), (2, 3))
    assert np.array_equal(fates[4:16, 4:16], picture[4:16, 4:16])
    assert fates[:, 20:].mean() < picture[:, 20:].mean() / 2


# --- files ------------------------------------------------------------------------------------------


def test_the_picture(tmp_path: Path) -> None:
    inspection = made_up(frames=40)
    figure = token_map(inspection)
    words = " ".join(" ".join(text.get_text() for ax in figure.axes for text in ax.texts).split())
    assert f"640 visual tokens become {inspection.sent} ({inspection.sent / 640:.1%})" in words
    assert "32 of them shown" in words
    assert "What </p> happens?" in words
    figure.savefig(tmp_path / "o.png")
    pixels = np.asarray(Image.open(tmp_path / "o.png").convert("RGB"))
    assert pixels.shape[1] == 2040
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    some = token_map(inspection, frames=[0, 1, 39])
    assert some.get_figheight() < figure.get_figheight()
    assert some._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(IndexError):
        token_map(inspection, frames=[40])


def test_words_stay_on_the_page() -> None:
    """No text leaves the figure, however long names, questions and videos are."""
    inspection = made_up(frames=32)
    long = replace(inspection, title="x" * 300, question="why " * 2000, answer="so " * 2000)
    figure = token_map(long)
    figure.draw_without_rendering()
    for ax in figure.axes:
        for text in ax.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1, text.get_text()


def test_letters_can_be_read_where_a_page_shows_the_picture_small() -> None:
    """GitHub shows a README's pictures 838 pixels wide: no letters are below 9 pixels then; none overlap."""
    inspection = made_up(frames=16)
    figure = token_map(inspection)
    figure.draw_without_rendering()
    texts = [text for ax in figure.axes for text in ax.texts if text.get_text()]
    assert min(text.get_fontsize() for text in texts) / 72 * 838 / figure.get_figwidth() >= 9
    boxes = [text.get_window_extent() for text in texts]
    for one, other in combinations(range(len(boxes)), 2):
        assert not boxes[one].overlaps(boxes[other]), (texts[one].get_text(), texts[other].get_text())


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "holitom.inspect.draw_png"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'holitom\[plots\]'"):
        __import__("holitom.inspect.draw_png")


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 40), (33, 33)])
def test_the_clip(tmp_path: Path, height: int, width: int) -> None:
    inspection = made_up(frames=6, height=height, width=width)
    write_clip(inspection, tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"  # what every player takes
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(shown) == 6
    assert shown[0].shape[0] % 2 == shown[0].shape[1] % 2 == 0
    assert all(abs(one - other).mean() > 1 for one, other in pairwise(shown))


def test_the_clip_of_one_frame_without_pictures(tmp_path: Path) -> None:
    one = made_up(frames=1)
    write_clip(replace(one, frames=None, seconds=None), tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 1


def test_the_page_says_what_the_model_cannot_do() -> None:
    """The banner is on the page of the bundled model, and on none without one."""
    told = data_of(page(replace(made_up(), banner="Knows <digits> alone.")))
    assert told["banner"] == "Knows <digits> alone."
    assert data_of(page(made_up()))["banner"] is None


def test_the_drawing_is_an_element_of_another_page() -> None:
    shown = element(made_up())
    assert shown.startswith('<holitom-map data="{')
    assert shown.endswith('}"></holitom-map>')
    assert shown.count('"') == 2  # nothing of the data ends the attribute
    assert json.loads(markup.unescape(shown.split('"')[1]))["headline"] == made_up().headline
    assert "customElements.define" in element_script()
