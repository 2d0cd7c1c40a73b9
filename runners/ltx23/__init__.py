"""The native LTX-2.3, one idea a file."""
