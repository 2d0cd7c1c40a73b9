"""The vocoder and its bandwidth extension against the official ones: bit for bit, in both precisions and releases."""

import importlib
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from runners.errors import ShapeError
from runners.ltx23 import antialiased_activation
from runners.ltx23.bandwidth_extension import ExtendedVocoder, resample, vocoder_from_config
from runners.ltx23.vocoder import Vocoder
from runners.official.compat import prepare_imports
from runners.releases import ReleaseBehaviours

DTYPES = [torch.float32, torch.bfloat16]


def flat(**keys: Any) -> dict[str, Any]:
    """A narrow section of the kind before LTX-2.3."""
    return {
        "resblock": "1", "stereo": True, "upsample_initial_channel": 12, "upsample_rates": [3, 2],
        "upsample_kernel_sizes": [7, 4], "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 4]], **keys,
    }  # fmt: skip


def nested(vocoder: dict[str, Any] | None = None, bwe: dict[str, Any] | None = None) -> dict[str, Any]:
    """A narrow section of the LTX-2.3 kind: 6 samples a frame at 8 kHz, which are 1.2 hops; then 3 times the rate."""
    amp = {"resblock": "AMP1", "activation": "snakebeta", "use_tanh_at_final": False, "use_bias_at_final": False}
    return {
        "vocoder": {**flat(), **amp, **(vocoder or {})},
        "bwe": {
            **flat(), **amp, "upsample_rates": [5, 3], "upsample_kernel_sizes": [11, 5], "n_fft": 16,
            "hop_length": 5, "num_mels": 64, "input_sampling_rate": 8000, "output_sampling_rate": 24000, **(bwe or {}),
        },
    }  # fmt: skip


def official() -> ModuleType:
    pytest.importorskip("ltx_core")
    prepare_imports()
    return importlib.import_module("ltx_core.model.audio_vae")


@torch.no_grad()
def randomize(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give every parameter and buffer random values in `dtype`, as the official loader does: what no checkpoint holds,
    the resampling filter, stays float32."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("mel_basis"):
            noise = noise.abs() * 0.05
        elif name.endswith(("filter", "alpha", "beta")):
            noise = tensor + 0.1 * noise
        elif tensor.ndim > 1:
            quiet = (
                0.2 if "conv_post" in name else 0.6
            )  # keeps the waveform off its limits, which would hide differences
            noise = noise * quiet * tensor[0].numel() ** -0.5
        else:
            noise = noise * 0.1
        state[name] = noise.to(dtype)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def pair(
    section: dict[str, Any], dtype: torch.dtype, reference: ReleaseBehaviours
) -> tuple[nn.Module, Vocoder | ExtendedVocoder]:
    theirs = randomize(official().VocoderConfigurator.from_config({"vocoder": section}), dtype)
    ours = vocoder_from_config(section, reference).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


def spectrogram(dtype: torch.dtype, frames: int = 7) -> Tensor:
    return torch.randn(3, 2, frames, 64, generator=torch.Generator().manual_seed(13)).to(dtype)


FLAT: dict[str, dict[str, Any]] = {
    "tanh": {},
    "clamp, no bias": {"use_tanh_at_final": False, "use_bias_at_final": False},
    "three stages, one block of even size": {
        "upsample_initial_channel": 13, "upsample_rates": [2, 4, 3], "upsample_kernel_sizes": [5, 4, 7],
        "resblock_kernel_sizes": [7], "resblock_dilation_sizes": [[2, 1, 3]],
    },
    "an activation that leaky blocks ignore": {"activation": "snakebeta", "output_sampling_rate": 16000},
}  # fmt: skip

NESTED: dict[str, dict[str, Any]] = {
    "released": nested(),
    "three blocks to average": nested(
        {"resblock_kernel_sizes": [3, 7, 1], "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 4], [3, 1, 1]]}
    ),
    "tanh and bias": nested({"use_tanh_at_final": True, "use_bias_at_final": True}, {"use_bias_at_final": True}),
    "whole hops, window shorter than a hop": nested(
        bwe={"hop_length": 6, "n_fft": 4, "upsample_rates": [6, 3], "upsample_kernel_sizes": [6, 3]}
    ),
    "vocoder stage with an odd sample more": nested({"upsample_kernel_sizes": [8, 4]}),
    "same rate": nested(
        bwe={"output_sampling_rate": 8000, "upsample_rates": [5], "upsample_kernel_sizes": [9], "n_fft": 11}
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FLAT)
@torch.no_grad()
def test_a_flat_section_equals_the_official_vocoder_bit_for_bit_in_every_release(name: str, dtype: torch.dtype) -> None:
    section = flat(**FLAT[name])
    theirs, ours = pair(section, dtype, ReleaseBehaviours(vocoder_fp32=True))
    expected = theirs(spectrogram(dtype))
    assert 0.01 < expected.float().std() < 0.5  # neither silent nor clipped
    assert isinstance(ours, Vocoder)
    assert torch.equal(ours(spectrogram(dtype)), expected)
    assert ours.output_sampling_rate_hz == section.get("output_sampling_rate", 24000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NESTED)
@torch.no_grad()
def test_a_nested_section_equals_the_official_extension_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    theirs, ours = pair(NESTED[name], dtype, ReleaseBehaviours())
    expected = theirs(spectrogram(dtype))
    assert 0.01 < expected.float().std() < 0.5  # neither silent nor clipped
    assert isinstance(ours, ExtendedVocoder)
    assert ours(spectrogram(dtype)).dtype == dtype
    assert torch.equal(ours(spectrogram(dtype)), expected)
    assert ours.output_sampling_rate_hz == NESTED[name]["bwe"]["output_sampling_rate"]
    # the generator must matter, or the sum would hide it
    ours.bwe_generator.conv_post.weight.zero_()
    assert not torch.equal(ours(spectrogram(dtype)), expected)


@pytest.mark.parametrize("name", NESTED)
@torch.no_grad()
def test_the_float32_pass_is_the_official_float32_model_on_the_same_rounded_weights(name: str) -> None:
    theirs, ours = pair(NESTED[name], torch.bfloat16, ReleaseBehaviours(vocoder_fp32=True))
    before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    found = ours(spectrogram(torch.bfloat16))
    expected = theirs.float()(spectrogram(torch.bfloat16).float()).to(torch.bfloat16)
    assert torch.equal(found, expected)
    for key, tensor in ours.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[key])
    plain = vocoder_from_config(NESTED[name], ReleaseBehaviours())
    plain.load_state_dict(before, assign=True)
    assert not torch.equal(plain(spectrogram(torch.bfloat16)), expected)


class CudaAutocastToFloat32(TorchFunctionMode):
    """A GPU's autocast to float32, of the functions that the vocoder calls (PyTorch, "CUDA Op Reference").

    A CPU has no such autocast, so on a CPU alone nobody would see a function that it leaves in bf16.
    """

    CAST: ClassVar[set[Any]] = {
        *(F.conv1d, F.conv_transpose1d, torch.conv1d, torch.conv_transpose1d, torch.matmul, Tensor.matmul),
        *(torch.exp, Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow, Tensor.__pow__, torch.norm),
        *(torch.reciprocal, Tensor.reciprocal, Tensor.__rtruediv__, Tensor.__rdiv__),
    }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def cast(value: Any) -> Any:
            return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

        kwargs = kwargs or {}
        if function in self.CAST:
            args, kwargs = tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", NESTED)
@torch.no_grad()
def test_the_float32_pass_is_the_official_bf16_model_under_a_gpus_autocast(name: str) -> None:
    theirs, ours = pair(NESTED[name], torch.bfloat16, ReleaseBehaviours(vocoder_fp32=True))
    mel = spectrogram(torch.bfloat16)
    with CudaAutocastToFloat32():
        expected = theirs(mel.float()).bfloat16()
    assert torch.equal(ours(mel), expected)


@torch.no_grad()
def test_float32_weights_know_no_other_pass() -> None:
    theirs, ours = pair(nested(), torch.float32, ReleaseBehaviours(vocoder_fp32=True))
    assert torch.equal(ours(spectrogram(torch.float32)), theirs(spectrogram(torch.float32)))


def test_fresh_filters_are_the_official_ones_and_every_key_is_stored() -> None:
    theirs = official().VocoderConfigurator.from_config({"vocoder": nested()}).state_dict()
    ours = vocoder_from_config(nested(), ReleaseBehaviours()).state_dict()
    assert list(ours) == list(theirs)
    filters = [name for name in ours if name.endswith("filter")]
    assert len(filters) == 2 * 2 * (2 * 2 * 6 + 1)  # generators, directions, stages x blocks x activations, final
    for name in filters:
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_whatever_defaults_a_filter_was_first_asked_for_under_its_bits_are_the_official_ones(
    dtype: torch.dtype,
) -> None:
    theirs = official().VocoderConfigurator.from_config({"vocoder": nested()}).state_dict()
    [wanted] = {tuple(value.flatten().tolist()) for name, value in theirs.items() if name.endswith("filter")}
    antialiased_activation.kaiser_sinc_taps.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            assert antialiased_activation.kaiser_sinc_filter().is_meta
    finally:
        torch.set_default_dtype(torch.float32)
    assert tuple(antialiased_activation.kaiser_sinc_filter().flatten().tolist()) == wanted


def test_a_module_built_on_the_meta_device_has_a_real_resampling_filter() -> None:
    with torch.device("meta"):
        ours = vocoder_from_config(nested(), ReleaseBehaviours())
        assert resample(torch.ones(1, 2, 5, device="cpu"), 3).device.type == "cpu"
    assert all(tensor.is_meta for tensor in ours.state_dict().values())


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_resampling_keeps_a_constant_and_a_slow_sine(ratio: int) -> None:
    constant = resample(torch.full((2, 3, 30), 0.5), ratio)
    assert constant.shape == (2, 3, 30 * ratio)
    torch.testing.assert_close(constant, torch.full_like(constant, 0.5), rtol=0, atol=2e-3)
    slow = torch.sin(torch.arange(100.0) * 0.3)[None, None]
    wanted = torch.sin(torch.arange(100.0 * ratio) / ratio * 0.3)[None, None]
    middle = slice(10 * ratio, 90 * ratio)
    torch.testing.assert_close(resample(slow, ratio)[..., middle], wanted[..., middle], rtol=0, atol=5e-3)


@torch.no_grad()
def test_samples_for_each_frame_and_the_range_of_the_released_rates() -> None:
    theirs, ours = pair(nested(), torch.float32, ReleaseBehaviours())
    loud = 40 * spectrogram(torch.float32)
    waveform = ours(loud)
    assert torch.equal(waveform, theirs(loud))  # the vocoder's own limit, too, shapes what the extension hears
    assert waveform.shape == (3, 2, 7 * 6 * 3)  # 42 samples are padded to 45 and cut back
    assert waveform.abs().max() == 1.0


@pytest.mark.parametrize("shape", [(1, 1, 5, 64), (1, 2, 5, 63), (2, 5, 64)])
def test_a_spectrogram_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(B, 2, T, 64\); got \(" + str(shape[0])):
        vocoder_from_config(flat(), ReleaseBehaviours())(torch.zeros(shape))
