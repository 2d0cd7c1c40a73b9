"""Names and shapes of the audio VAE's encoder, which released files hold and text and image to video never reads.

Engines that load a whole audio VAE want it to be there; there is no native module to read its layout off.
Source: ltx_core.model.audio_vae.{audio_vae.AudioEncoder,downsample,resnet} 1.0.0.
"""

from itertools import pairwise
from typing import Final

from runners.forge.presets import Json

PREFIX: Final = "audio_vae.encoder."
KERNEL: Final = 3
Shapes = dict[str, tuple[int, ...]]


def audio_encoder_inventory(config: Json) -> Shapes:
    """Checkpoint name -> shape of every tensor of the encoder, statistics excepted, which it shares with the decoder.

    Args:
        config: of the whole checkpoint; its audio VAE norms pixels and attends nowhere, as LTX-2.3's does.
    """
    sizes = config["audio_vae"]["model"]["params"]["ddconfig"]
    widths = [sizes["ch"] * multiplier for multiplier in sizes["ch_mult"]]
    found = _convolution("conv_in", sizes["in_channels"], sizes["ch"])
    for level, (before, width) in enumerate(pairwise([sizes["ch"], *widths])):
        for block in range(sizes["num_res_blocks"]):
            found |= _residual_block(f"down.{level}.block.{block}", width if block else before, width)
        if level < len(widths) - 1:  # its convolution is a plain one, without the wrapper that pads causally
            found |= _tensors(f"down.{level}.downsample.conv", width, width, KERNEL)
    for block in (1, 2):
        found |= _residual_block(f"mid.block_{block}", widths[-1], widths[-1])
    found |= _convolution("conv_out", widths[-1], sizes["z_channels"] * (2 if sizes["double_z"] else 1))
    return {PREFIX + name: shape for name, shape in found.items()}


def _residual_block(name: str, before: int, after: int) -> Shapes:
    found = _convolution(f"{name}.conv1", before, after) | _convolution(f"{name}.conv2", after, after)
    return found if before == after else found | _convolution(f"{name}.nin_shortcut", before, after, kernel=1)


def _convolution(name: str, before: int, after: int, kernel: int = KERNEL) -> Shapes:
    return _tensors(f"{name}.conv", before, after, kernel)


def _tensors(name: str, before: int, after: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (after, before, kernel, kernel), f"{name}.bias": (after,)}
