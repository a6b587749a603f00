"""Encoders, one module each: `build_encoder` makes one, `check` refuses a wrong `model.encoder` block."""
