from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.temporal import MeanPool
from gmu_lightning.encoders.trailers import decoder_pool
from gmu_lightning.encoders.trailers.preparations import FramePreparation
from gmu_lightning.movie import BadContent, UserError

from . import clips


@pytest.fixture
def clip(tmp_path) -> Path:
    return clips.write(tmp_path / "1.mp4", seconds=4.0, size=(128, 96), noise=1)


def as_posters(clip: Path, folder: str) -> np.ndarray:
    """Save each frame of a clip as a poster, and return the posters' vectors."""
    encoder = TimmImage(folder, freeze="all")
    encoder.build()
    rows = []
    for n, frame in enumerate(decoder_pool.frames(clip, 1.0, 200.0)):
        Image.fromarray(frame).save(clip.with_name(f"{n}.png"))
        rows.append(encoder.preparation.store(clip.with_name(f"{n}.png")))
    with torch.no_grad():
        return encoder.eval()(encoder.preparation.batch(rows, training=False)).vector.numpy()


@pytest.mark.parametrize("architecture", ["resnet18", "vgg16", "vit_small_patch16_224"])
def test_a_frame_is_encoded_like_a_poster(image_folder, clip, architecture):
    folder = str(image_folder(architecture))
    preparation = FramePreparation(folder)
    vectors = preparation.store(clip)
    assert (vectors.shape, vectors.dtype) == ((4, preparation.size), np.float32)
    assert np.allclose(vectors, as_posters(clip, folder), atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_frames_do_not_depend_on_their_batch(image_folder, clip, monkeypatch):
    preparation = FramePreparation(str(image_folder("resnet18")), rate=4.0)
    together = preparation.store(clip)
    monkeypatch.setattr("gmu_lightning.encoders.trailers.preparations.AT_ONCE", 3)
    assert len(together) == 16
    assert np.allclose(preparation.store(clip), together, atol=1e-5)


def test_rate_and_length_choose_the_frames(image_folder, clip):
    folder = str(image_folder("resnet18"))
    assert len(FramePreparation(folder, rate=2.0, seconds=1.5).store(clip)) == 3


def test_threads_share_one_network(image_folder, tmp_path, monkeypatch):
    loads = []
    from gmu_lightning.encoders.timm_network import TimmNetwork

    load = TimmNetwork.load
    monkeypatch.setattr(TimmNetwork, "load", lambda self: loads.append(self) or load(self))
    paths = [clips.write(tmp_path / f"{n}.mp4", seconds=2.0, noise=n, tone=None) for n in range(6)]
    preparation = FramePreparation(str(image_folder("resnet18")))
    alone = [preparation.store(path) for path in paths]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(preparation.store, paths))
    assert len(loads) == 1
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    preparation.close()
    assert np.array_equal(preparation.store(paths[0]), alone[0])
    assert len(loads) == 2


def test_storing_leaves_torchs_generator_unchanged(image_folder, clip):
    torch.manual_seed(0)
    FramePreparation(str(image_folder("resnet18"))).store(clip)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_vgg16_gives_4096_numbers_as_published():
    assert FramePreparation("vgg16.tv_in1k", weights=__file__).size == 4096


def test_the_fingerprint_includes_weights_and_settings(image_folder, tmp_path):
    folder = image_folder("resnet18")
    settings = [{}, {"rate": 2.0}, {"seconds": 10.0}, {"dtype": "float16"}]
    prints = {FramePreparation(str(folder), **setting).fingerprint for setting in settings}
    other = shutil.copytree(image_folder("resnet50"), tmp_path / "other")
    assert len({*prints, FramePreparation(str(other)).fingerprint}) == 5
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert FramePreparation(str(moved)).fingerprint in prints
    assert FramePreparation(str(folder), device="cpu").fingerprint in prints


def test_a_trailer_without_picture_is_an_error(image_folder, tmp_path):
    with pytest.raises(BadContent, match="it has no picture") as bad:
        FramePreparation(str(image_folder("resnet18"))).store(clips.write(tmp_path / "1.mp4", picture=False))
    assert bad.value.kind == "missing_video"


def test_a_name_without_tag_is_an_error():
    with pytest.raises(UserError, match=r"encoder\.video\.preparation\.name=resnet18: say which of its weights"):
        FramePreparation("resnet18")


def test_the_check_names_missing_weights(offline):
    encoder = MeanPool("video", preparation=FramePreparation("resnet18.a1_in1k"), freeze="all")
    with pytest.raises(UserError, match=r"encoder\.video\.preparation\.name=timm/resnet18\.a1_in1k: its weights are in no"):
        encoder.check()


def test_a_missing_device_is_named(image_folder, clip):
    preparation = FramePreparation(str(image_folder("resnet18")), device="cuda:97")
    for ask in (preparation.check, lambda: preparation.store(clip)):
        with pytest.raises(UserError, match=r"encoder\.video\.preparation\.device=cuda:97 is not there"):
            ask()


def test_extracted_frames_are_refused(image_folder):
    with pytest.raises(UserError, match=r"video is ndarray and no trailer; .* such as mean, or data\.video=trailers"):
        FramePreparation(str(image_folder("resnet18"))).store(np.zeros((200, 4096)))
