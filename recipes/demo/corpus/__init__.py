"""Conversations in our own words, made by rule from a seed: one file per kind of talk."""
