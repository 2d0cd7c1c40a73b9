"""Reduced outputs against reduced outputs: key frames in full, all frames small, all frames' hashes for bit equality.

Axes: F frame, H height, W width.
"""

from dataclasses import replace

import torch

from parity.diff import frames
from parity.diff.frames import FramesDiff
from parity.diff.outputs import OutputsDiff, with_frames
from parity.runs.reduced import ReducedOutputs

_SMALL = "small_"


def compare_reduced(reference: ReducedOutputs, candidate: ReducedOutputs) -> OutputsDiff:
    """Compare outputs that `parity.runs.reduced.reduce_outputs` made of two runs' outputs.

    Returns: an OutputsDiff. `frames.` metrics are of the key frames, `small_frames.` and the frame lag of small copies
        of all frames. Where clips differ in count or size, both are `nan` and a finding says why.
    """
    findings = frames.shape_findings(reference.frame_shape, candidate.frame_shape)
    if findings:
        key = small = FramesDiff(
            count_difference=candidate.frame_shape[0] - reference.frame_shape[0], bit_equal=False, findings=findings
        )
    else:
        key = frames.compare(reference.key_frames, candidate.key_frames)
        small = frames.compare(reference.small_frames, candidate.small_frames)
        small = replace(
            small,
            bit_equal=torch.equal(reference.frame_sha256, candidate.frame_sha256),
            findings=(*key.findings, *small.findings),
        )
    count = "frames.count.difference"
    # Key frames lie far apart, so their flicker would be none.
    metrics = {name: value for name, value in key.summary().items() if not name.startswith("frames.flicker.")}
    metrics |= {_SMALL + name: value for name, value in small.summary().items() if name != count}
    metrics[count] = small.summary()[count]
    return with_frames(small, metrics, reference, candidate)
