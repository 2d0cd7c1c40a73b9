"""The page: one file, verdict first, whole, small enough, and nothing in a run can become a tag or a script."""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from parity.cli.app import app
from parity.explain.diagnosis import diagnose
from parity.report import page as page_module
from parity.runs import golden
from parity.runs.folder import read_run

LeaveRun = Callable[..., Path]
FIRST = "denoise/001/uncond/block/01/audio/ff"
HOSTILE = "</script><script>hacked=1</script><img src=x onerror=hacked=1> ' \" & \x1b[2J\u202e {{7*7}} `${hacked=1}`"
VOID = {"meta", "link", "rect", "line", "polyline", "input", "img"}


class Reader(HTMLParser):
    """Checks that tags nest, and gathers them with their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, f"{tag} cannot close itself"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data: str) -> None:
        name, attributes = next((one for one in reversed(self.tags) if one[0] not in VOID), ("", {}))
        key = attributes.get("id") or name
        self.texts[key] = self.texts.get(key, "") + data

    def data(self, block: str) -> Any:
        return json.loads(self.texts[block])


def drawn(run: Path, against: Path, out: Path, *more: str) -> tuple[str, Reader]:
    result = CliRunner().invoke(app, ["report", str(run), "--against", str(against), "--out", str(out), *more])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    return text, Reader(text)


def decoded(codes: str, scale: dict[str, float]) -> list[float | str]:
    """Codes as numbers, written again from what `page_pack` says of them."""
    names = {0: "absent", 1: "missing", 2: "nan", 3: "inf", 4: "equal", 5: "zero"}
    values = np.frombuffer(base64.b64decode(codes), "<u2").tolist()
    return [names.get(code, 10 ** (scale["low"] + (code - scale["first"]) * scale["step"])) for code in values]


@pytest.fixture
def official(leave_run: LeaveRun) -> Path:
    return leave_run("official")


def shift_levels(made: dict[str, Any]) -> None:
    made["video_frames"][3, 8:16, 8:24] += 3
    made["audio_waveform"][1] *= 1.01


@pytest.fixture
def native(leave_run: LeaveRun) -> Path:
    return leave_run("native", runner="native", change=shift_levels, first=FIRST)


def test_a_page_opens_with_the_verdict_and_holds_every_section_once(
    official: Path, native: Path, tmp_path: Path
) -> None:
    text, reader = drawn(native, official, tmp_path / "page.html")
    body = text[text.index("<body>") :]
    assert body.startswith('<body><header class="verdict bad" id="verdict">')
    assert '<h1 data-outcome="not_at_parity">Not at parity</h1>' in text
    assert reader.texts["title"] == "not at parity: micro"
    ids = [attributes["id"] for name, attributes in reader.tags if name == "section"]
    assert ids == ["divergence", "identity", "drift", "frames", "sound", "metrics", "times", "environment"]
    assert "First departs at step 1, negative-prompt pass, block 1, audio, feed-forward" in text
    assert "runners.ltx23.block.AudioVideoBlock.audio_ff" in text


def test_the_head_names_the_cause_and_each_tile_its_limit(official: Path, native: Path, tmp_path: Path) -> None:
    text, _ = drawn(native, official, tmp_path / "page.html")
    lead = re.search(r'<p class="lead">(.*?)</p>', text)
    assert lead is not None and lead[1].startswith("Look at ")
    assert "first divergence at step 1 · negative-prompt pass · block 1 · audio · feed-forward, " in lead[1]
    assert "<li>Bits were to be equal and are not, in frames, audio.</li>" in text  # the symptom stands below it
    named = {title: tone for tone, title in re.findall(r'<div class="tile ?([^"]*)"><span class="title">([^<]*)', text)}
    assert named["First divergence"] == "bad wide"
    assert (named["Frames"], named["Sound"], named["Video latent"]) == ("bad", "bad", "good")
    assert text.count('<span class="limit">wanted: equal bits</span>') == 2
    assert "<strong>step 1 · negative-prompt pass · block 1 · audio · feed-forward</strong>" in text


def test_guided_predictions_and_latents_are_there_once_a_step(official: Path, native: Path, tmp_path: Path) -> None:
    _, reader = drawn(native, official, tmp_path / "page.html")
    drift = reader.data("numbers")["drift"]
    ends = np.array(decoded(drift["end_errors"], drift["scale"]), dtype=object).reshape(-1, 2, drift["steps"], 3)
    assert len(ends) == 4  # passes; streams, steps, and x0, guided, latent follow
    assert "absent" not in ends[0] and set(ends[1:, :, :, 1:].ravel()) == {"absent"}
    assert "absent" not in set(ends[1:3, :, :, 0].ravel())


def test_a_run_at_parity_says_so(official: Path, leave_run: LeaveRun, tmp_path: Path) -> None:
    text, reader = drawn(leave_run("equal", runner="native"), official, tmp_path / "page.html")
    assert '<h1 data-outcome="parity">Parity</h1>' in text
    frames = reader.data("frames-data")
    assert frames["candidate"] == frames["difference"] == [None] * 5  # equal pictures are not kept twice
    drift = reader.data("numbers")["drift"]
    assert set(decoded(drift["errors"], drift["scale"])) == {"equal", "absent"} and drift["roots"] == []


def test_the_page_asks_nothing_of_a_network_and_runs_only_its_own_script(
    official: Path, native: Path, tmp_path: Path
) -> None:
    text, reader = drawn(native, official, tmp_path / "page.html")
    policy = next(a["content"] or "" for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for name, attributes in reader.tags:
        assert not any(key.startswith("on") or key == "style" for key in attributes), (name, attributes)
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (name, attributes)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "http"):
        assert word not in script[1], word


def test_nothing_in_a_run_becomes_a_tag_or_a_script(leave_run: LeaveRun, tmp_path: Path) -> None:
    hostile: dict[str, Any] = {
        "environment": {"cpu": HOSTILE, HOSTILE: HOSTILE, "sdpa_backends": [HOSTILE]},
        "prompt": HOSTILE,
        "extra": HOSTILE.replace("\n", ""),
        "stage_s": {HOSTILE: 1.0},
        "model_version": HOSTILE,
    }
    official = leave_run("official", **hostile)
    native = leave_run("native", runner="engine", tier=HOSTILE, change=shift_levels, first=FIRST, **hostile)
    text, reader = drawn(native, official, tmp_path / "page.html")
    scripts = [attributes.get("type", "own") for name, attributes in reader.tags if name == "script"]
    assert scripts == ["application/json"] * 3 + ["own"]
    assert not {name for name, _ in reader.tags} & {"img", "iframe", "object", "embed", "form", "base"}
    assert "&lt;/script&gt;&lt;script&gt;hacked=1" in text  # it is shown, as text
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J" in text


def test_every_tap_of_the_map_is_its_error_to_a_tenth_of_a_percent(
    official: Path, native: Path, tmp_path: Path
) -> None:
    _, reader = drawn(native, official, tmp_path / "page.html")
    drift = reader.data("numbers")["drift"]
    taps = diagnose(read_run(official), read_run(native)).traces.taps
    errors = iter(decoded(drift["errors"], drift["scale"]))
    seen = 0
    for one in drift["passes"]:
        for stream in drift["streams"]:
            for part in drift["parts"]:
                for step in range(drift["steps"]):
                    for block in range(drift["blocks"]):
                        tap = f"denoise/{step:03d}/{one['id']}/block/{block:02d}/{stream}/{part}"
                        shown = next(errors)
                        if tap not in taps:
                            assert (shown, one["id"], part) == ("absent", "isolated", "av_attn")
                        elif taps[tap].bit_equal:
                            assert shown == "equal"
                        else:
                            seen += 1
                            assert shown == pytest.approx(taps[tap].estimate, rel=1e-3)
    assert (
        next(errors, None) is None and seen == 10
    )  # ff and out of audio, then all of audio and three parts of video in the last block
    ends = decoded(drift["end_errors"], drift["scale"])
    assert len(ends) == 4 * 2 * 2 * 3 and sum(isinstance(value, float) for value in ends) > 0
    [root] = drift["roots"]
    assert (root["step"], root["pass"], root["stream"], root["part"], root["block"]) == (1, 1, 1, 3, 1)


def test_taps_that_are_missing_or_broken_are_told_apart(leave_run: LeaveRun, tmp_path: Path) -> None:
    from parity.report.page_pack import log_code

    assert [log_code(value) for value in (math.nan, math.inf, 0.0, 1e-30, 1e30)] == [2, 3, 5, 6, 0xFFFF]
    text, reader = drawn(leave_run("bare", blocks=None), leave_run("official"), tmp_path / "page.html")
    assert reader.data("numbers")["drift"] is None
    assert "No map: a trace of both runs is needed" in text


def test_a_run_of_another_length_still_has_its_page(leave_run: LeaveRun, tmp_path: Path) -> None:
    def shorter(made: dict[str, Any]) -> None:
        made["video_frames"] = made["video_frames"][:4]
        made["audio_waveform"] = made["audio_waveform"][:, :1000]
        made["audio_waveform"][0, 5] = math.nan

    native = leave_run("native", runner="native", change=shorter)
    text, reader = drawn(native, leave_run("official"), tmp_path / "page.html")
    assert '<h1 data-outcome="not_at_parity">Not at parity</h1>' in text
    assert "missing_frame" in text and "length_mismatch" in text
    frames, sound = reader.data("frames-data"), reader.data("sound-data")
    assert frames["reason"] == "no difference: 5 frames of 40x24 against 4 frames of 40x24"
    assert len(frames["reference"]) == len(frames["candidate"]) == 4 and frames["difference"] == [None] * 4
    assert list(sound["sides"]) == ["reference", "candidate"]
    assert "1 samples of the candidate are not finite" in text


def test_without_limits_the_reason_is_the_verdict(
    leave_run: LeaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root" / "golden").mkdir(parents=True)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path / "root"))
    text, _ = drawn(leave_run("native", runner="native", tier="fast"), leave_run("official"), tmp_path / "page.html")
    assert "Could not judge" in text and "consistency_threshold.json" in text
    assert "video_latent.relative_l2" in text


def test_pages_stay_below_their_size(leave_run: LeaveRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MOST_PAGE_BYTES", 400_000)
    monkeypatch.setattr(page_module, "ROOM_FOR_WORDS", 200_000)

    def noisier(made: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(1)
        made["video_frames"] = torch.randint(0, 255, made["video_frames"].shape, generator=generator, dtype=torch.uint8)

    size = (30, 200, 300)
    official = leave_run("official", frames=size)
    text, _ = drawn(leave_run("native", frames=size, change=noisier), official, tmp_path / "page.html")
    assert len(text.encode()) <= 400_000
    assert "Pictures are reduced from 300x200 to 128x85" in text and "of 30 frames are here" in text


def test_runs_of_other_cases_get_no_page(leave_run: LeaveRun, tmp_path: Path) -> None:
    official, other = leave_run("official"), leave_run("other", prompt="another")
    arguments = ["report", str(other), "--against", str(official), "--out", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and not (tmp_path / "page.html").exists()


def test_a_reduced_golden_shows_whole_frames_among_small_ones(
    leave_run: LeaveRun, tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "root" / "golden" / "micro"
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text(micro_case_text)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("PARITY_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", 0)
    golden.bless(read_run(leave_run("official")), "large")
    native = leave_run("native", runner="native", change=shift_levels, first=FIRST)
    text, reader = drawn(native, Path("golden"), tmp_path / "page.html")
    assert "The golden is reduced: frames 0, 2, 4 are whole" in text
    frames = reader.data("frames-data")
    assert set(frames["per_frame"]) == {"psnr_db", "ssim", "mad", "flicker"} and len(frames["per_frame"]["mad"]) == 5
    sizes = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size for uri in frames["reference"]]
    assert sizes == [(40, 24), (5, 3), (40, 24), (5, 3), (40, 24)]
    drift = reader.data("numbers")["drift"]
    assert "missing" not in decoded(drift["errors"], drift["scale"])  # two steps: all of them are kept
