"""Replays thirteen years of real stock prices, and what three simple agents make of them."""
