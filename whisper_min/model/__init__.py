"""Weights in, from any layout; the forward pass that training and decoding share."""
