"""The pipeline of R1's stages as data: its configuration, references between stages, and manifests of what was done."""
