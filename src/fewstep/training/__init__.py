"""Settings and recipes, the losses of each stage, the one training loop, run folders, and what a run will cost."""
