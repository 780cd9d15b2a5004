"""What a run will cost, before it runs: parameters, FLOPs, minutes. No torch at import."""
