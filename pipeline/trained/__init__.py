"""What trained networks are used for: predictions on new images, exported programs, figures of what they see."""
