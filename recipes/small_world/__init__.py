"""The small world of `make r1`: a model, problems, traces and preferences that are made here, in minutes, on a CPU."""
