"""What is trained on: pictures, labels, captions and prompts, decoded, encoded once into a cache, and drawn in a fixed order."""
