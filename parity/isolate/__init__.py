"""The error that each part of a run adds by itself, fed the reference's own inputs."""
