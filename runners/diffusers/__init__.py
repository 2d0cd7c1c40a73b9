"""The port that diffusers has, observed from outside."""
