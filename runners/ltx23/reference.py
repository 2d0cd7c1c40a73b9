"""Which official release is the truth: what differs between releases, as named behaviours in one frozen configuration.

The official LTX-2 repository changed the numbers of LTX-2.3 several times. A release is a preset of these switches,
and the model reads the switches, never a version. False is always the behaviour of 1.0.0 (packages `ltx-core` and
`ltx-pipelines` 1.0.0, repository commits 9e8a28e to ae855f8).
"""

from dataclasses import dataclass, fields, replace

from runners.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The behaviours by which official releases differ; each comment says since when and what it touches."""

    vocoder_fp32: bool = False  # 1.1.2: vocoder and bandwidth extension in fp32, the result cast back
    keyframe_spans_one_frame: bool = False  # 1.1.2: an appended single-image keyframe lasts 1 pixel frame, not 8
    negative_disables_skipped_modality: bool = False  # 1.1.2: the negative pass, too, disables a skipped modality
    positions_fp32: bool = False  # 1.2.0: target video positions stay fp32 instead of the model's dtype
    cross_timestep_per_token: bool = False  # 1.2.0: cross-modal scale and shift use the stream's own timesteps
    guidance_fp32: bool = False  # 1.2.0: guided combination in fp32, then cast
    noise_lerp_fp32: bool = False  # 1.2.0: initial noising by an fp32 lerp, image only in the clean latent
    decoder_chunked: bool = False  # 1.2.0: video decoder in place, in temporal chunks, channels-last
    decode_auto_tiled: bool = False  # 1.2.0: decode tiled above 80 frames or 768 px


RELEASES: dict[str, Reference] = {"1.0.0": Reference()}


def reference_of(release: str, overrides: dict[str, bool] | None = None) -> Reference:
    """The behaviours of an official release, with single ones overridden.

    Raises: ConfigError for a release or a behaviour that is not known, or a value that is not true or false.
    """
    if release not in RELEASES:
        raise ConfigError(f"Unknown reference release {release!r}; known are {', '.join(RELEASES)}.")
    known = {field.name for field in fields(Reference)}
    unknown = sorted(set(overrides or {}) - known)
    if unknown:
        raise ConfigError(f"Unknown reference behaviour {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    wrong = [f"{name} = {value!r}" for name, value in (overrides or {}).items() if not isinstance(value, bool)]
    if wrong:
        raise ConfigError(f"A reference behaviour is true or false; got {', '.join(wrong)}.")
    return replace(RELEASES[release], **(overrides or {}))
