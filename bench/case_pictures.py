"""Make the two small pictures of the cases `tiny_two_pictures` and `release_1.2.0_tiny_two_pictures`.

    python bench/case_pictures.py

Both are cut from golden/pictures/astronaut.png (Eileen Collins, NASA, public domain, from scikit-image) and carry what
phones and editors leave in a file: one lies on its side and says so in EXIF, has colours under a see-through edge and
an ICC profile that is broken; the other has a profile that is whole and not sRGB's.
"""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms

from parity.trace.atomic import file_atomic

FOLDER = Path("golden/pictures")
SOURCE = FOLDER / "astronaut.png"
TURNED = 6  # EXIF: shown a quarter turn clockwise


def face() -> Image.Image:
    """Her face, 97 x 131 pixels when upright (odd, so that H.264 cuts a row and a column), opaque to clear."""
    upright = Image.open(SOURCE).crop((150, 10, 344, 272)).resize((97, 131), Image.Resampling.LANCZOS)
    down, across = np.mgrid[0:131, 0:97]
    alpha = np.clip(380 - 3 * down - across, 0, 255).astype(np.uint8)  # opaque above, clear at the lower right
    clear = Image.merge("RGBA", (*upright.split(), Image.fromarray(alpha)))
    return clear.transpose(Image.Transpose.ROTATE_90)  # counter-clockwise, which orientation 6 undoes


def shuttle() -> Image.Image:
    """The model of a shuttle behind her, 140 x 96 pixels."""
    return Image.open(SOURCE).crop((330, 90, 512, 215)).resize((140, 96), Image.Resampling.LANCZOS)


def linear_profile() -> bytes:
    """An ICC profile with the primaries of sRGB under D50, but a gamma of 1.0: linear light, as renderers write it."""
    xyz = {b"rXYZ": (0.4361, 0.2225, 0.0139), b"gXYZ": (0.3851, 0.7169, 0.0971), b"bXYZ": (0.1431, 0.0606, 0.7142)}
    xyz[b"wtpt"] = (0.9642, 1.0, 0.8249)
    tags = {name: b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values) for name, values in xyz.items()}
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)  # no entry: the identity
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    text = b"linear sRGB\0"
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(4 + 4 + 2 + 1 + 67)
    tags[b"cprt"] = b"text\0\0\0\0public domain\0"
    place = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", place + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = place + len(data)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += b"".join(_fixed(value) for value in (0.9642, 1.0, 0.8249)) + bytes(48)
    profile = header + table + data
    ImageCms.ImageCmsProfile(io.BytesIO(profile))  # raises where it is none
    return profile


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def main() -> None:
    """Write both pictures."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = TURNED
    with file_atomic(FOLDER / "face_on_its_side.png") as new:
        face().save(new, format="PNG", exif=exif, icc_profile=b"no profile")
    with file_atomic(FOLDER / "shuttle_linear.png") as new:
        shuttle().save(new, format="PNG", icc_profile=linear_profile())


if __name__ == "__main__":
    main()
