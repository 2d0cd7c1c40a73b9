"""The page in a real browser without a head: opened, hovered, clicked, switched, and nothing on the console.

Run with `make test-browser`; the browser is that of `tests.parity.report.browser`.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from tests.parity.report.browser import Browser

pytestmark = pytest.mark.browser
LeaveRun = Callable[..., Path]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


HOSTILE = "</script><img src=x onerror=hacked=1><svg onload=hacked=1>"
FIRST = "denoise/001/uncond/block/01/audio/ff"
Spoil = Callable[[dict[str, Any]], None]


def shift_levels(made: dict[str, Any]) -> None:
    made["video_frames"][3, 8:16, 8:24] += 3
    made["audio_waveform"][1] *= 1.01


def drawn(run: Path, against: Path) -> Path:
    page = run.with_suffix(".html")
    result = CliRunner().invoke(app, ["report", str(run), "--against", str(against), "--out", str(page)])
    assert result.exit_code == 0, result.output
    return page


@pytest.fixture
def page(leave_run: LeaveRun) -> Path:
    hostile: dict[str, Any] = {"environment": {HOSTILE: HOSTILE}, "extra": HOSTILE, "stage_s": {HOSTILE: 1.0}}
    native = leave_run("native", runner="native", change=shift_levels, first=FIRST, **hostile)
    return drawn(native, leave_run("official", **hostile))


def cell(browser: Browser, step: int, column: int) -> tuple[float, float]:
    """The middle of a cell of the drift map, by the page's own layout."""
    left, top = browser.place(".map", 0, 0)
    layout = f"mapLayout(driftModel(numbers.drift), {browser.run('document.querySelector(`.map`).clientWidth')})"
    x, y = browser.run(
        f"(() => {{ const at = {layout};return [at.x({column}) + at.across / 2, at.y({step}) + at.down / 2]; }})()"
    )
    return left + x, top + y


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_a_page_opens_without_trouble_and_fits_its_window(
    browser: Browser, page: Path, width: int, scheme: str
) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.trouble() == []
    assert browser.text("h1") == "Not at parity"
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("window.hacked") is None and browser.run("document.querySelectorAll('img').length") == 4
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(250, 250, 248)" if scheme == "light" else "rgb(15, 18, 22)")


def test_the_drift_map_is_hovered_clicked_walked_and_switched(browser: Browser, page: Path) -> None:
    browser.open(page)
    detail = "#drift-detail h3"
    assert browser.text(detail).startswith("Step 1, block 1: audio, feed-forward — relative L2 0.")
    assert browser.run("document.querySelector('.minis input:checked').value") == "1-1"  # it opens at the first root

    browser.hover(*cell(browser, 1, 1))
    assert browser.run("!document.querySelector('.tip').hidden")
    assert browser.text(".tip b") == "Step 1, block 1: audio, feed-forward"
    assert "harmless noise" in browser.text(".tip") and "departs first here" in browser.text(".tip")
    browser.hover(*cell(browser, 0, 0))
    assert "equal in every bit" in browser.text(".tip")
    browser.hover(4, 4)
    assert browser.run("document.querySelector('.tip').hidden")

    browser.click(*cell(browser, 0, 3))  # behind the three blocks: x0
    assert browser.text(detail) == "Step 0, after the blocks: audio, denoised prediction — equal in every bit"
    browser.click(*cell(browser, 1, 0))
    browser.key("ArrowRight")
    assert browser.text(detail).startswith("Step 1, block 1: audio, feed-forward")
    browser.key("ArrowUp")
    assert browser.text(detail) == "Step 0, block 1: audio, feed-forward — equal in every bit"

    browser.click(*browser.place(".minis label:nth-of-type(4)"))  # isolated pass, video
    assert browser.text(detail) == "Step 0, block 1: video, feed-forward — equal in every bit"
    before = browser.run("document.querySelector('.map').toDataURL()")
    browser.click(*browser.place("fieldset .choice label:nth-of-type(3)"))  # cross-modal attention
    assert "the case leaves no such tap" in browser.text(detail)
    assert browser.run("document.querySelector('.map').toDataURL()") != before
    browser.click(*browser.place(".root-button"))
    assert browser.text(detail).startswith("Step 1, block 1: audio, feed-forward — relative L2")
    assert browser.trouble() == []


def test_colours_follow_the_scale_and_the_theme(browser: Browser, page: Path) -> None:
    browser.open(page)
    at = (
        "(x, y) => { const copy = element('canvas').getContext('2d');"
        "copy.drawImage(document.querySelector('.map'), -x, -y); return copy.getImageData(0, 0, 1, 1).data.join(); }"
    )
    left, top = browser.place(".map", 0, 0)
    x, y = cell(browser, 0, 0)
    spot = f"({at})({x - left}, {y - top})"
    light = browser.run(spot)
    assert light == "207,232,218,255"  # equal bits
    browser.click(*browser.place(".theme"))
    assert browser.run(spot) == "22,56,44,255"
    x, y = cell(browser, 1, 1)
    spot = f"({at})({x - left}, {y - top})"
    before = browser.run(spot)
    browser.click(*browser.place(".controls fieldset:nth-of-type(2) label:nth-of-type(2)"))
    assert browser.run(spot) != before
    assert browser.trouble() == []


def until(browser: Browser, condition: str) -> None:
    """Wait for something that takes as long as the machine is busy; the browser says if it never comes."""
    browser.run(
        f"new Promise((done) => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})"
    )


def test_frames_are_chosen_by_slider_keys_strip_and_sound(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.text(".readout").startswith("frame 4 of 5 · 0.067 s · PSNR")  # the worst one
    mean = (
        "(() => { const canvas = document.querySelector('.trio canvas');"
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "return data.reduce((sum, level, index) => sum + (index % 4 === 3 ? 0 : level), 0); })()"
    )
    until(browser, f"{mean} > 10000")
    browser.click(*browser.place(".strip", 0.05))
    assert browser.text(".readout").startswith("frame 1 of 5")
    assert browser.run(mean) == 0  # that frame is equal
    browser.run("document.querySelector('.player input').focus()")
    browser.key("ArrowRight")
    assert browser.text(".readout").startswith("frame 2 of 5")
    browser.click(*browser.place(".spectrum", 0.95))  # 0.047 of 0.05 s
    assert browser.text(".readout").startswith("frame 3 of 5 · 0.044 s")
    browser.click(*browser.place(".player button"))
    until(browser, "document.querySelector('.player button').textContent === 'Pause'")
    browser.click(*browser.place(".player button"))
    assert browser.trouble() == []


def test_a_clicked_cell_is_in_the_address_and_an_address_opens_its_cell(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("location.hash") == ""
    browser.click(*cell(browser, 0, 2))
    address = browser.run("location.hash")
    assert address == "#drift=1,1,3,0,2,0"  # negative-prompt pass, audio, feed-forward, step 0, block 2, relative L2
    browser.run("location.hash = '#drift=0,0,1,1,1,1'")
    browser.settle()
    detail = "#drift-detail h3"
    assert browser.text(detail).startswith("Step 1, block 1: video, text attention")
    assert browser.run("document.querySelector('.minis input:checked').value") == "0-0"
    for wrong in ("#drift=9,9,9,9,9,9", "#drift=<b>", "#metrics"):
        browser.run(f"location.hash = {json.dumps(wrong)}")
        browser.settle()
        assert browser.text(detail).startswith("Step 1, block 1: video, text attention")
    assert browser.trouble() == []


def test_the_map_is_as_wide_as_the_page_and_breaks_at_the_noise(browser: Browser, page: Path) -> None:
    browser.open(page)
    right = browser.run(
        "(() => { const map = document.querySelector('.map'); const model = driftModel(numbers.drift);"
        "const at = mapLayout(model, map.clientWidth);"
        "return at.x(model.columns - 1) + at.across - map.clientWidth; })()"
    )
    assert -2 <= right <= 0
    shares = [browser.run(f"broken({share}, 1)") for share in (0.0, 0.25, 0.499, 0.501, 0.75, 1.0)]
    assert shares == sorted(shares) and shares[3] - shares[2] > 0.3 and shares[2] < 0.2 and shares[5] == 1.0
    assert browser.run("broken(0.499, 0)") == 0.499  # the scale of errors has no break
    lightness = browser.run("HEAT.map(([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue)")
    steps = [after - before for before, after in itertools.pairwise(lightness)]
    assert min(steps) > 20 and max(steps) < 50  # even, so that a grey printer shows the middle, too


def test_guided_predictions_and_latents_stand_once_a_step(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click(*cell(browser, 0, 3))
    rows = browser.run(
        "[...document.querySelectorAll('.matrix tbody tr')].map((row) => row.querySelectorAll('button').length)"
    )
    assert rows == [0, 4, 1, 1, 0, 4, 1, 1]  # video and audio: x0 in each of four passes, guided, latent


def test_frames_are_swiped_and_flickered(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = "getComputedStyle(document.querySelector('.stage')).display !== 'none'"
    above = "document.querySelector('.stage .above').style"
    assert not browser.run(shown)
    browser.click(*browser.place("#frames .choice label:nth-of-type(2)"))
    assert browser.run(shown) and browser.run(f"{above}.clipPath") == "inset(0px 0px 0px 50%)"
    browser.run("document.querySelector('.stage img').decode()")  # until then the picture has no height
    assert browser.place(".stage .edge")[0] == pytest.approx(browser.place(".stage .pair")[0], abs=1)
    top, left = browser.run(  # the difference stands beside it
        "['.stage', '.trio'].map((one) => document.querySelector(one).getBoundingClientRect())"
        ".reduce((one, other) => [Math.abs(one.top - other.top), other.left - one.right])"
    )
    assert top < 2 and left > 0
    browser.run(
        "document.querySelector('.stage input').value = 20;"
        "document.querySelector('.stage input').dispatchEvent(new Event('input'))"
    )
    assert browser.run(f"{above}.clipPath") == "inset(0px 0px 0px 20%)"
    browser.click(*browser.place(".stage .pair", 0.75, 0.5))  # the edge goes where the picture is pressed
    assert browser.run(f"{above}.clipPath") == "inset(0px 0px 0px 75%)"
    browser.click(*browser.place("#frames .choice label:nth-of-type(3)"))
    seen: set[tuple[str, ...]] = set()
    while len(seen) < 2:  # the test's own time limit ends it
        both = f"[{above}.visibility, document.querySelector('.stage figcaption').textContent]"
        seen.add(tuple(browser.run(both)))  # in one question: they turn between two
        browser.run("new Promise((done) => setTimeout(done, 100))")
    assert seen == {("visible", "This run"), ("hidden", "Reference")}
    browser.click(*browser.place("#frames .choice label:nth-of-type(1)"))
    assert not browser.run(shown) and browser.trouble() == []


def test_metrics_are_filtered_by_words_and_by_state(browser: Browser, page: Path) -> None:
    browser.open(page)
    left = "document.querySelectorAll('#metrics .metrics tbody tr:not([hidden])').length"
    opened = "[...document.querySelectorAll('#metrics details.more')].map((one) => one.open)"
    assert browser.run(opened) == [True, False, False]  # what failed is seen, what passed within, what is not judged
    every = browser.run(left)
    browser.run(
        "document.querySelector('.filter input[type=search]').value = 'bit_equal.frames';"
        "document.querySelector('.filter input[type=search]').dispatchEvent(new Event('input'))"
    )
    assert browser.run(left) == 1 and browser.text(".filter .note") == f"1 of {every}"
    browser.run(
        "document.querySelector('.filter input[type=search]').value = '';"
        "document.querySelector('.filter input[type=checkbox]').click()"
    )
    assert 0 < browser.run(left) < every
    assert browser.run(
        "[...document.querySelectorAll('#metrics tr:not([hidden]) .badge')].every((one) => one.textContent === 'FAIL')"
    )


def test_on_a_phone_the_slider_stays_beside_the_pictures(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, height=700)
    _, top = browser.place(".trio", 0.5, 0.0)
    across, down = browser.run(
        "(() => { const box = document.querySelector('.frames-player').getBoundingClientRect();"
        "return [box.left, box.bottom]; })()"
    )
    assert top < 700 and down <= 700 and across >= 0


def test_sound_plays_from_the_same_place_on_every_side(browser: Browser, page: Path) -> None:
    browser.open(page)
    until(browser, "document.querySelector('audio').duration > 0")
    assert browser.run("document.querySelector('audio').duration") == pytest.approx(0.05, abs=1e-3)
    browser.click(*browser.place(".wave", 0.6))
    chosen = browser.run("document.querySelector('audio').currentTime")
    assert 0.02 < chosen < 0.04
    browser.click(*browser.place("#sound .choice label:nth-of-type(3)"))
    until(browser, f"Math.abs(document.querySelector('audio').currentTime - {chosen}) < 0.005")
    before = browser.run("document.querySelector('.wave').toDataURL()")
    browser.click(*browser.place("#sound fieldset:nth-of-type(2) label:nth-of-type(2)"))
    assert browser.run("document.querySelector('.wave').toDataURL()") != before
    browser.hover(*browser.place(".spectrum", 0.5, 0.1))
    assert "Reference:" in browser.text(".tip") and "Change:" in browser.text(".tip")
    assert browser.trouble() == []


def test_a_page_of_a_whole_request_does_not_stall(browser: Browser, leave_run: LeaveRun) -> None:
    whole: dict[str, Any] = {"steps": 30, "blocks": 48, "frames": (25, 64, 96)}
    first = "denoise/003/perturbed/block/17/video/av_attn"
    page = drawn(leave_run("native", runner="native", first=first, **whole), leave_run("official", **whole))
    assert page.stat().st_size < 4_000_000
    browser.open(page)
    taps = browser.run("unpack(numbers.drift.errors, Uint16Array).length")
    assert taps == 30 * 48 * 4 * 2 * 5  # 57,600
    assert browser.run("document.querySelectorAll('*').length") < 3000
    assert browser.run("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart") < 5000
    detail = "#drift-detail h3"
    assert browser.text(detail).startswith("Step 3, block 17: video, audio-to-video attention — relative L2 0.")
    for step, column in ((3, 16), (2, 17)):
        browser.click(*cell(browser, step, column))
        assert browser.text(detail).endswith("— equal in every bit")
    browser.run(
        "window.slowest = 0; new PerformanceObserver((list) => list.getEntries().forEach((one) =>"
        "{ slowest = Math.max(slowest, one.duration); })).observe({ entryTypes: ['longtask'] })"
    )
    for column in range(0, 48, 6):
        browser.hover(*cell(browser, 20, column))
    browser.click(*cell(browser, 29, 47))
    browser.click(*browser.place(".minis label:nth-of-type(6)"))
    assert browser.text(detail).startswith("Step 29, block 47: audio")
    assert browser.run("slowest") < 1000, "a single reaction took longer than a second"
    assert browser.trouble() == []
