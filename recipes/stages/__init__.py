"""The data side of R1's stages: corpus files, filters, duplicates, decontamination, judges, selection."""
