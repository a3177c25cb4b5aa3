"""What a method may need to know of a whole tensor, or a whole model, before it can combine."""
