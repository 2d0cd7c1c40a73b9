"""Changes of later official releases, against values worked by hand: each switch alone, and the presets."""

import io
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runners.case import Case
from runners.clock import Clock
from runners.errors import ConfigError, MediaError
from runners.ltx23.conditioning import condition_on_image
from runners.ltx23.gemma import load_gemma
from runners.ltx23.image import read_picture
from runners.ltx23.latents import LatentState, empty_state, video_positions, video_shape, with_noise
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.sampling import DEFAULT_NEGATIVE_PROMPT, default_negative_prompt
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.text_encoding import TextEncodingStage
from runners.native.request import sampling_params
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.releases import RELEASES, ReleaseBehaviours, reference_of
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
Run = Callable[..., Any]
MakeCase = Callable[..., Case]


def on(reference: ReleaseBehaviours) -> set[str]:
    return {field.name for field in fields(reference) if getattr(reference, field.name)}


def test_a_release_keeps_what_the_one_before_it_changed() -> None:
    since_1_1_2 = {
        *("vocoder_fp32", "keyframe_spans_one_frame", "negative_disables_skipped_modality", "guided_passes_repeated")
    }
    assert on(RELEASES["1.0.0"]) == set()
    assert on(RELEASES["1.1.2"]) == since_1_1_2
    assert on(RELEASES["1.2.0"]) == {field.name for field in fields(ReleaseBehaviours)}
    assert RELEASES.keys() == {"1.0.0", "1.1.2", "1.2.0"}


def test_one_behaviour_of_a_release_is_turned_off() -> None:
    reference = reference_of("1.2.0", {"decode_auto_tiled": False})
    assert reference == replace(RELEASES["1.2.0"], decode_auto_tiled=False)
    with pytest.raises(ConfigError, match=r"known are 1\.0\.0, 1\.1\.2, 1\.2\.0"):
        reference_of("custom")


@pytest.mark.parametrize(("spans_one", "end"), [(False, 24 + 8), (True, 24 + 1)])
def test_an_appended_keyframe_lasts_one_pixel_frame_since_1_1_2(spans_one: bool, end: int) -> None:
    shape, rate = video_shape(33, 64, 96), 10.0
    state = empty_state(shape.tokens, 128, video_positions(shape, rate, torch.float32, CPU), torch.float32)
    kept = condition_on_image(state, torch.ones(1, 128, 1, 2, 3), 24, 1.0, shape, rate, spans_one)
    appended = kept.positions[0, 0, shape.tokens :]
    assert appended.shape == (6, 2)
    torch.testing.assert_close(appended, torch.tensor([2.4, end / 10]).expand(6, 2))
    at_first = condition_on_image(state, torch.ones(1, 128, 1, 2, 3), 0, 1.0, shape, rate, spans_one)
    assert torch.equal(at_first.positions, state.positions)


def test_an_fp32_lerp_rounds_once_and_starts_from_the_clean_latent() -> None:
    clean = torch.tensor([0.3, 2.0, -7.0]).bfloat16().view(1, 3, 1)
    mask = torch.tensor([0.45, 0.0, 1.0]).view(1, 3, 1)
    state = LatentState(latent=clean * 0, clean=clean, denoise_mask=mask, positions=torch.zeros(1, 1, 3, 2))
    noise = torch.randn(1, 3, 1, generator=torch.Generator().manual_seed(3), dtype=torch.bfloat16)
    noised = with_noise(state, torch.Generator().manual_seed(3), lerp_fp32=True).latent.flatten()
    exact = clean.double() + (noise.double() - clean.double()) * mask.double()
    assert noised.tolist() == [exact.flatten()[0].bfloat16().item(), 2.0, noise.flatten()[2].item()]
    # Before 1.2.0 the picture had to be in the latent as well, which is zero here.
    other = with_noise(state, torch.Generator().manual_seed(3), lerp_fp32=False).latent.flatten()
    assert other[1] == 0.0


@pytest.mark.parametrize(("release", "in_negative"), [("1.0.0", True), ("1.1.2", False)])
def test_a_skipped_modality_is_left_out_of_the_negative_pass_since_1_1_2(
    release: str, in_negative: bool, micro_weights: WeightsFolder, micro_case: MakeCase, run: Run
) -> None:
    case = micro_case({"guidance.audio.skip_step": 1, "reference": release})
    taps = run(NativeRunner(micro_weights, RunOptions(device=CPU)), case).taps
    for one_pass, there in (("cond", False), ("uncond", in_negative), ("perturbed", False)):
        assert (f"denoise/001/{one_pass}/block/00/audio/self_attn" in taps) is there, one_pass
        assert f"denoise/001/{one_pass}/block/00/video/self_attn" in taps
        assert f"denoise/000/{one_pass}/block/00/audio/self_attn" in taps


def test_five_phrases_lead_the_default_negative_prompt_of_1_2_0(micro_case: MakeCase) -> None:
    assert default_negative_prompt(RELEASES["1.1.2"]) == DEFAULT_NEGATIVE_PROMPT
    longer = default_negative_prompt(RELEASES["1.2.0"])
    lead, _, rest = longer.partition("blurry, ")
    assert lead.split(", ")[:-1] == [
        "has_subtitles",
        "has_blurbox",
        "transition from black",
        "transition to black",
        "speech_ending_short",
    ]
    assert "blurry, " + rest == DEFAULT_NEGATIVE_PROMPT
    default = micro_case({"request.negative_prompt": None, "reference": "1.2.0"})
    assert sampling_params(default).negative_prompt == longer
    assert sampling_params(default, RELEASES["1.0.0"]).negative_prompt == DEFAULT_NEGATIVE_PROMPT
    assert sampling_params(micro_case({"reference": "1.2.0"})).negative_prompt == "blurry, silent"


CORNERS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 9, 9], [90, 90, 90], [200, 200, 200]]], np.uint8)


def saved(path: Path, picture: Image.Image, orientation: int | None = None, profile: bytes | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(path, exif=exif, icc_profile=profile)
    return path


@pytest.mark.parametrize(
    ("orientation", "turns"),
    [(None, 0), (1, 0), (3, 2), (6, 3), (8, 1), (2, 0), (5, 0), (99, 0)],  # quarter turns counter-clockwise
)
def test_a_picture_is_turned_upright_by_its_exif_orientation(
    orientation: int | None, turns: int, tmp_path: Path
) -> None:
    path = saved(tmp_path / "p.png", Image.fromarray(CORNERS), orientation)
    assert np.array_equal(read_picture(path), CORNERS)  # as up to 1.1.2
    assert np.array_equal(read_picture(path, as_displayed=True), np.rot90(CORNERS, turns))


def test_pictures_without_colour_are_taken_as_displayed_and_alpha_is_dropped(tmp_path: Path) -> None:
    grey = Image.fromarray(CORNERS[..., 1])
    path = saved(tmp_path / "grey.png", grey)
    with pytest.raises(MediaError, match="8-bit RGB is wanted"):
        read_picture(path)
    assert np.array_equal(read_picture(path, as_displayed=True), np.repeat(CORNERS[..., 1:2], 3, axis=2))
    clear = Image.fromarray(np.concatenate([CORNERS, np.zeros((2, 3, 1), np.uint8)], axis=2))
    for as_displayed in (False, True):
        assert np.array_equal(read_picture(saved(tmp_path / "clear.png", clear), as_displayed), CORNERS)
    palette = Image.fromarray(CORNERS).quantize(6)
    assert np.array_equal(read_picture(saved(tmp_path / "palette.png", palette), True), CORNERS)


def profile_with_gamma(gamma: float) -> bytes:
    """A matrix profile: primaries and white of sRGB under D50, and one gamma for all three."""

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))

    tags = {
        b"rXYZ": xyz(0.43607, 0.22249, 0.01392),
        b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": xyz(0.14307, 0.06061, 0.71410),
        b"wtpt": xyz(0.96420, 1.0, 0.82491),
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(90),
        b"cprt": b"text" + bytes(4) + b"CC0\0",
    }
    curve = b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256))
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body = io.BytesIO(), io.BytesIO()
    table.write(struct.pack(">I", len(tags)))
    for name, data in tags.items():
        table.write(name + struct.pack(">II", 132 + 12 * len(tags) + body.tell(), len(data)))
        body.write(data)
    size = 128 + table.tell() + body.tell()
    header = struct.pack(">I4xI", size, 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)  # the illuminant, D50
    return header.ljust(128, b"\0") + table.getvalue() + body.getvalue()


def test_colours_go_from_the_pictures_profile_to_srgb(tmp_path: Path) -> None:
    greys = np.repeat(np.array([[[64], [128], [200]]], np.uint8), 3, axis=2)
    path = saved(tmp_path / "linear.png", Image.fromarray(greys), profile=profile_with_gamma(1.0))
    assert np.array_equal(read_picture(path), greys)
    light = greys / 255  # a gamma of 1: the bytes are light itself, which sRGB writes with its own curve
    wanted = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light) * 255
    np.testing.assert_allclose(read_picture(path, as_displayed=True), wanted, atol=1.01)
    assert wanted[0, 0, 0] > 130  # so a picture read without its profile would be far off


def test_a_profile_that_is_none_is_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "broken.png", Image.fromarray(CORNERS), profile=b"no profile at all" * 20)
    assert np.array_equal(read_picture(path, as_displayed=True), CORNERS)


@pytest.mark.parametrize("guided", [True, False])
def test_both_prompts_go_through_gemma_in_one_pass_since_1_2_0(
    guided: bool, micro_weights: WeightsFolder, micro_case: MakeCase
) -> None:
    encoder = load_gemma(
        micro_weights.gemma_config, micro_weights.gemma_folder, micro_weights.gemma, CPU, torch.float32
    )
    sizes: list[int] = []
    encoder.language_model.register_forward_hook(lambda _module, _inputs, out: sizes.append(len(out[0])))
    overrides: dict[str, Any] = {} if guided else {"guidance.video": {}, "guidance.audio": {}}
    stacked = {}
    for release in ("1.1.2", "1.2.0"):
        sampling = sampling_params(micro_case({**overrides, "reference": release}))
        batch = Batch(
            sampling=sampling,
            config=PipelineConfig(dtype=torch.float32, reference=RELEASES[release]),
            device=CPU,
            clock=Clock(CPU),
            do_classifier_free_guidance=sampling.do_classifier_free_guidance,
            extra=sampling.build_request_extra(),
        )
        with torch.inference_mode():
            TextEncodingStage(encoder).forward(batch)
        stacked[release] = batch
    assert sizes == ([1, 1, 2] if guided else [1, 2])
    old, new = (stacked[release].prompt_embeds for release in ("1.1.2", "1.2.0"))
    assert isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)
    assert torch.allclose(old, new, rtol=1e-4, atol=1e-4)
    assert (stacked["1.2.0"].negative_prompt_embeds is not None) is guided
    if guided:
        one, both = (stacked[release].negative_prompt_embeds for release in ("1.1.2", "1.2.0"))
        assert isinstance(one, torch.Tensor) and isinstance(both, torch.Tensor)
        assert torch.allclose(one, both, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(both, new, rtol=1e-1, atol=1e-1)
