"""ComfyUI, an engine of nodes that runs LTX-2.3, observed from outside and never in this project's own process."""
