"""What a student does with a picture: SDEdit, inpainting, style transfer."""
