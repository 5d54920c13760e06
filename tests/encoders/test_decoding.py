from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gmu_lightning.encoders.trailers import decoder_pool
from gmu_lightning.encoders.trailers import video_decode as decoder
from gmu_lightning.movie import BadContent

from . import clips


@pytest.fixture(autouse=True)
def no_decoder_is_left():
    decoder_pool.release()
    yield
    decoder_pool.release()


def shades(path: Path, rate: float = 1.0, seconds: float = 200.0) -> list[int]:
    """Return the mean of one pixel in the lower right quarter of each frame."""
    return [
        int(frame[frame.shape[0] * 3 // 4, frame.shape[1] * 3 // 4].mean()) for frame in decoder_pool.frames(path, rate, seconds)
    ]


def problem(path: Path, what=decoder_pool.frames, rate: float = 1) -> tuple[str, str]:
    with pytest.raises(BadContent) as bad:
        list(what(path, rate, 200.0))
    return bad.value.kind, str(bad.value)


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [(1.0, 200.0, [0, 1, 2]), (2.0, 200.0, [0, 0, 1, 1, 2, 2]), (0.5, 200.0, [0, 2]), (1.0, 2.0, [0, 1]), (4.0, 0.5, [0, 0])],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_frames_are_the_pictures_shown_at_each_time(tmp_path, suffix, rate, seconds, expected):
    path = clips.write(tmp_path / f"1.{suffix}")
    assert shades(path, rate, seconds) == pytest.approx([clips.shade(second) for second in expected], abs=4)


def test_a_picture_is_shown_until_the_next(tmp_path):
    path = clips.write(tmp_path / "1.mkv", times=[0.0, 0.9, 1.0, 3.5, 4.0], tone=None)
    assert shades(path) == pytest.approx([clips.shade(s) for s in (0, 1, 1, 1, 4)], abs=4)


def test_time_counts_from_the_first_picture(tmp_path):
    path = clips.write(tmp_path / "1.mkv", times=[1.5, 2.0, 2.5, 3.0], tone=None)
    assert shades(path) == pytest.approx([clips.shade(s) for s in (1, 2)], abs=4)


def test_a_frame_has_the_size_of_the_picture(tmp_path):
    (frame, *_) = decoder_pool.frames(clips.write(tmp_path / "1.mp4", size=(50, 70)), 1.0, 1.0)
    assert (frame.shape, frame.dtype) == ((50, 70, 3), np.uint8)


def test_large_frames_are_scaled_in_proportion(tmp_path):
    path = clips.write(tmp_path / "1.mp4", seconds=0.3, size=(96, 2400), tone=None)
    (frame,) = decoder_pool.frames(path, 1.0, 200.0)
    assert frame.shape == (77, 1920, 3)


def test_pixels_become_square(tmp_path):
    path = clips.write(tmp_path / "1.mkv", seconds=0.3, aspect=Fraction(2, 1), tone=None)
    (frame,) = decoder_pool.frames(path, 1.0, 200.0)
    assert frame.shape == (48, 128, 3)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotated_picture_is_turned_upright(tmp_path, turns):
    plain = clips.write(tmp_path / "1.mp4", seconds=0.3, noise=1, tone=None)
    (before,) = decoder_pool.frames(plain, 1.0, 200.0)
    (after,) = decoder_pool.frames(clips.rotated(plain, turns), 1.0, 200.0)
    assert np.array_equal(after, np.rot90(before, -turns))


@pytest.mark.parametrize("rate", [12_000, 16_000])
def test_sound_keeps_its_pitch_and_length(tmp_path, rate):
    samples = np.concatenate(list(decoder_pool.sound(clips.write(tmp_path / "1.mp4", seconds=2.0), rate, 200.0)))
    assert len(samples) == pytest.approx(2 * rate, abs=0.1 * rate)
    heard = np.abs(np.fft.rfft(samples[rate // 2 : rate // 2 + rate]))
    assert heard.argmax() == 440
    assert np.abs(samples[rate // 2 : rate]).max() == pytest.approx(0.5, abs=0.05)


def test_only_the_first_seconds_of_sound_are_read(tmp_path):
    samples = np.concatenate(list(decoder_pool.sound(clips.write(tmp_path / "1.mp4"), 12_000, 1.25)))
    assert len(samples) == 15_000


def test_sound_is_complete_to_the_last_sample(tmp_path):
    path = clips.write(tmp_path / "1.mkv", seconds=2.0, picture=False)
    with av.open(str(path)) as file:
        coded = sum(frame.samples for frame in file.decode(audio=0))
    samples = sum(map(len, decoder_pool.sound(path, 12_000, 200.0)))
    assert samples == pytest.approx(coded * 12_000 / clips.RATE, abs=2)


@pytest.mark.parametrize("channels", [(0.8, 0.2), (0.8, 0.8, 0.8, 0.0, 0.4, 0.4, 0.4, 0.4)])
def test_channels_are_averaged(tmp_path, channels):
    path = clips.write(tmp_path / "1.mp4", channels=channels)
    samples = np.concatenate(list(decoder_pool.sound(path, 12_000, 200.0)))
    assert np.abs(samples[6000:12_000]).max() == pytest.approx(0.5, abs=0.05)


def test_a_missing_track_differs_from_a_broken_file(tmp_path):
    assert problem(clips.write(tmp_path / "1.mp4", tone=None), decoder_pool.sound, 12_000) == ("missing_audio", "it has no sound")
    assert problem(clips.write(tmp_path / "2.mp4", picture=False)) == ("missing_video", "it has no picture")


def test_the_cover_of_a_piece_of_music_is_ignored(tmp_path):
    path = clips.write(tmp_path / "1.mp4", times=[0.0], cover=True)
    assert problem(path) == ("missing_video", "it has no picture")
    assert list(decoder_pool.sound(path, 12_000, 200.0))


def test_a_decoder_has_its_own_process_group(tmp_path):
    shades(clips.write(tmp_path / "1.mp4"))
    (child,) = decoder_pool._waiting
    assert os.getpgid(child.process.pid) != os.getpgid(0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(("picture", "sounding"), [(2.0, 6.0), (6.0, 2.0)])
def test_a_track_may_be_shorter_than_the_other(tmp_path, suffix, picture, sounding):
    path = clips.write(tmp_path / f"1.{suffix}", picture, sound_seconds=sounding)
    assert len(shades(path)) == pytest.approx(picture, abs=1)
    assert sum(map(len, decoder_pool.sound(path, 12_000, 200.0))) == pytest.approx(12_000 * sounding, rel=0.05)


def test_channels_may_change_within_a_file(tmp_path):
    path = tmp_path / "1.mp4"
    parts = [clips.write(tmp_path / f"{len(c)}.ts", 2.0, channels=c).read_bytes() for c in ((0.5,), (0.4, 0.4), (0.5,))]
    path.write_bytes(b"".join(parts))
    assert sum(map(len, decoder_pool.sound(path, 12_000, 200.0))) == pytest.approx(12_000 * 6, rel=0.05)


def test_frame_times_tolerate_rounding(tmp_path):
    assert 4.4 - 1.4 > 3.0
    path = clips.write(tmp_path / "1.mkv", times=[1.4, 2.4, 3.4, 4.4, 5.4], tone=None)
    assert shades(path)[:4] == pytest.approx([clips.shade(second) for second in (1, 2, 3, 4)], abs=4)


@pytest.mark.parametrize(("share", "kept"), [(0.01, True), (0.2, False)])
def test_a_few_undecodable_packets_are_left_out(tmp_path, share, kept):
    path = clips.write(tmp_path / "1.mp4", 10.0, picture=False)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux() if packet.size]
    for packet in packets[10 : 10 + round(share * len(packets))]:
        content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
    if kept:
        assert sum(map(len, decoder_pool.sound(path, 12_000, 200.0))) == pytest.approx(120_000, rel=0.05)
    else:
        assert "packets of its sound cannot be decoded" in problem(path, decoder_pool.sound, 12_000)[1]


def test_the_error_of_a_truncated_file_names_its_end(tmp_path):
    path = clips.write(tmp_path / "1.mkv", seconds=8.0, noise=1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    kind, detail = problem(path)
    assert kind == "bad_array"
    assert "of 8.0 s: the file is truncated" in detail
    assert "of 8.0 s: the file is truncated" in problem(path, decoder_pool.sound, 12_000)[1]
    assert len(shades(path, seconds=2.0)) == 2  # the first seconds are complete


@pytest.mark.parametrize(("lost", "whole"), [(0.9, True), (1.6, False)])
def test_a_file_may_lack_its_last_second(tmp_path, lost, whole):
    path = clips.write(tmp_path / "1.mkv", seconds=20.0, tone=None, noise=1)
    with av.open(str(path)) as file:
        cut = next(packet.pos for packet in file.demux() if packet.pts is not None and packet.pts * packet.time_base >= 20 - lost)
    path.write_bytes(path.read_bytes()[:cut])
    if whole:
        assert len(shades(path)) == 20
    else:
        assert "of 20.0 s: the file is truncated" in problem(path)[1]


def test_a_picture_without_duration_is_a_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "_length", lambda *_: 0.0)
    path = clips.write(tmp_path / "1.mkv", times=[0.0], tone=None)
    assert len(list(decoder.frames(str(path), 1.0, 200.0))) == 1


def test_a_picture_beyond_the_memory_limit_costs_one_file(tmp_path, monkeypatch):
    small = clips.write(tmp_path / "2.mp4", tone=None)
    shades(small)
    needed = Path(f"/proc/{decoder_pool._waiting[0].process.pid}/status").read_text().split("VmSize:")[1].split()[0]
    decoder_pool.release()
    text = decoder_pool.PROGRAM.read_text()
    assert "MOST_MEMORY = 4 << 30" in text
    program = tmp_path / "little.py"
    program.write_text(text.replace("MOST_MEMORY = 4 << 30", f"MOST_MEMORY = ({needed} << 10) + (100 << 20)"))
    monkeypatch.setattr(decoder_pool, "PROGRAM", program)
    kind, detail = problem(clips.write(tmp_path / "1.mp4", 0.1, size=(7600, 7600), tone=None))
    assert kind == "bad_array", detail
    assert len(shades(small)) == 3


@pytest.mark.parametrize("content", [b"", b"no film", b"\0\0\0\x18ftypmp42" + bytes(200)])
def test_a_file_that_is_no_video_cannot_be_opened(tmp_path, content):
    (tmp_path / "1.mp4").write_bytes(content)
    kind, detail = problem(tmp_path / "1.mp4")
    assert (kind, detail.startswith("it cannot be opened (")) == ("bad_array", True)


def test_playlists_are_not_followed(tmp_path):
    clips.write(tmp_path / "other.mp4")
    (tmp_path / "1.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    (tmp_path / "2.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:3,\nother.mp4\n#EXT-X-ENDLIST\n")
    for path in (tmp_path / "1.mp4", tmp_path / "2.mp4"):
        assert problem(path)[1].startswith("it cannot be opened")


def test_the_decoder_survives_damaged_files(tmp_path):
    whole = clips.write(tmp_path / "whole.mp4", noise=1).read_bytes()
    rng = np.random.default_rng(0)
    for n in range(40):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), 20):
            content[at] = rng.integers(256)
        (tmp_path / f"{n}.mp4").write_bytes(content)
        for what, rate in ((decoder_pool.frames, 1.0), (decoder_pool.sound, 12_000)):
            try:
                list(what(tmp_path / f"{n}.mp4", rate, 200.0))
            except BadContent as bad:
                assert bad.kind in ("bad_array", "missing_video", "missing_audio")
                assert "\n" not in str(bad)
    assert len(decoder_pool._waiting) == 1


def test_a_file_name_may_contain_any_character(tmp_path):
    path = clips.write(tmp_path / "1.mp4").rename(tmp_path / "a:b = 'c' %d\nü.mp4")
    assert len(shades(path)) == 3


def test_one_decoder_serves_several_files_in_turn(tmp_path):
    path = clips.write(tmp_path / "1.mp4")
    pids = set()
    for _ in range(3):
        shades(path)
        pids |= {child.process.pid for child in decoder_pool._waiting}
    assert len(pids) == 1


def test_closing_the_iterator_early_ends_the_decoder(tmp_path):
    frames = decoder_pool.frames(clips.write(tmp_path / "1.mp4"), 1.0, 200.0)
    next(frames)
    frames.close()
    assert not decoder_pool._waiting
    assert len(shades(tmp_path / "1.mp4")) == 3


@pytest.fixture
def ill(tmp_path, monkeypatch):
    """Return a function that makes decoders run some code first, for files named `ill`. It returns a file with an x per run."""

    def make(does: str) -> Path:
        mark = tmp_path / "asked"
        program = tmp_path / "ill.py"
        program.write_text(
            "import json, os, runpy, signal, sys, time\n"
            "line = sys.stdin.readline()\n"
            "if 'ill' in json.loads(line)['path']:\n"
            f"    open({str(mark)!r}, 'a').write('x')\n"
            f"    {does}\n"
            "read, write = os.pipe()\n"
            "os.write(write, line.encode())\n"
            "os.dup2(read, 0)\n"
            "sys.stdin = os.fdopen(0)\n"
            f"runpy.run_path({str(decoder_pool.PROGRAM)!r}, run_name='__main__')\n"
        )
        monkeypatch.setattr(decoder_pool, "PROGRAM", program)
        return mark

    return make


def count(path: Path) -> np.ndarray:
    return decoder_pool.with_retry(lambda: np.array(shades(path)))


@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        ("time.sleep(600)", r"the decoder hung for 3 s and was stopped, twice"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the decoder died \(signal 11\), twice"),
        ("os._exit(3)", r"the decoder died \(exit 3\), twice"),
    ],
)
def test_a_decoder_that_hangs_or_dies_costs_one_file(tmp_path, monkeypatch, ill, does, sentence):
    mark = ill(does)
    bad, good = clips.write(tmp_path / "ill.mp4", tone=None), clips.write(tmp_path / "well.mp4", tone=None)
    with monkeypatch.context() as impatient, pytest.raises(BadContent, match=sentence):
        impatient.setattr(decoder_pool, "PATIENCE", 3.0)
        count(bad)
    assert mark.read_text() == "xx"
    assert len(count(good)) == 3


def test_a_dead_idle_decoder_is_replaced(tmp_path):
    path = clips.write(tmp_path / "1.mp4", tone=None)
    shades(path)
    os.kill(decoder_pool._waiting[0].process.pid, signal.SIGKILL)
    decoder_pool._waiting[0].process.wait()
    assert len(shades(path)) == 3
    assert len(decoder_pool._children) == 1


def test_release_ends_a_working_decoder(tmp_path, ill):
    ill("time.sleep(60)")
    monkey = threading.Timer(0.5, decoder_pool.release)
    monkey.start()
    with pytest.raises(decoder_pool.Released):
        count(clips.write(tmp_path / "ill.mp4", tone=None))
    assert not decoder_pool._children


def test_a_file_is_retried_after_its_decoder_is_lost(tmp_path, ill):
    mark = ill(f"os.path.getsize({str(tmp_path / 'asked')!r}) < 2 and os._exit(1)")
    assert len(count(clips.write(tmp_path / "ill.mp4", tone=None))) == 3
    assert mark.read_text() == "xx"


@pytest.mark.parametrize("asked", [False, True])
def test_a_killed_parent_leaves_no_decoder(tmp_path, asked):
    path = clips.write(tmp_path / "1.mp4", size=(480, 640), tone=None)
    program = (
        "import time\n"
        "from gmu_lightning.encoders.trailers import decoder_pool\n"
        "child = decoder_pool._borrowed()\n"
        f"if {asked}:\n"
        f"    child.send({{'what': 'frames', 'path': {str(path)!r}, 'rate': 9.0, 'seconds': 9.0}})\n"
        "    child.receive()\n"  # the decoder still has frames to write
        "print(child.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert _runs(pid)
        parent.kill()
    for _ in range(200):
        if not _runs(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the decoder outlived its parent")


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(") ")[2][0] != "Z"


def test_a_clip_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    path = clips.write(tmp_path / "1.mp4", seconds=1.0)
    monkeypatch.setattr(decoder_pool, "LONGEST", 0.0)
    for what, rate in ((decoder_pool.frames, 1), (decoder_pool.sound, 12_000)):
        assert problem(path, what, rate) == ("bad_array", "it takes more than 0 minutes to be decoded")
    assert not decoder_pool._children
