"""The paper: human-parsing-guided attention diffusion."""
