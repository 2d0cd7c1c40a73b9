"""The native LTX-2.3 behind the runner protocol."""
