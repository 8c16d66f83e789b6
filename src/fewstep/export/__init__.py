"""What a student is taken away as: a diffusers folder with its model card, a LoRA file, ONNX, a hub repository."""
