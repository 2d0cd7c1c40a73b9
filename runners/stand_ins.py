"""Stand-ins for compiled parts of libraries that want CUDA's libraries, and so cannot be loaded without.

The package index has torchaudio and torchvision built for CUDA only. What engines use of them on a CPU is written in
Python; an empty module takes the place of the part that is not.
"""

import sys
import types
from typing import Any


def without_compiled_torchaudio() -> None:
    """Make torchaudio importable without its extension; call before anything imports it."""
    if "torchaudio" in sys.modules:
        return
    extension = types.ModuleType("torchaudio._extension")

    def passed_through(function: Any) -> Any:
        return function

    for name in ("fail_if_no_align", "fail_if_no_rir"):
        setattr(extension, name, passed_through)
    for name in ("_IS_TORCHAUDIO_EXT_AVAILABLE", "_IS_RIR_AVAILABLE", "_IS_ALIGN_AVAILABLE"):
        setattr(extension, name, False)
    sys.modules.setdefault("torchaudio._extension", extension)


def without_compiled_torchvision() -> None:
    """Make torchvision importable without its operators; call before anything imports it."""
    if "torchvision" not in sys.modules:
        name = "torchvision._meta_registrations"
        sys.modules.setdefault(name, types.ModuleType(name))
